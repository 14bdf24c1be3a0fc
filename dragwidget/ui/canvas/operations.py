"""What changes a mask, as small records: done again, each gives the same mask bit for bit.

Points are ``(x, y)`` in image pixels and may lie outside the image. A mask is bool (H, W), True =
editable; ``None``: no mask, the whole image is editable.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dragwidget.data.frames import BoolArray
from dragwidget.ui.canvas import raster


class Operation(Protocol):
    """Changes a mask."""

    @property
    def starts_full(self) -> bool:
        """Whether it starts on a full mask where there is none, as an eraser must."""

    @property
    def nbytes(self) -> int:
        """Approximate bytes of memory."""

    @property
    def is_slow(self) -> bool:
        """Whether undo should not recompute it."""

    def paint(self, mask: BoolArray) -> None:
        """Change the mask in place."""


def started(operation: Operation, mask: BoolArray | None, shape: tuple[int, int]) -> BoolArray:
    """Return the mask (H, W) to paint on: the given one, or a new one for ``None``."""
    return np.full(shape, operation.starts_full) if mask is None else mask


@dataclass(frozen=True, eq=False)
class Stroke:
    """Paints with a round brush of diameter ``size``, or one a point (N), along points (N, 2)."""

    points: raster.Points
    size: float | raster.Sizes
    erase: bool
    is_slow = False

    @property
    def starts_full(self) -> bool:
        return self.erase

    @property
    def nbytes(self) -> int:
        return int(self.points.nbytes + np.asarray(self.size).nbytes)

    def paint(self, mask: BoolArray) -> None:
        raster.paint_stroke(mask, self.points, self.size, not self.erase)


@dataclass(frozen=True, eq=False)
class Lasso:
    """Paints the inside of a polygon of points (N, 2)."""

    points: raster.Points
    erase: bool
    is_slow = False

    @property
    def starts_full(self) -> bool:
        return self.erase

    @property
    def nbytes(self) -> int:
        return int(self.points.nbytes)

    def paint(self, mask: BoolArray) -> None:
        raster.paint_polygon(mask, self.points, not self.erase)


@dataclass(frozen=True)
class Rectangle:
    """Paints the rectangle between two opposite corners."""

    a: tuple[float, float]
    b: tuple[float, float]
    erase: bool
    nbytes = 100
    is_slow = False

    @property
    def starts_full(self) -> bool:
        return self.erase

    def paint(self, mask: BoolArray) -> None:
        raster.paint_rectangle(mask, self.a, self.b, not self.erase)


@dataclass(frozen=True)
class Grow:
    """Grows a mask by ``radius`` pixels, or shrinks it if negative."""

    radius: float
    starts_full = True
    nbytes = 100
    is_slow = True

    def paint(self, mask: BoolArray) -> None:
        change = raster.dilate if self.radius > 0 else raster.erode
        mask[:] = change(mask, abs(self.radius))


@dataclass(frozen=True)
class Invert:
    """Swaps the editable and the protected region."""

    starts_full = True
    nbytes = 100
    is_slow = False

    def paint(self, mask: BoolArray) -> None:
        np.logical_not(mask, out=mask)


@dataclass(frozen=True)
class PackedMask:
    """A mask (H, W), or none, as compressed bits."""

    bits: bytes | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: BoolArray | None, shape: tuple[int, int]) -> PackedMask:
        bits = None if mask is None else zlib.compress(np.packbits(mask).tobytes(), 1)
        return cls(bits, shape)

    def unpack(self) -> BoolArray | None:
        """Return the mask as a new array."""
        if self.bits is None:
            return None
        flat = np.frombuffer(zlib.decompress(self.bits), dtype=np.uint8)
        count = self.shape[0] * self.shape[1]
        return np.unpackbits(flat, count=count).view(bool).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        return len(self.bits or b"")
