"""Show the image with the overlays of a run, and take snapshots of it.

Overlays are never part of undo nor of the instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from PIL import Image, ImageDraw

from dragwidget.data.frames import XY, BoolArray, Size
from dragwidget.data.image import SourceImage, source_image
from dragwidget.data.image_reading import read_image
from dragwidget.ui.canvas.guard import Guard
from dragwidget.ui.canvas.marks import Marks
from dragwidget.ui.canvas.overlay import SHOWN_SIDE
from dragwidget.ui.canvas.scene import Scene
from dragwidget.ui.canvas.snapshot import compose
from dragwidget.ui.canvas.throttle import Throttle
from dragwidget.ui.canvas.viewport import Viewport

PREVIEW_INTERVAL = 0.1  # seconds between updates of the overlays
EMPTY_SIZE = (512, 384)


def read_source(image: Any) -> SourceImage:
    """Read an image at full resolution, and reduced to what a browser gets."""
    return source_image(image, multiple=1, max_side=SHOWN_SIDE)


@dataclass(frozen=True)
class Track:
    """The position and trajectory of one handle, image pixels.

    start: the handle of the pair that it belongs to; ``None``: of none on this canvas. note: what
    stands beside it.
    """

    now: XY
    trail: tuple[XY, ...]
    start: XY | None
    note: str = ""


def _xy(point: Sequence[float]) -> XY:
    x, y = point
    return float(x), float(y)


class CanvasView:
    """Shows one canvas: the scene, and the overlays of a run.

    Args:
        width: width of the canvas, CSS pixels; ``None``: as fits.
        guard: the canvas' guard; updates of other threads go through it.
        marked: returns the canvas' marks without the tracks.
    """

    def __init__(self, width: int | None, guard: Guard, marked: Callable[[], Marks]) -> None:
        self._width = width
        self._lock = guard.lock
        self._marked = marked
        self.scene = Scene(Viewport.of(EMPTY_SIZE, width))
        self._source: SourceImage | None = None
        self._own: Image.Image | None = None
        self._tracks: tuple[Track, ...] = ()
        self.preview: Image.Image | None = None
        self.is_bare = self.shows_source = False  # see ``DragCanvas``
        self.throttle = Throttle(
            partial(guard, self.show_overlays),
            PREVIEW_INTERVAL,
            settled=partial(guard, self._show_exact),
        )

    @property
    def size(self) -> Size:
        """(width, height) of the image, or of its placeholder."""
        return EMPTY_SIZE if self._source is None else self._source.size

    def set_source(self, source: SourceImage | None, *, fit: bool) -> None:
        """Show another image without overlays; ``fit``: zoom to all of it."""
        self._source, self._own = source, None
        self.preview, self._tracks = None, ()
        self._show(self._own_image, exact=True)
        if fit:
            self.scene.set_viewport(Viewport.of(self.size, self._width))

    def close(self) -> None:
        """Stop showing updates and free the images."""
        self.throttle.close()
        with self._lock:
            self.scene.close()

    # ------------------------------------------------------------ overlays, from any thread

    def show_image(self, image: Any) -> None:
        """Show an image of any size, as ``read_image`` takes it, over the source; ``None``: none.

        At most one image per 0.1 s is shown, always the latest. Safe from any thread.
        """
        if image is not None:
            image = Image.fromarray(read_image(image).pixels)
            if max(image.size) > SHOWN_SIDE:
                image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        self.preview = image
        self.throttle.ask()

    def show_tracks(
        self,
        handles: Sequence[XY],
        trails: Sequence[Sequence[XY]] = (),
        starts: Sequence[XY] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Mark the current handles and their trajectories, in image pixels.

        Throttled as ``show_image``. Safe from any thread. Raises ValueError where there are not
        as many trails (or none), starts or notes (or none) as handles.

        Args:
            handles: current position of each handle, (N).
            trails: trajectory of each handle, or nothing.
            starts: the initial handle of each pair. A mark is shown only while the canvas has a
                pair with this handle; by default, always.
            notes: a word or two beside each handle, or nothing.
        """
        count = len(handles)
        wrong = starts is not None and len(starts) != count
        if wrong or not {len(trails), len(notes)} <= {0, count}:
            raise ValueError(
                f"trails, starts and notes need one entry per handle: got {count} handles, "
                f"{len(trails)} trails, {'no' if starts is None else len(starts)} starts "
                f"and {len(notes)} notes"
            )
        tracks = tuple(
            Track(
                _xy(handle),
                tuple(map(_xy, trails[k])) if len(trails) else (),
                None if starts is None else _xy(starts[k]),
                notes[k] if notes else "",
            )
            for k, handle in enumerate(handles)
        )
        with self._lock:
            self._tracks = tracks
        self.throttle.ask()

    def clear_tracks(self) -> None:
        """Remove the marks of ``show_tracks``."""
        self.show_tracks((), ())

    def flush(self) -> None:
        """Show pending updates now."""
        self.throttle.flush()

    def show_overlays(self) -> None:
        """Show the latest preview and tracks."""
        with self._lock:
            preview = None if self.shows_source else self.preview
            self._show(preview or self._own_image, exact=preview is None)
            self.show_marks()

    def _show_exact(self) -> None:
        """Send the shown image again, losslessly, when no new one came for a while."""
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
        if self._own is None:
            source = self._source
            self._own = _placeholder() if source is None else Image.fromarray(source.pixels)
        return self._own

    # ------------------------------------------------------------ marks

    @property
    def marks(self) -> Marks:
        """The marks on the image."""
        if self.is_bare or self.shows_source:
            return Marks()
        marks = self._marked()
        there = {pair.handle for pair in marks.pairs}
        shown = [track for track in self._tracks if track.start is None or track.start in there]
        return replace(
            marks,
            tracked=tuple(track.now for track in shown),
            trails=tuple(track.trail for track in shown),
            notes=tuple(track.note for track in shown),
        )

    def show_marks(self) -> None:
        """Repaint the marks, and whatever else is new."""
        self.scene.set_marks(self.marks)
        self.scene.refresh()

    # ------------------------------------------------------------ as a plain image

    def snapshot(self, mask: BoolArray | None, side: int | None = None) -> Image.Image:
        """Return image, mask and marks as one Pillow image; ``side``: its longest side, pixels."""
        with self._lock:
            scene = self.scene
            image = scene.image or self._own_image
            size, look, marks = self.size, scene.look, self.marks
        return compose(image, size, mask, look, marks, side)


def _placeholder() -> Image.Image:
    """Return the placeholder for a missing image."""
    image = Image.new("RGB", EMPTY_SIZE, "#8a8a90")
    text = "No image yet\nset one with  canvas.image = ..."
    middle = (EMPTY_SIZE[0] / 2, EMPTY_SIZE[1] / 2)
    draw = ImageDraw.Draw(image)
    draw.multiline_text(middle, text, fill="white", anchor="mm", align="center", spacing=10)
    return image
