"""All that can be done to a sketch, as methods: hand, toolbar and notebooks call the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from dragwidget.data.frames import XY
from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.gestures import Hand
from dragwidget.ui.canvas.sketch import Sketch
from dragwidget.ui.canvas.viewport import Viewport


class Commands:
    """The part of ``DragCanvas`` that changes what is drawn.

    Points are ``(x, y)`` in pixels of the image at its full size. Each method is one level of
    undo, and none where nothing changes. All raise RuntimeError while there is no image, and
    leave everything as it was where they raise anything.
    """

    _lock: threading.RLock
    _sketch: Sketch | None
    _hand: Hand
    viewport: Viewport
    brush_size: Any
    selected: Any

    def _changed(self) -> None:
        """Show and tell what the sketch is now."""
        raise NotImplementedError

    def show_viewport(self, viewport: Viewport) -> None:
        """Show another part of the image."""
        raise NotImplementedError

    @contextmanager
    def _editing(self) -> Iterator[Sketch]:
        with self._lock:
            if self._sketch is None:
                raise RuntimeError(
                    "there is no image to draw on: set one first, canvas.image = ..."
                )
            yield self._sketch
            self._changed()

    # ------------------------------------------------------------ pairs

    def add_pair(self, handle: XY, target: XY) -> int:
        """Drag what is at ``handle`` to ``target``. Returns the index of the new pair."""
        with self._editing() as sketch:
            return sketch.add_pair(handle, target)

    def move_handle(self, index: int, xy: XY) -> None:
        """Put the handle of a pair somewhere else."""
        with self._editing() as sketch:
            sketch.move_handle(index, xy)

    def move_target(self, index: int, xy: XY) -> None:
        """Put the target of a pair somewhere else."""
        with self._editing() as sketch:
            sketch.move_target(index, xy)

    def delete_pair(self, index: int) -> None:
        """Remove a pair; those after it move up by one."""
        with self._editing() as sketch:
            sketch.delete_pair(index)
            if self.selected is not None and self.selected >= index:
                self.selected = None if self.selected == index else self.selected - 1

    def clear_pairs(self) -> None:
        """Remove all pairs; the mask stays."""
        with self._editing() as sketch:
            sketch.set_pairs(())

    def nudge(self, dx: float, dy: float) -> None:
        """Move the selected point by so many image pixels, no further than the border."""
        with self._lock:
            if self._sketch is None or self.selected is None:
                return
            pair: PointPair = self._sketch.pair(self.selected)
            is_handle = self._end == "handle"
            x, y = pair.handle if is_handle else pair.target
            to = self.viewport.inside((x + dx, y + dy))
            (self.move_handle if is_handle else self.move_target)(self.selected, to)

    @property
    def selected_end(self) -> str:
        """Which point of the selected pair ``nudge`` moves: "handle" or "target"."""
        return self._end

    _end = "target"

    # ------------------------------------------------------------ mask

    def stroke(self, points: list[XY], erase: bool = False, size: float | None = None) -> None:
        """Paint what may change, or erase, with a round brush; ``size``: its diameter, pixels."""
        with self._editing() as sketch:
            sketch.stroke(points, self.brush_size if size is None else size, erase)

    def lasso(self, points: list[XY], erase: bool = False) -> None:
        """Paint, or erase, the inside of a polygon."""
        with self._editing() as sketch:
            sketch.lasso(points, erase)

    def rectangle(self, a: XY, b: XY, erase: bool = False) -> None:
        """Paint, or erase, what lies between two opposite corners."""
        with self._editing() as sketch:
            sketch.rectangle(a, b, erase)

    def grow(self, pixels: float) -> None:
        """Let the mask reach that much further."""
        with self._editing() as sketch:
            sketch.grow(pixels)

    def shrink(self, pixels: float) -> None:
        """Let the mask reach that much less far."""
        with self._editing() as sketch:
            sketch.grow(-pixels)

    def invert_mask(self) -> None:
        """What may change is protected, and the other way round."""
        with self._editing() as sketch:
            sketch.invert()

    def fill_mask(self) -> None:
        """A mask that lets everything change."""
        with self._editing() as sketch:
            sketch.set_mask(np.ones(sketch.shape, dtype=bool))

    def set_mask(self, mask: Any) -> None:
        """Another mask: an array (H, W), values > 0 may change, or a Pillow image of that size.

        ``None``: no mask, so everything may change.
        """
        if isinstance(mask, Image.Image):
            mask = np.asarray(mask.convert("L"))
        with self._editing() as sketch:
            sketch.set_mask(mask)

    def clear(self) -> None:
        """Neither pairs nor mask."""
        with self._editing() as sketch:
            self._hand.forget()
            sketch.clear()

    # ------------------------------------------------------------ undo

    def undo(self) -> bool:
        """Take back the last change, or what is half drawn; whether there was anything."""
        with self._lock:
            if self._sketch is None:
                return False
            done = self._hand.step_back() or self._sketch.undo()
            self._changed()
            return done

    def redo(self) -> bool:
        """Do again what was taken back last; whether there was anything."""
        with self._lock:
            if self._sketch is None:
                return False
            done = self._sketch.redo()
            self._changed()
            return done

    # ------------------------------------------------------------ view

    def zoom_to(self, factor: float, center: XY | None = None) -> None:
        """Show ``factor`` times as large as fitted, 1 to 32, with an image point in the middle."""
        with self._lock:
            self.show_viewport(self.viewport.zoomed(factor, center))

    def fit(self) -> None:
        """Show the whole image."""
        self.zoom_to(1.0)
