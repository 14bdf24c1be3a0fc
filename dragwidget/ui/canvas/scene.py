"""Paint a sketch: four layers of one canvas, from state that is kept here.

From below: the image, the mask, the marks, the draft of the current gesture. The browser forgets
them when a page is loaded again, and a second page never had them, so each can be repainted at any
time. Until a front end is ready nothing is encoded and nothing is sent.

Points are in image pixels, as ``viewport`` turns them into canvas pixels while painting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import ipywidgets
from ipycanvas import Canvas, MultiCanvas
from ipycanvas.canvas import _CANVAS_MANAGER
from PIL import Image

from dragwidget.data.frames import XY, BoolArray
from dragwidget.ui.canvas.marks import Disc, Line, Marks, Polygon, Ring, Shape, Text, ToFrame
from dragwidget.ui.canvas.overlay import Overlay, colours, encode, shown_size
from dragwidget.ui.canvas.viewport import RATIO, Viewport
from dragwidget.ui.drawing import Layer, close_when_drawn, drawing

log = logging.getLogger(__name__)

PARTS = ("image", "mask", "marks", "draft")
SURE_HEIGHT = 480  # CSS pixels
WINDOW_SHARE = 80  # percent of the window's height: beside it stand menus and the tool's buttons
_ONE_PIXEL = encode(Image.new("RGB", (1, 1), "white"), lossless=True)


@dataclass
class MaskLook:
    """How a mask is shown; see ``overlay.Overlay``."""

    style: str = "darken"
    tint: str = "#ff2d87"
    opacity: float = 0.55


@dataclass
class LiveStroke:
    """A stroke before its release."""

    points: list[XY]
    size: float
    erase: bool


@dataclass
class Trace:
    """A freehand line before its release."""

    points: list[XY] = field(default_factory=list)


Draft = Callable[[ToFrame, float], Sequence[Shape]]  # (to canvas, unit) -> what to paint


class Scene:
    """Paints one canvas. The caller holds a lock; painting holds the global one."""

    def __init__(self, viewport: Viewport) -> None:
        self.viewport = viewport
        width, height = viewport.canvas
        self.multi = MultiCanvas(len(PARTS), width=width, height=height)
        self._layers = {name: Layer(self.multi[i]) for i, name in enumerate(PARTS)}
        # What is sent once and then drawn many times, at any zoom, is drawn from here.
        self._images = _Store()
        self._masks = _Store()
        self.is_live = False
        self.is_closed = False
        self.is_held = False
        self.image: Image.Image | None = None
        self.is_exact = True  # whether the image is to be sent without loss
        self.mask: BoolArray | None = None
        self.look = MaskLook()
        self.marks = Marks()
        self.draft: Draft | None = None
        self.trace: Trace | None = None
        self.stroke: LiveStroke | None = None
        self._dirty = set(PARTS)
        self._unsent = set(PARTS)  # what the widgets' state does not hold yet
        self._resize()

    @property
    def parts(self) -> dict[str, str]:
        """The ids of the models in the browser that hold what is painted here.

        image, mask: as they were sent, unscaled. marks: the layer. manager: what paints.
        """
        canvases = {"image": self._images.canvas, "mask": self._masks.canvas}
        canvases |= {"marks": self._layers["marks"].canvas, "manager": _CANVAS_MANAGER}
        return {name: str(canvas.model_id) for name, canvas in canvases.items()}

    def set_viewport(self, viewport: Viewport) -> None:
        if viewport == self.viewport:
            return
        resized = viewport.canvas != self.viewport.canvas
        self.viewport = viewport
        if resized:
            self._resize()
        self.touch("view", *PARTS[2:])

    def touch(self, *parts: str) -> None:
        """Mark parts to be repainted; "view": only the place of image and mask changed."""
        self._dirty.update(parts)
        self._unsent.update(parts)

    def set_marks(self, marks: Marks) -> None:
        if marks != self.marks:
            self.marks = marks
            self.touch("marks")

    def set_draft(self, draft: Draft | None) -> None:
        """Replace the draft, what the gesture shows until its release; ``None``: none."""
        if draft is not None or self.draft is not None or self.trace is not None:
            self.touch("draft")
        self.draft = draft
        self.trace = None

    def end_stroke(self) -> None:
        if self.stroke is not None:
            self.stroke = None
            self.touch("mask")

    def ready(self) -> None:
        """Repaint everything for a front end."""
        self.is_live = True
        self.touch(*PARTS)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Paint nothing inside; the next refresh afterwards paints all that has changed."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False

    def refresh(self) -> None:
        """Paint what changed, as one message."""
        if self.is_closed or self.is_held or not self._dirty:
            return
        # Filled before any page is ready, too: Voila reads the state of all widgets once, and what
        # changes from then until it has made them all is lost.
        # Computed first: one lock serves the process, and nothing under it may fail.
        if "image" in self._unsent and self.image is not None:
            self._images.fill(*encode(self.image, lossless=self.is_exact))
        overlay = self._overlay() if "mask" in self._dirty else None
        if overlay is not None and "mask" in self._unsent:
            self._masks.fill("png", overlay.png())
        self._unsent.clear()
        if not self.is_live:
            return
        self._paint(set(self._dirty), overlay)
        self._dirty.clear()  # not before: what failed is to be painted next time

    def _paint(self, dirty: set[str], overlay: Overlay | None) -> None:
        with drawing():
            if "image" in dirty and self.image is not None:
                self._images.unpack(shown_size(self.image.size))
            if overlay is not None:
                self._masks.unpack(overlay.size)
            if dirty & {"image", "view"}:
                self._paint_image()
            if dirty & {"mask", "view"}:
                self._paint_mask()
            if "marks" in dirty:
                layer = self._layers["marks"]
                layer.clear()
                view = self.viewport
                paint(layer, self.marks.shapes(view.to_canvas, RATIO, view.canvas))
            if "draft" in dirty:
                self._paint_draft()

    def close(self) -> None:
        """Draw no more, free the images, and let the canvases close when nothing is on its way."""
        self.is_closed = True
        stores = (self._images, self._masks)
        for store in stores:
            store.fill(*_ONE_PIXEL)
            store.canvas.width = store.canvas.height = 1
        self.multi.width = self.multi.height = 1
        self.image = self.mask = None
        if self.is_live:
            last = self._masks.canvas
            drawn = [part for store in stores for part in (store.canvas, store.image)]
            close_when_drawn(last, [self.multi, *self.multi._canvases, *drawn])

    # ------------------------------------------------------------ layers

    def _resize(self) -> None:
        width, height = self.viewport.canvas
        multi = self.multi
        if (multi.width, multi.height) != (width, height):
            multi.width, multi.height = width, height
        # No border and no padding: they would shift ipycanvas' coordinates. The height follows the
        # width.
        layout = multi.layout
        layout.width, layout.max_width, layout.height = _css_width(width, height), "100%", "auto"
        layout.align_self, layout.flex = "flex-start", "0 0 auto"
        self.touch(*PARTS)

    @property
    def _area(self) -> tuple[XY, XY]:
        """Place of the image: top left corner and size, canvas pixels."""
        scale = self.viewport.scale
        width, height = self.viewport.size
        return self.viewport.origin, (width * scale, height * scale)

    def _paint_image(self) -> None:
        layer = self._layers["image"]
        layer.clear()
        if self.image is not None:
            corner, size = self._area
            # Whole blocks of canvas pixels stay sharp, anything else is smoothed.
            whole = (size[0] / self.image.width).is_integer()
            layer.image(self._images.canvas, corner, size, smooth=not whole)

    def _overlay(self) -> Overlay | None:
        if self.mask is None or self.look.style == "hidden":
            return None
        on_screen = max(self.viewport.size) * self.viewport.fitted
        look = self.look
        return Overlay(self.mask, look.style, look.tint, look.opacity, on_screen)

    def _paint_mask(self) -> None:
        layer = self._layers["mask"]
        layer.clear()
        corner, size = self._area
        if self.mask is not None and self.look.style != "hidden":
            layer.image(self._masks.canvas, corner, size)
        stroke = self.stroke
        if stroke is None:
            return
        fills_first = "darken" if not stroke.erase else "tint"
        if self.mask is None and self.look.style == fills_first:
            layer.rectangle(corner, size, self._fill)
        self._paint_stroke(stroke.points)

    @property
    def _fill(self) -> str:
        look = self.look
        style = "tint" if look.style == "hidden" else look.style
        return colours(style, look.tint, look.opacity)[0]

    def _paint_stroke(self, points: Sequence[XY]) -> None:
        """Paint a segment as the mask will show it: none darkens what another did."""
        assert self.stroke is not None
        layer = self._layers["mask"]
        canvas = layer.canvas
        width = max(self.stroke.size * self.viewport.scale, 1.0)
        at = [self.viewport.to_canvas(xy) for xy in points]
        style = self.look.style
        fills = style == "hidden" or self.stroke.erase == (style == "darken")
        canvas.save()
        canvas.begin_path()
        corner, size = self._area
        canvas.rect(float(corner[0]), float(corner[1]), float(size[0]), float(size[1]))
        canvas.clip()
        for blend, colour in (("destination-out", "#000000"), ("source-over", self._fill)):
            layer.blend(blend)
            if blend == "source-over" and not fills:
                break
            if len(at) == 1:
                layer.disc(at[0], width / 2, colour)
            else:
                layer.line(at, colour, width)
        canvas.restore()

    def _paint_draft(self) -> None:
        layer = self._layers["draft"]
        layer.clear()
        if self.draft is not None:
            paint(layer, self.draft(self.viewport.to_canvas, RATIO))
        if self.trace is not None:
            self._paint_trace(self.trace.points)

    def _paint_trace(self, points: Sequence[XY]) -> None:
        at = tuple(self.viewport.to_canvas(xy) for xy in points)
        if len(at) > 1:
            lines = [Line(at, "#16161acc", 3.5 * RATIO), Line(at, "#ffffff", 1.75 * RATIO)]
            paint(self._layers["draft"], lines)

    # ------------------------------------------------------------ during a stroke

    @property
    def _shows_strokes(self) -> bool:
        return self.is_live and not self.is_held

    def begin_stroke(self, xy: XY, size: float, erase: bool) -> None:
        """Begin a stroke that the mask layer shows live."""
        self.stroke = LiveStroke([xy], size, erase)
        if not self._shows_strokes:
            return
        with drawing():
            if self.mask is None:
                self._paint_mask()
            else:
                self._paint_stroke([xy])

    def extend_stroke(self, xy: XY) -> None:
        if self.stroke is None:
            return
        self.stroke.points.append(xy)
        if self._shows_strokes:
            with drawing():
                self._paint_stroke(self.stroke.points[-2:])

    def begin_trace(self, xy: XY) -> None:
        self.trace = Trace([xy])

    def extend_trace(self, xy: XY) -> None:
        if self.trace is None:
            return
        self.trace.points.append(xy)
        if self._shows_strokes:
            with drawing():
                self._paint_trace(self.trace.points[-2:])


def _css_width(width: int, height: int) -> str:
    """Return the CSS width of a canvas of this size, canvas pixels: no taller than the window.

    At least ``SURE_HEIGHT`` tall, though: in some places the window is a frame that itself grows
    with what is in it.
    """
    css = f"{width / RATIO:g}px"
    if height / RATIO <= SURE_HEIGHT:
        return css
    return f"min({css}, max({WINDOW_SHARE:g}vh, {SURE_HEIGHT}px) * {width / height:.5f})"


class _Store:
    """An image in the browser: sent as a file, unpacked to a canvas that is never displayed."""

    def __init__(self) -> None:
        self.image = ipywidgets.Image(value=_ONE_PIXEL[1], format=_ONE_PIXEL[0])
        self.canvas = Canvas(width=1, height=1)

    def fill(self, form: str, data: bytes) -> None:
        with self.image.hold_sync():
            self.image.format = form
            self.image.value = data

    def unpack(self, size: tuple[int, int]) -> None:
        if (self.canvas.width, self.canvas.height) != size:
            with self.canvas.hold_sync():
                self.canvas.width, self.canvas.height = size
        layer = Layer(self.canvas)
        layer.clear()
        layer.image(self.image, (0, 0), size)


def paint(layer: Layer, shapes: Sequence[Shape]) -> None:
    """Paint shapes, whose points are in canvas pixels."""
    for shape in shapes:
        match shape:
            case Disc(centre, radius, fill):
                layer.disc(centre, radius, fill)
            case Ring(centre, radius, colour, width):
                layer.ring(centre, radius, colour, width)
            case Line(points, colour, width, dash):
                layer.line(points, colour, width, dash)
            case Polygon(points, fill):
                layer.polygon(points, fill)
            case Text(text, centre, colour, pixels):
                layer.text(text, centre, colour, pixels)
