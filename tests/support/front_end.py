"""Plays the browser for a ``DragCanvas``: sends its messages, counts and reads the answers."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager

import ipywidgets
from ipycanvas.canvas import _CANVAS_MANAGER, _CMD_LIST
from PIL import Image

# Of the image that a hand draws on: shown four times as large, 8 canvas pixels to an image pixel.
WIDTH, HEIGHT = 128, 96


def send(widget, **content):
    """A message as the front end sends it."""
    data = {"method": "custom", "content": content}
    widget._handle_msg({"content": {"data": data}, "buffers": []})


OURS = {"mouse_down": "press", "mouse_move": "move", "mouse_up": "release"}


class Page:
    """One page that shows a canvas; points are in image pixels unless they say otherwise.

    ``has_script``: whether our script is at work there, or else ipycanvas alone.
    """

    def __init__(self, canvas, is_ready=True, has_script=True):
        self.canvas = canvas
        self.has_script = has_script
        if is_ready:
            self.load()

    def load(self):
        """The page is loaded, or loaded again: its canvas is empty."""
        send(self.canvas.scene.multi[-1], event="client_ready")
        if self.has_script:
            self.tell(event="ready")

    def tell(self, **content):
        """A message of our script."""
        send(self.canvas._script, **content)

    def event(self, name, x, y):
        """A mouse's event at a canvas point, by ipycanvas' name of it."""
        if self.has_script:
            more = {"touch": False} if name == "mouse_down" else {}
            self.tell(event=OURS[name], x=float(x), y=float(y), **more)
        else:
            send(self.canvas.scene.multi, event=name, x=float(x), y=float(y))

    def at(self, name, xy):
        self.event(name, *self.canvas.viewport.to_canvas(xy))

    def press(self, xy):
        self.at("mouse_down", xy)

    def move(self, *points):
        for xy in points:
            self.at("mouse_move", xy)

    def release(self, xy):
        self.at("mouse_up", xy)

    def drag(self, *points):
        self.press(points[0])
        self.move(*points[1:])
        self.release(points[-1])

    def click(self, xy):
        self.drag(xy)

    def touch(self, name, *points):
        touches = [
            dict(zip("xy", self.canvas.viewport.to_canvas(xy), strict=True)) for xy in points
        ]
        send(self.canvas.scene.multi, event=name, touches=touches)

    def sends_back(self, colour):
        """The page sends back the pixel of the canvas that is drawn on last, in this colour."""
        png = io.BytesIO()
        Image.new("RGBA", (1, 1), colour).save(png, "png")
        state = {"image_data": None}
        message = {"method": "update", "state": state, "buffer_paths": [["image_data"]]}
        canvas = self.canvas.scene._masks.canvas
        buffers = [memoryview(png.getvalue())]
        canvas._handle_msg({"content": {"data": message}, "buffers": buffers})

    def key(self, key, shift=False, ctrl=False, meta=False):
        if self.has_script:
            self.tell(event="key", key=key, shift=shift, command=ctrl or meta)
            return
        send(
            self.canvas.scene.multi,
            event="key_down", key=key, shift_key=shift, ctrl_key=ctrl, meta_key=meta,
        )  # fmt: skip


@contextmanager
def messages():
    """Counts all messages to the front end that are sent inside, and reads what they draw.

    Yields a list of one entry per message: ``None``, or the drawing's (command, arguments) list.
    """
    sent = []
    original = ipywidgets.Widget._send

    def counted(self, msg, buffers=None):
        is_drawing = self is _CANVAS_MANAGER and msg.get("method") == "custom"
        sent.append(read_drawing(buffers) if is_drawing else None)
        return original(self, msg, buffers)

    ipywidgets.Widget._send = counted
    try:
        yield sent
    finally:
        ipywidgets.Widget._send = original


def read_drawing(buffers):
    """(command, arguments) of a drawing message."""
    commands = json.loads(bytes(buffers[0]))
    if not isinstance(commands[0], list):
        commands = [commands]
    return [(_CMD_LIST[command[0]], command[1] if len(command) > 1 else []) for command in commands]


def drawings(sent):
    """The drawing messages among those that were sent."""
    return [entry for entry in sent if entry is not None]
