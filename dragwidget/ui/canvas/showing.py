"""What a ``DragCanvas`` shows: the image, what a run lays over it, and a plain image of it all.

What is laid over is never part of undo nor of the instructions.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from PIL import Image, ImageDraw

from dragwidget.data.frames import XY, Size
from dragwidget.data.image import SourceImage, source_image
from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.caption import describe
from dragwidget.ui.canvas.events import Guarded
from dragwidget.ui.canvas.gestures import Hand
from dragwidget.ui.canvas.marks import Marks
from dragwidget.ui.canvas.overlay import SHOWN_SIDE
from dragwidget.ui.canvas.scene import Scene
from dragwidget.ui.canvas.sketch import Sketch
from dragwidget.ui.canvas.snapshot import compose
from dragwidget.ui.canvas.throttle import Throttle
from dragwidget.ui.canvas.viewport import Viewport
from dragwidget.ui.still import StillImage

PREVIEW_INTERVAL = 0.1  # seconds between updates of what is laid over
EMPTY_SIZE = (512, 384)


def read_source(image: Any) -> SourceImage:
    """An image at its full size, and reduced to what a browser gets."""
    return source_image(image, multiple=1, max_side=SHOWN_SIDE)


class Showing(Guarded, StillImage):
    """The part of ``DragCanvas`` that shows."""

    _lock: threading.RLock
    _source: SourceImage | None
    _sketch: Sketch | None
    _hand: Hand
    scene: Scene
    pairs: Any
    selected: Any
    zoom: Any

    def _start_showing(self) -> None:
        self._preview: Image.Image | None = None
        self._tracked: tuple[XY, ...] = ()
        self._trails: tuple[tuple[XY, ...], ...] = ()
        self._throttle = Throttle(
            partial(self.guarded, self._show_laid_over),
            PREVIEW_INTERVAL,
            settled=partial(self.guarded, self._show_exact),
        )

    @property
    def viewport(self) -> Viewport:
        """How the image is shown now: between image pixels and canvas pixels."""
        return self.scene.viewport

    def show_viewport(self, viewport: Viewport) -> None:
        """Show another part of the image."""
        with self._lock:
            self.scene.set_viewport(viewport)
            self.zoom = viewport.zoom
            self.scene.refresh()

    # ------------------------------------------------------------ laid over, from any thread

    def show_image(self, image: Any) -> None:
        """Lay an image of any size over the source; ``None``: the source again.

        The latest wins, at most one per 0.1 s is shown. Safe from any thread.
        """
        if image is not None:
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            image = image.convert("RGB")
            if max(image.size) > SHOWN_SIDE:
                image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        self._preview = image
        self._throttle.ask()

    def show_tracks(self, handles: Sequence[XY], trails: Sequence[Sequence[XY]] = ()) -> None:
        """Mark where the handles are by now and the way they came, in image pixels.

        Throttled as ``show_image``. Safe from any thread.
        """
        tracked = tuple((float(x), float(y)) for x, y in handles)
        came = tuple(tuple((float(x), float(y)) for x, y in trail) for trail in trails)
        with self._lock:
            self._tracked, self._trails = tracked, came
        self._throttle.ask()

    def clear_tracks(self) -> None:
        """Take those marks away."""
        self.show_tracks((), ())

    def flush(self) -> None:
        """Show now what still waits to be shown."""
        self._throttle.flush()

    def _lay_nothing_over(self) -> None:
        self._preview, self._tracked, self._trails = None, (), ()
        self._show(self._own_image, exact=True)

    def _show_laid_over(self) -> None:
        with self._lock:
            preview = self._preview
            self._show(preview or self._own_image, exact=preview is None)
            self.marks_changed()

    def _show_exact(self) -> None:
        """No new image came for a while: send the one that is shown without loss."""
        with self._lock:
            if not self.scene.is_exact:
                self._show(self.scene.image, exact=True)
                self.scene.refresh()

    def _show(self, image: Image.Image | None, exact: bool) -> None:
        if image is not self.scene.image or exact != self.scene.is_exact:
            self.scene.image, self.scene.is_exact = image, exact
            self.scene.touch("image")

    @property
    def _own_image(self) -> Image.Image:
        """The source, reduced to what is sent, or what stands for it; always the same object."""
        source = self._source
        if self._own is None or self._own[0] is not source:
            image = _placeholder() if source is None else Image.fromarray(source.pixels)
            self._own = (source, image)
        return self._own[1]

    _own: tuple[SourceImage | None, Image.Image] | None = None

    # ------------------------------------------------------------ marks

    @property
    def marks(self) -> Marks:
        """All that is marked on the image."""
        pairs: tuple[PointPair, ...] = self.pairs
        return Marks(
            pairs=pairs,
            selected=self.selected,
            hidden=self._hand.hidden_pair,
            pending=self._hand.pending,
            tracked=self._tracked,
            trails=self._trails,
        )

    def marks_changed(self) -> None:
        """Show the marks as they are now, and whatever else is new."""
        self.scene.set_marks(self.marks)
        self.scene.refresh()

    # ------------------------------------------------------------ as a plain image

    def snapshot(self, side: int | None = None) -> Image.Image:
        """Image, mask and marks as one Pillow image; ``side``: its longest one, pixels."""
        with self._lock:
            image = self.scene.image or self._own_image
            size: Size = self.viewport.size
            mask = None if self._sketch is None else self._sketch.mask
            look, marks = self.scene.look, self.marks
        return compose(image, size, mask, look, marks, side)

    def __repr__(self) -> str:
        size = self.viewport.size
        shown = "no image" if self._source is None else f"{size[0]} x {size[1]}"
        return f"{type(self).__name__}({shown}: {describe(self._sketch)})"


def _placeholder() -> Image.Image:
    """What stands where an image will be."""
    image = Image.new("RGB", EMPTY_SIZE, "#8a8a90")
    text = "No image yet\nset one with  canvas.image = ..."
    middle = (EMPTY_SIZE[0] / 2, EMPTY_SIZE[1] / 2)
    draw = ImageDraw.Draw(image)
    draw.multiline_text(middle, text, fill="white", anchor="mm", align="center", spacing=10)
    return image
