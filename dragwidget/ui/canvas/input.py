"""Dispatch the front end's messages to pointer and keys.

Where our script is at work (``canvas.js``) its messages are all that comes; elsewhere those of
ipycanvas, which say less: no button, nothing from outside the canvas, every turn of the wheel.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dragwidget.data.frames import XY, Size
from dragwidget.ui.canvas import ink, keys
from dragwidget.ui.canvas.guard import Guard
from dragwidget.ui.canvas.pointer import PointerController
from dragwidget.ui.canvas.scene import Scene
from dragwidget.ui.canvas.tools import TOOLS
from dragwidget.ui.canvas.viewport import Viewport

log = logging.getLogger(__name__)

Touches = list[tuple[float, float]]
WHEEL_STEP = 0.002  # zoom per pixel that a wheel turns, as a power of e


class InputHost(keys.KeyHost, Protocol):
    """What the input needs of the canvas."""

    last_error: str
    shows_source: bool

    @property
    def scene(self) -> Scene: ...
    @property
    def viewport(self) -> Viewport: ...
    @property
    def size(self) -> Size | None: ...
    @property
    def has_keys(self) -> bool: ...
    @property
    def image_number(self) -> int: ...

    def show_viewport(self, viewport: Viewport) -> None: ...
    def script_is_ready(self) -> None: ...
    def tell_image(self, file: bytes) -> None: ...


class CanvasInput:
    """Takes the events of one canvas; points are canvas points. The handlers do not raise.

    Args:
        script: our script, see ``script.make_script``; ``None`` where there is none.
    """

    def __init__(
        self, host: InputHost, pointer: PointerController, guard: Guard, script: Any | None
    ) -> None:
        self._host, self._pointer, self._guard, self._script = host, pointer, guard, script
        self._mouse: XY = (0.0, 0.0)  # where ipycanvas' mouse was last
        self.answered: dict[str, int] = {}  # by page, the number of its last message
        self._listen()

    def close(self) -> None:
        """Listen no more."""
        self._listen(remove=True)

    def _listen(self, remove: bool = False) -> None:
        if self._script is not None:
            self._script.on_msg(self.on_script, remove)
        multi = self._host.scene.multi
        multi.on_client_ready(self.on_ready, remove)
        for name in (
            "mouse_down", "mouse_move", "mouse_up", "mouse_out", "mouse_wheel",
            "touch_start", "touch_move", "touch_end", "touch_cancel", "key_down",
        ):  # fmt: skip
            register = getattr(multi, f"on_{name}", None)  # ipycanvas 0.13 knows no wheel
            if register is not None:
                register(getattr(self, f"on_{name}"), remove)

    def on_ready(self) -> None:
        """Paint everything for a front end whose canvas is empty."""
        self._guard(self._show_again)

    def _show_again(self) -> None:
        self._host.scene.ready()
        self._host.scene.refresh()

    # ------------------------------------------------------------ our script

    def on_script(self, _: Any, content: Any, buffers: Sequence[Any]) -> None:
        """Take a message of our script; the next state says that one with a number is in it."""
        match content:
            case {"view": str(view), "n": int(number)}:
                self.answered.pop(view, None)
                self.answered[view] = number
                while len(self.answered) > ink.VIEWS:
                    del self.answered[next(iter(self.answered))]
        self._guard(self._take_message, content, buffers)

    def _take_message(self, content: Any, buffers: Sequence[Any]) -> None:
        pointer = self._pointer
        match content:
            case {"event": "ready"}:
                self._host.script_is_ready()
            case {"event": "gesture"}:
                self._replay(content, buffers)
            case {"event": "tool", "tool": tool} if tool in TOOLS:
                self._host.tool = tool
            case {"event": "image", "name": name, "size": size}:
                self._take_image(name, size, buffers)
            case {"event": "source", "on": on}:
                self._host.shows_source = bool(on)
            case {"event": "press", "x": x, "y": y, "touch": touch}:
                self._press((x, y), bool(touch))
            case {"event": "move", "x": x, "y": y}:
                pointer.move((x, y))
            case {"event": "release", "x": x, "y": y}:
                pointer.release((x, y))
            case {"event": "cancel"}:
                pointer.abandon()
            case {"event": "second", "x": x, "y": y}:
                pointer.second((x, y))
            case {"event": "zoom", "x": x, "y": y, "dy": dy}:
                self._wheel((x, y), dy)
            case {"event": "key", "key": key, "shift": shift, "command": command}:
                self._press_key(key, shift, command)
            case _:
                self._refuse(f"the canvas knows no message {content!r:.200}")

    def _take_image(self, name: object, size: object, buffers: Sequence[Any]) -> None:
        if not buffers:
            self._refuse(
                f"{name!s:.80} has {size} bytes, more than a page can send to the kernel at once: "
                "copy it to where the kernel runs, and open it by its path"
            )
        else:
            self._host.tell_image(bytes(buffers[0]))

    def _refuse(self, why: str) -> None:
        """Tell of a message that cannot be meant; what is half drawn stays."""
        log.error("refused a message of the page: %s", why)
        self._host.last_error = f"ValueError: {why}"

    def _replay(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        try:
            drawn = ink.read_gesture(content, buffers)
        except ValueError as error:
            self._refuse(str(error))
            return
        self._wake()
        # What was drawn on an image that is no longer shown went with it.
        if self._host.size is not None and drawn.image == self._host.image_number:
            self._host.last_error = ""
            ink.replay(self._pointer, drawn)

    def _wake(self) -> None:
        if not self._host.scene.is_live:  # this page was ready before anybody listened
            self._show_again()

    def _press(self, xy: XY, is_touch: bool, is_known: bool = True) -> None:
        self._wake()
        if self._host.size is not None:
            self._host.last_error = ""
            self._pointer.press(xy, is_touch, is_known)

    def _wheel(self, xy: XY, dy: float) -> None:
        view = self._host.viewport
        turn = min(max(float(dy), -200.0), 200.0)
        zoom = view.zoom * math.exp(-turn * WHEEL_STEP)
        self._host.show_viewport(view.zoomed_at(zoom, view.clamped(xy)))

    def _press_key(self, key: str, shift: bool, command: bool) -> None:
        if self._host.has_keys and self._host.size is not None:
            keys.press_key(self._host, key, shift, command)

    # ------------------------------------------------------------ ipycanvas: a mouse, and a pen

    def on_mouse_down(self, x: float, y: float) -> None:
        self._guard(self._press, (x, y), False, False)  # of whatever button

    def on_mouse_move(self, x: float, y: float) -> None:
        self._mouse = (x, y)
        if self._pointer.gesture is not None:
            self._guard(self._pointer.move, (x, y))

    def on_mouse_up(self, x: float, y: float) -> None:
        self._guard(self._pointer.release, (x, y))

    def on_mouse_out(self, x: float, y: float) -> None:
        """End the gesture: ipycanvas sends no release outside the canvas."""
        self._guard(self._pointer.release, (x, y))

    def on_mouse_wheel(self, _: float, dy: float) -> None:
        """Zoom: the page does not scroll over ipycanvas' canvas."""
        self._guard(self._wheel, self._mouse, dy)

    # ------------------------------------------------------------ ipycanvas: fingers

    def on_touch_start(self, touches: Touches) -> None:
        if len(touches) == 1:
            self._guard(self._press, touches[0], True)
        elif touches:
            self._guard(self._pointer.second, touches[1])

    def on_touch_move(self, touches: Touches) -> None:
        if touches and self._pointer.gesture is not None:
            self._guard(self._move_fingers, touches)

    def _move_fingers(self, touches: Touches) -> None:
        self._pointer.move(touches[0])
        if len(touches) > 1:
            self._pointer.second(touches[1])

    def on_touch_end(self, _: Touches) -> None:
        """End the gesture at its last point: only the fingers that stay are reported."""
        self._guard(self._pointer.release)

    def on_touch_cancel(self, _: Touches) -> None:
        """Cancel the gesture: the system took the touch away (a palm, another app)."""
        self._guard(self._pointer.abandon)

    # ------------------------------------------------------------ ipycanvas: keys

    def on_key_down(self, key: str, shift: bool, ctrl: bool, meta: bool) -> None:
        self._guard(self._press_key, key, shift, ctrl or meta)
