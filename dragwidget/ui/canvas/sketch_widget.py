"""The model of a canvas as a widget: pairs and mask as traits, methods and plain data, with undo.

A subclass shows them in ``_show_sketch``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets
import numpy as np
import traitlets
from PIL import Image

from dragwidget.data.frames import XY, BoolArray, Size
from dragwidget.data.image import UInt8Array
from dragwidget.data.image_reading import read_mask
from dragwidget.data.instructions import DragInstructions, PointPair, check_prompt
from dragwidget.data.paths import user_path
from dragwidget.storage.atomic import check_writable, write_whole
from dragwidget.ui.canvas.selector import Clicks, Segment, Select, Selector
from dragwidget.ui.canvas.sketch import Sketch
from dragwidget.ui.canvas.viewport import inside

BRUSH = 1 / 12  # of the image's shorter side: the diameter of a brush that nobody has set


class SketchWidget(ipywidgets.VBox):
    """The pairs and the mask of one image, as a widget model with undo.

    Points are ``(x, y)`` in pixels of the image at its full size. Each method adds one level of
    undo, unless nothing changes. All raise RuntimeError while there is no image, and
    leave everything as it was where they raise anything.
    """

    pairs = traitlets.Any(())
    selected = traitlets.Int(None, allow_none=True)
    brush_size = traitlets.Float(40.0)
    mask_version = traitlets.Int(0)
    prompt = traitlets.Unicode("")

    def __init__(self, **options: Any) -> None:
        self._lock = threading.RLock()
        self._sketch: Sketch | None = None
        self._selector = Selector()
        self._end = "target"
        self._default_brush = 40.0  # for this image
        self._version_shown = -1
        self._has_mask = False
        super().__init__(**options)

    @property
    def lock(self) -> threading.RLock:
        """Held while what is drawn changes: hold it to look and change as one."""
        return self._lock

    # ------------------------------------------------------------ for subclasses

    def _show_sketch(self, mask_is_new: bool) -> None:
        """Show the sketch as it is now."""

    def _show_mask(self, mask: BoolArray | None) -> None:
        """Show a mask that is not the sketch's, yet."""

    @property
    def _pixels(self) -> UInt8Array | None:
        """The image at full resolution, (H, W, 3), as selecting sees it."""
        return None

    def _drop_unfinished(self) -> None:
        """Drop what is half drawn."""

    def _start_sketch(self, size: Size | None) -> None:
        """Begin an empty sketch of an image of ``size``; ``None``: there is no image."""
        self._sketch = None if size is None else Sketch(size)
        self._version_shown = -1
        self.selected = None
        if size is not None:
            is_default = self.brush_size == self._default_brush
            self._default_brush = float(max(1, round(BRUSH * min(size))))
            brush = self._default_brush if is_default else min(self.brush_size, float(max(size)))
            self.brush_size = brush

    def _changed(self) -> None:
        """Update the traits from the sketch, and show it."""
        sketch = self._sketch
        pairs = () if sketch is None else sketch.pairs
        if self.selected is not None and self.selected >= len(pairs):
            self.selected = None
        if self.pairs != pairs:
            self.pairs = pairs
        version = 0 if sketch is None else sketch.mask_version
        mask_is_new = version != self._version_shown
        has_changed = mask_is_new and (self._version_shown >= 0 or self._has_mask)
        self._version_shown = version
        self._has_mask = sketch is not None and sketch.mask is not None
        self._show_sketch(mask_is_new)
        if has_changed:
            self.mask_version += 1

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
        """Add a pair that drags what is at ``handle`` to ``target``; return its index."""
        with self._editing() as sketch:
            return sketch.add_pair(handle, target)

    def move_handle(self, index: int, xy: XY) -> None:
        """Move the handle of a pair to ``xy``."""
        with self._editing() as sketch:
            sketch.move_handle(index, xy)

    def move_target(self, index: int, xy: XY) -> None:
        """Move the target of a pair to ``xy``."""
        with self._editing() as sketch:
            sketch.move_target(index, xy)

    def delete_pair(self, index: int) -> None:
        """Delete a pair; the indices after it decrease by one."""
        with self._editing() as sketch:
            sketch.delete_pair(index)
            if self.selected is not None and self.selected >= index:
                self.selected = None if self.selected == index else self.selected - 1

    def clear_pairs(self) -> None:
        """Delete all pairs; keep the mask."""
        with self._editing() as sketch:
            sketch.set_pairs(())

    def nudge(self, dx: float, dy: float) -> None:
        """Move the selected point by (dx, dy) image pixels, clamped to the image."""
        with self._lock:
            if self._sketch is None or self.selected is None:
                return
            pair: PointPair = self._sketch.pair(self.selected)
            is_handle = self._end == "handle"
            x, y = pair.handle if is_handle else pair.target
            to = inside(self._sketch.size, (x + dx, y + dy))
            (self.move_handle if is_handle else self.move_target)(self.selected, to)

    @property
    def selected_end(self) -> str:
        """The point of the selected pair that ``nudge`` moves: "handle" or "target"."""
        return self._end

    def select(self, index: int | None, end: str = "target") -> None:
        """Select a pair, and which of its points ``nudge`` moves: "handle" or "target"."""
        if end not in ("handle", "target"):
            raise ValueError(f'end must be "handle" or "target", got {end!r}')
        self._end = end
        self.selected = index

    # ------------------------------------------------------------ mask

    def stroke(
        self, points: list[XY], erase: bool = False, size: float | list[float] | None = None
    ) -> None:
        """Paint or erase with a round brush.

        ``size``: its diameter, image pixels; or a list with one for each point.
        """
        with self._editing() as sketch:
            sketch.stroke(points, self.brush_size if size is None else size, erase)

    def lasso(self, points: list[XY], erase: bool = False) -> None:
        """Paint or erase the inside of a polygon."""
        with self._editing() as sketch:
            sketch.lasso(points, erase)

    def rectangle(self, a: XY, b: XY, erase: bool = False) -> None:
        """Paint or erase the rectangle between two opposite corners."""
        with self._editing() as sketch:
            sketch.rectangle(a, b, erase)

    def grow(self, pixels: float) -> None:
        """Grow the editable region by ``pixels``."""
        with self._editing() as sketch:
            sketch.grow(pixels)

    def shrink(self, pixels: float) -> None:
        """Shrink the editable region by ``pixels``."""
        with self._editing() as sketch:
            sketch.grow(-pixels)

    def invert_mask(self) -> None:
        """Swap the editable and the protected region."""
        with self._editing() as sketch:
            sketch.invert()

    def fill_mask(self) -> None:
        """Make the whole image editable, by a full mask."""
        with self._editing() as sketch:
            sketch.set_mask(np.ones(sketch.shape, dtype=bool))

    def set_mask(self, mask: Any) -> None:
        """Set the mask: an array (H, W), values > 0 editable, or what ``read_mask`` takes.

        ``None`` removes the mask: the whole image is editable.
        """
        if isinstance(mask, Image.Image | str | os.PathLike | bytes):
            mask = read_mask(mask)
        with self._editing() as sketch:
            sketch.set_mask(mask)

    # ------------------------------------------------------------ selecting by a click

    @property
    def segment(self) -> Segment | None:
        """What finds the thing that is clicked with the tool "select"; ``None``: ours.

        It is called with the image (H, W, 3) uint8, the clicked points (N, 2), ``(x, y)`` in image
        pixels, and their labels (N,) bool, True on the thing and False off it. It returns the mask
        of the thing, (H, W) bool.
        """
        return self._selector.segment

    @segment.setter
    def segment(self, segment: Segment | None) -> None:
        if segment is not None and not callable(segment):
            raise TypeError(
                f"segment must be a function of (image, points, labels), or None, got {segment!r}"
            )
        self._selector.segment = segment

    def select_by(self, by_features: Select | None) -> None:
        """Ask this function what is clicked, before colours decide; it may return ``None``.

        Args:
            by_features: called with points (N, 2), labels and tolerances (N,); returns a mask.
        """
        self._selector.by_features = by_features

    def select_at(self, xy: XY, tolerance: float = 1.0) -> None:
        """Add the thing at ``xy`` to the mask; inside the mask, erase the thing.

        Clicks that follow each other are weighed against each other.

        Args:
            xy: a point inside the image, image pixels.
            tolerance: how much the thing may differ from the clicked place, as a factor, 1/16 to
                16; 2 selects more than 1. What is set as ``segment`` is not told.
        """
        with self._editing() as sketch:
            mask, clicks = self._after_click(sketch, xy, tolerance)
            self._selector.remember(mask, clicks)
            sketch.set_mask(mask)

    def select_parts(self, room: float = 0.0) -> None:
        """Set the mask to the things under the handles, and the room that they need to move.

        That is the straight line to their targets, and a margin of 4 %.

        Args:
            room: added to the margin, in lengths of the pair.

        Raises:
            ValueError: there is no pair.
        """
        with self._editing() as sketch:
            if not sketch.pairs:
                raise ValueError("there is no handle to select a part by: draw a pair first")
            sketch.set_mask(self._selector.parts(self._known_pixels(), sketch.pairs, room))

    def preview_selection(self, xy: XY | None, tolerance: float = 1.0) -> None:
        """Show what ``select_at`` would make of the mask; ``None``: the mask as it is."""
        with self._lock:
            sketch = self._sketch
            if sketch is not None:
                after = None if xy is None else self._after_click(sketch, xy, tolerance)[0]
                self._show_mask(sketch.mask if after is None else after)

    def _after_click(self, sketch: Sketch, xy: XY, tolerance: float) -> tuple[BoolArray, Clicks]:
        return self._selector.mask_after(self._known_pixels(), sketch.mask, xy, tolerance)

    def _known_pixels(self) -> UInt8Array:
        pixels = self._pixels
        if pixels is None:
            raise RuntimeError("there are no pixels to select by: set an image first")
        return pixels

    # ------------------------------------------------------------ all of it

    def clear(self) -> None:
        """Delete all pairs and the mask."""
        with self._editing() as sketch:
            self._drop_unfinished()
            sketch.clear()

    # ------------------------------------------------------------ undo

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return self._sketch is not None and self._sketch.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to redo."""
        return self._sketch is not None and self._sketch.can_redo

    def undo(self) -> bool:
        """Undo the last change; return whether there was one."""
        with self._lock:
            done = self._sketch is not None and self._sketch.undo()
            self._changed()
            return done

    def redo(self) -> bool:
        """Redo the change undone last; return whether there was one."""
        with self._lock:
            done = self._sketch is not None and self._sketch.redo()
            self._changed()
            return done

    # ------------------------------------------------------------ brush

    def scale_brush(self, factor: float) -> None:
        """Scale the brush size by ``factor``, within 1 pixel and the image's longest side."""
        widest = 2.0 if self._sketch is None else max(2.0, float(max(self._sketch.size)))
        size = round(self.brush_size * factor)
        if size == self.brush_size:
            size += 1 if factor > 1 else -1
        self.brush_size = min(max(float(size), 1.0), widest)

    # ------------------------------------------------------------ what is drawn

    @property
    def mask(self) -> BoolArray | None:
        """A copy of the mask (H, W), True = editable; ``None``: the whole image is editable."""
        mask = None if self._sketch is None else self._sketch.mask
        return None if mask is None else mask.copy()

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask."""
        return self._sketch is not None and self._sketch.mask is not None

    @property
    def instructions(self) -> DragInstructions | None:
        """Pairs, mask and prompt as plain data; ``None`` while there is no pair.

        Raises ValueError where nothing is editable. Setting it is one level of undo.
        """
        with self._lock:
            sketch = self._sketch
            if sketch is None or not sketch.pairs:
                return None
            return DragInstructions(
                sketch.pairs, size=sketch.size, mask=sketch.mask, prompt=self.prompt
            )

    @instructions.setter
    def instructions(self, instructions: DragInstructions | None) -> None:
        if instructions is None:
            self.clear()
            return
        if not isinstance(instructions, DragInstructions):
            raise TypeError(
                f"instructions must be DragInstructions or None, got {type(instructions).__name__}"
            )
        with self._editing() as sketch:
            if instructions.size != sketch.size:
                raise ValueError(
                    f"these instructions are for an image of size {instructions.size}, this one "
                    f"has {sketch.size} (width, height): rescale them, or set that image"
                )
            self._drop_unfinished()
            sketch.set_both(instructions.pairs, instructions.mask)
            self.prompt = instructions.prompt

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instructions as JSON. Raises RuntimeError while there is no pair."""
        instructions = self.instructions
        if instructions is None:
            raise RuntimeError("there are no instructions to save: add a point pair first")
        path = user_path(path)
        check_writable(path)
        write_whole(path, instructions.to_json().encode("ascii"))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Load the instructions of a file that ``save`` wrote; ValueError for any other file."""
        self.instructions = DragInstructions.from_json(user_path(path).read_bytes())

    # ------------------------------------------------------------ traits

    @traitlets.validate("pairs")
    def _check_pairs(self, proposal: Any) -> tuple[PointPair, ...]:
        if self._sketch is None:
            if len(proposal["value"]):
                raise ValueError(
                    "there is no image to set pairs on: set one first, canvas.image = ..."
                )
            return ()
        return self._sketch.check_pairs(proposal["value"])

    @traitlets.validate("selected")
    def _check_selected(self, proposal: Any) -> int | None:
        index: int | None = proposal["value"]
        count = 0 if self._sketch is None else len(self._sketch.pairs)
        if index is not None and not 0 <= index < count:
            raise traitlets.TraitError(
                f"there is no pair {index}: there are {count} pairs, counted from 0"
            )
        return index

    @traitlets.validate("brush_size")
    def _check_brush_size(self, proposal: Any) -> float:
        if not 1 <= proposal["value"] <= 10_000:
            raise traitlets.TraitError(
                f"brush_size must be 1 to 10000 image pixels, got {proposal['value']}"
            )
        return float(proposal["value"])

    @traitlets.validate("prompt")
    def _check_prompt(self, proposal: Any) -> str:
        check_prompt(proposal["value"])
        return str(proposal["value"])

    @traitlets.observe("pairs")
    def _take_pairs(self, change: Any) -> None:
        with self._lock:
            if self._sketch is not None and change["new"] != self._sketch.pairs:
                self._sketch.set_pairs(change["new"])
                self._changed()
