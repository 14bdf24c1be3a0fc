"""What the user drew on one image, with undo: point pairs and a mask.

No Jupyter here: the canvas turns events into calls of a ``Sketch`` and paints what it holds. Masks
are kept as the operations that made them, with a packed copy every few operations, so that hundreds
of levels of undo over a large image cost little memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import BoolArray, Size
from dragwidget.data.instructions import MAX_PAIRS, PointPair, check_size
from dragwidget.ui.canvas import raster
from dragwidget.ui.canvas.operations import (
    Grow,
    Invert,
    Lasso,
    Operation,
    PackedMask,
    Rectangle,
    Stroke,
    started,
)

Pairs = tuple[PointPair, ...]

MAX_LEVELS = 1000  # of undo
MAX_BYTES = 64 * 2**20  # of what undo keeps; the oldest levels go first
CHECKPOINT_EVERY = 16  # mask operations
MAX_STROKE_POINTS = 100_000


@dataclass(frozen=True)
class _Level:
    """What led from one state to the next.

    pairs: those afterwards. operation: what was done to the mask, if undo is to do it again.
    checkpoint: the mask afterwards, where it is kept. With neither, the mask stayed as it was.
    """

    pairs: Pairs
    operation: Operation | None = None
    checkpoint: PackedMask | None = None

    @property
    def changes_mask(self) -> bool:
        return self.operation is not None or self.checkpoint is not None

    @property
    def nbytes(self) -> int:
        return 200 + sum(part.nbytes for part in (self.operation, self.checkpoint) if part)


class Sketch:
    """Pairs and mask of one image of ``size`` (width, height), undoable.

    Points of pairs lie inside the image; strokes and lassos may reach outside. Coordinates are
    ``(x, y)`` in image pixels. Methods that change nothing add no level. Not safe to use from
    several threads at once: the canvas holds its lock.
    """

    def __init__(self, size: Size) -> None:
        self.size = check_size(size)
        self.shape = (self.size[1], self.size[0])
        self.pairs: Pairs = ()
        self.mask: BoolArray | None = None  # (H, W), read-only
        self.mask_version = 0  # up by one with every change of the mask
        self._base = _Level((), checkpoint=PackedMask(None, self.shape))
        self._levels: list[_Level] = []
        self._done = 0  # levels that are in force; those above can be redone

    # ------------------------------------------------------------ pairs

    def set_pairs(self, pairs: Any) -> None:
        """Replace all pairs; PointPair or (handle, target)."""
        self._set_pairs(self.check_pairs(pairs))

    def add_pair(self, handle: Any, target: Any) -> int:
        """Append a pair; return its index."""
        self._set_pairs(self.check_pairs([*self.pairs, PointPair(handle, target)]))
        return len(self.pairs) - 1

    def move_handle(self, index: int, xy: Any) -> None:
        self._replace(index, replace(self.pair(index), handle=xy))

    def move_target(self, index: int, xy: Any) -> None:
        self._replace(index, replace(self.pair(index), target=xy))

    def delete_pair(self, index: int) -> None:
        self.pair(index)
        self._set_pairs(self.pairs[:index] + self.pairs[index + 1 :])

    def pair(self, index: int) -> PointPair:
        """Return the pair at ``index``; IndexError where there is none."""
        if not 0 <= index < len(self.pairs):
            raise IndexError(
                f"there is no pair {index}: there are {len(self.pairs)} pairs, counted from 0"
            )
        return self.pairs[index]

    def _replace(self, index: int, pair: PointPair) -> None:
        self._set_pairs(self.check_pairs((*self.pairs[:index], pair, *self.pairs[index + 1 :])))

    def check_pairs(self, pairs: Any) -> Pairs:
        """Return pairs as a tuple of PointPair inside the image; TypeError or ValueError."""
        if isinstance(pairs, str | bytes) or not hasattr(pairs, "__iter__"):
            raise TypeError(f"pairs must be a sequence of PointPair, got {type(pairs).__name__}")
        checked = tuple(p if isinstance(p, PointPair) else _as_pair(p) for p in pairs)
        if len(checked) > MAX_PAIRS:
            raise ValueError(
                f"at most {MAX_PAIRS} pairs can be dragged at once, got {len(checked)}"
            )
        width, height = self.size
        for number, pair in enumerate(checked, start=1):
            for name, (x, y) in (("handle", pair.handle), ("target", pair.target)):
                if not (0 <= x < width and 0 <= y < height):
                    raise ValueError(
                        f"the {name} of pair {number}, ({x:g}, {y:g}), is outside the image: "
                        f"x must be in [0, {width}) and y in [0, {height})"
                    )
        return checked

    # ------------------------------------------------------------ mask

    def stroke(self, points: Any, size: Any, erase: bool = False) -> None:
        """Paint, or erase, with a round brush along points (N, 2).

        ``size``: its diameter; or one for each point, (N), as a pen's pressure makes them.
        """
        along = check_points(points, 1)
        sizes = np.array(size, dtype=np.float64)
        if not (np.isfinite(sizes).all() and (sizes > 0).all()):
            raise ValueError(f"the brush size must be finite and greater than 0 pixels, got {size}")
        if sizes.shape not in ((), (len(along),)):
            raise ValueError(
                f"the brush needs one size, or one for each of {len(along)} points, "
                f"got shape {sizes.shape}"
            )
        sizes.setflags(write=False)
        self._paint(Stroke(along, sizes if sizes.ndim else float(sizes), bool(erase)))

    def lasso(self, points: Any, erase: bool = False) -> None:
        """Paint, or erase, the inside of a closed polygon of points (N, 2), N >= 3."""
        self._paint(Lasso(check_points(points, 3), bool(erase)))

    def rectangle(self, a: Any, b: Any, erase: bool = False) -> None:
        """Paint, or erase, between two opposite corners."""
        (ax, ay), (bx, by) = check_points([a, b], 2).tolist()
        self._paint(Rectangle((ax, ay), (bx, by), bool(erase)))

    def grow(self, radius: float) -> None:
        """Grow the mask by ``radius`` pixels; shrink it if negative. No mask stays no mask."""
        if not np.isfinite(radius):
            raise ValueError(f"radius must be finite, in pixels, got {radius}")
        if self.mask is not None and abs(radius) >= 1:
            self._paint(Grow(float(radius)))

    def invert(self) -> None:
        self._paint(Invert())

    def set_mask(self, mask: npt.ArrayLike | None) -> None:
        """Set the mask (H, W), values > 0 editable; ``None``: the whole image is editable."""
        self.set_both(self.pairs, mask)

    def check_mask(self, mask: npt.ArrayLike | None) -> BoolArray | None:
        """Return a mask as bool (H, W) of the image's size; TypeError or ValueError."""
        if mask is None:
            return None
        values = np.asarray(mask)
        if values.dtype.kind not in "biuf":
            raise TypeError(f"a mask must hold booleans or numbers, got dtype {values.dtype}")
        if values.shape != self.shape:
            raise ValueError(
                f"a mask of this image must have shape {self.shape} (height, width), "
                f"got {values.shape}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError("a mask must be finite, got NaN or infinity: use 0 and 1")
        allowed: BoolArray = values > 0
        return allowed

    def set_both(self, pairs: Any, mask: npt.ArrayLike | None) -> None:
        """Replace pairs and mask, as one level."""
        checked, allowed = self.check_pairs(pairs), self.check_mask(mask)
        if _same(allowed, self.mask):
            self._set_pairs(checked)
        else:
            kept = PackedMask.of(allowed, self.shape)
            self._add(_Level(checked, checkpoint=kept), allowed)

    def clear(self) -> None:
        """Remove pairs and mask, as one level."""
        self.set_both((), None)

    def _set_pairs(self, pairs: Pairs) -> None:
        if pairs != self.pairs:
            self._add(_Level(pairs), self.mask)

    def _paint(self, operation: Operation) -> None:
        before = None if self.mask is None else self.mask.copy()
        mask = started(operation, before, self.shape)
        operation.paint(mask)
        if not _same(mask, self.mask):
            kept = PackedMask.of(mask, self.shape) if self._is_due(operation) else None
            self._add(_Level(self.pairs, operation, kept), mask)

    def _is_due(self, operation: Operation) -> bool:
        """Return whether to keep the mask after this, so that undo need not do too much again."""
        if operation.is_slow:
            return True
        since = 1
        for level in reversed(self._levels[: self._done]):
            if level.checkpoint is not None:
                break
            since += level.changes_mask
        return since >= CHECKPOINT_EVERY

    # ------------------------------------------------------------ undo

    @property
    def can_undo(self) -> bool:
        return self._done > 0

    @property
    def can_redo(self) -> bool:
        return self._done < len(self._levels)

    @property
    def nbytes(self) -> int:
        """Approximate memory of the undo history, bytes."""
        return self._base.nbytes + sum(level.nbytes for level in self._levels)

    def undo(self) -> bool:
        """Undo one level; return whether there was one."""
        if not self.can_undo:
            return False
        self._go_to(self._done - 1)
        return True

    def redo(self) -> bool:
        """Redo one level; return whether there was one."""
        if not self.can_redo:
            return False
        self._go_to(self._done + 1)
        return True

    def _add(self, level: _Level, mask: BoolArray | None) -> None:
        self._levels[self._done :] = [level]
        self._done += 1
        self._become(level.pairs, mask, level.changes_mask)
        self._forget()

    def _forget(self) -> None:
        """Drop the oldest levels beyond the limits; keep the last one always."""
        size = self.nbytes
        drop = 0
        while len(self._levels) - drop > MAX_LEVELS or (size > MAX_BYTES and drop < self._done - 1):
            size -= self._levels[drop].nbytes
            drop += 1
        if drop:
            kept = PackedMask.of(self._mask_at(drop), self.shape)
            self._base = _Level(self._levels[drop - 1].pairs, checkpoint=kept)
            del self._levels[:drop]
            self._done -= drop

    def _go_to(self, done: int) -> None:
        low, high = sorted((done, self._done))
        changed = any(level.changes_mask for level in self._levels[low:high])
        mask = self._mask_at(done) if changed else self.mask
        self._done = done
        self._become((self._levels[done - 1] if done else self._base).pairs, mask, changed)

    def _mask_at(self, done: int) -> BoolArray | None:
        """The mask after so many levels: from the last one that is kept, the rest done again."""
        start = done
        while start and self._levels[start - 1].checkpoint is None:
            start -= 1
        kept = (self._levels[start - 1] if start else self._base).checkpoint
        assert kept is not None
        mask = kept.unpack()
        for level in self._levels[start:done]:
            if level.operation is not None:
                mask = started(level.operation, mask, self.shape)
                level.operation.paint(mask)
        return mask

    def _become(self, pairs: Pairs, mask: BoolArray | None, changed: bool) -> None:
        self.pairs = pairs
        if changed:
            if mask is not None:
                mask.setflags(write=False)
            self.mask = mask
            self.mask_version += 1


def check_points(points: Any, least: int) -> raster.Points:
    """Return finite points (N, 2) as float64; TypeError or ValueError."""
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"points must be a list of (x, y), got {type(points).__name__}") from error
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < least:
        raise ValueError(
            f"points must be an array (N, 2) of (x, y) with N >= {least}, got shape {array.shape}"
        )
    if len(array) > MAX_STROKE_POINTS:
        raise ValueError(f"at most {MAX_STROKE_POINTS:,} points in one shape, got {len(array):,}")
    if not np.isfinite(array).all() or np.abs(array).max() > 1e6:
        raise ValueError("points must be finite and within a million pixels of the image")
    array.setflags(write=False)
    return array


def _as_pair(value: Any) -> PointPair:
    try:
        handle, target = value
    except (TypeError, ValueError):
        raise TypeError(
            f"a pair must be a PointPair or (handle, target), each (x, y), got {value!r:.100}"
        ) from None
    return PointPair(handle, target)


def _same(a: BoolArray | None, b: BoolArray | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.array_equal(a, b))
