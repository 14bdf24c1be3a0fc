"""Draw on ipycanvas safely: ``drawing()`` around everything, ``Layer`` for everything.

ipycanvas collects the commands of all canvases of the process in one place, without a lock; its own
``hold_canvas`` does not give back after an exception, and its front end stops for good at the first
command that it cannot carry out. So here one lock guards all drawing, what fails half way is thrown
away whole, every message names its canvas, and only plain floats are sent.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from ipycanvas import Canvas
from ipycanvas.canvas import _CANVAS_MANAGER
from PIL import Image

from dragwidget.data.frames import XY
from dragwidget.ui.closing import close_later

Source: TypeAlias = Any  # an ipywidgets.Image or an ipycanvas.Canvas

# Long: a page that is slow and closed too early draws nothing any more.
CLOSE_SECONDS = 60.0
_LAST_COLOUR = 0x5AC3F1  # of nothing else that is drawn

_lock = threading.RLock()  # of the process, as the manager is one for the process
_depth = 0


@contextmanager
def drawing() -> Iterator[None]:
    """Send all drawing inside as one message; after an exception, send nothing.

    May be nested, then the outermost one sends. Compute first and draw then: other threads wait.
    """
    global _depth
    with _lock:
        manager = _CANVAS_MANAGER
        if _depth == 0:
            caching = manager._caching
            manager._caching = True
            # After a page is loaded again the front end no longer knows which canvas is drawn on
            # (ipycanvas issue 322), so every message names it again.
            manager._current_canvas = None
        _depth += 1
        try:
            yield
            if _depth == 1:
                manager.flush()
        finally:
            _depth -= 1
            if _depth == 0:
                manager._commands_cache = []
                manager._buffers_cache = []
                manager._current_canvas = None
                manager._caching = caching


def close_when_drawn(last: Canvas, widgets: Sequence[Any]) -> None:
    """Close canvases and images once a front end has drawn all commands that were sent.

    A command that reaches a canvas which is closed stops the front end's drawing for good, on every
    canvas of the page. A page that is gone never says that it has drawn; so they are closed after
    ``CLOSE_SECONDS`` in any case.

    Args:
        last: one of the widgets, a canvas that nothing draws on any more.
    """
    if sys.is_finalizing():  # the kernel ends, and the page with it
        return
    close = close_later(widgets)
    timer = threading.Timer(CLOSE_SECONDS, close)
    timer.daemon = True

    def answered(change: dict[str, Any]) -> None:
        if first_pixel(change["new"]) == _LAST_COLOUR:
            timer.cancel()
            close()

    last.observe(answered, "image_data")
    # The page sends the image back at once, before it draws what is on its way, and after all
    # commands that draw on this canvas: only the last one's colour says that nothing follows.
    last.sync_image_data = True
    with drawing():
        Layer(last).rectangle((0, 0), (1, 1), f"#{_LAST_COLOUR:06x}")
    timer.start()


def first_pixel(png: bytes | None) -> int | None:
    """Return the colour of an image's first pixel as a number; ``None`` for anything else."""
    try:
        with Image.open(io.BytesIO(png or b"")) as image:
            pixels = image.convert("RGB").tobytes()
    except (OSError, ValueError):
        return None
    return int.from_bytes(pixels[:3], "big")


class Layer:
    """One canvas, drawn on in canvas pixels; use it inside ``drawing()``."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas

    def clear(self) -> None:
        self.canvas.clear()

    def image(self, source: Source, xy: XY, size: XY, smooth: bool = True) -> None:
        """Draw an image scaled to ``size``. An ``ipywidgets.Image`` must hold a valid image: the
        front end waits for it for ever."""
        if "image_smoothing_enabled" in Canvas.ATTRS:  # since ipycanvas 0.14
            self.canvas.image_smoothing_enabled = smooth
        self.canvas.draw_image(source, float(xy[0]), float(xy[1]), float(size[0]), float(size[1]))

    def blend(self, operation: str) -> None:
        """Set the blend mode of what is drawn next, by its name in HTML."""
        self.canvas.global_composite_operation = operation

    def rectangle(self, xy: XY, size: XY, fill: str) -> None:
        self.canvas.fill_style = fill
        self.canvas.fill_rect(float(xy[0]), float(xy[1]), float(size[0]), float(size[1]))

    def disc(self, centre: XY, radius: float, fill: str) -> None:
        self.canvas.fill_style = fill
        self.canvas.fill_circle(float(centre[0]), float(centre[1]), float(radius))

    def ring(self, centre: XY, radius: float, colour: str, width: float) -> None:
        self.canvas.stroke_style = colour
        self.canvas.line_width = float(width)
        self.canvas.stroke_circle(float(centre[0]), float(centre[1]), float(radius))

    def line(self, points: Sequence[XY], colour: str, width: float, dash: float = 0.0) -> None:
        """Draw a polyline of at least two points, round caps; ``dash``: canvas pixels."""
        canvas = self.canvas
        canvas.stroke_style = colour
        canvas.line_width = float(width)
        canvas.line_cap = canvas.line_join = "round"
        if dash:
            canvas.set_line_dash([float(dash), float(dash)])
        if len(points) == 2:
            (x0, y0), (x1, y1) = points
            canvas.stroke_line(float(x0), float(y0), float(x1), float(y1))
        else:
            canvas.stroke_lines(np.array(points, dtype=np.float32))
        if dash:
            canvas.set_line_dash([])

    def polygon(self, points: Sequence[XY], fill: str) -> None:
        self.canvas.fill_style = fill
        self.canvas.fill_polygon(np.array(points, dtype=np.float32))

    def text(self, text: str, centre: XY, colour: str, pixels: float) -> None:
        self.canvas.font = f"bold {float(pixels):g}px sans-serif"
        self.canvas.text_align = "center"
        self.canvas.text_baseline = "middle"
        self.canvas.fill_style = colour
        self.canvas.fill_text(text, float(centre[0]), float(centre[1]))
