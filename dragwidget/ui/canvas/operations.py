"""What changes a mask, as small records: done again, each gives the same mask bit for bit.

Points are ``(x, y)`` in image pixels and may lie outside the image. A mask is bool (H, W), True =
may change; ``None``: no mask, so everything may change.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dragwidget.data.frames import BoolArray
from dragwidget.ui.canvas import raster


class Operation(Protocol):
    """One change of a mask."""

    @property
    def starts_full(self) -> bool:
        """Where there is no mask yet: on a full one, as what erases must, or on an empty one."""

    @property
    def nbytes(self) -> int:
        """Roughly what it takes to remember."""

    @property
    def is_slow(self) -> bool:
        """Whether undo had better not do it again."""

    def paint(self, mask: BoolArray) -> None:
        """Change the mask in place."""


def started(operation: Operation, mask: BoolArray | None, shape: tuple[int, int]) -> BoolArray:
    """The mask (H, W) that an operation is to paint on: the same, or a new one where it is none."""
    return np.full(shape, operation.starts_full) if mask is None else mask


@dataclass(frozen=True, eq=False)
class Stroke:
    """A round brush of diameter ``size`` along points (N, 2)."""

    points: raster.Points
    size: float
    erase: bool
    is_slow = False

    @property
    def starts_full(self) -> bool:
        return self.erase

    @property
    def nbytes(self) -> int:
        return int(self.points.nbytes)

    def paint(self, mask: BoolArray) -> None:
        raster.paint_stroke(mask, self.points, self.size, not self.erase)


@dataclass(frozen=True, eq=False)
class Lasso:
    """The inside of a polygon of points (N, 2)."""

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
    """What lies between two opposite corners."""

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
    """Outwards by ``radius`` pixels, or inwards where it is negative."""

    radius: float
    starts_full = True
    nbytes = 100
    is_slow = True

    def paint(self, mask: BoolArray) -> None:
        change = raster.dilate if self.radius > 0 else raster.erode
        mask[:] = change(mask, abs(self.radius))


@dataclass(frozen=True)
class Invert:
    """What may change is protected, and the other way round."""

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
        """The mask as a new array."""
        if self.bits is None:
            return None
        flat = np.frombuffer(zlib.decompress(self.bits), dtype=np.uint8)
        count = self.shape[0] * self.shape[1]
        return np.unpackbits(flat, count=count).view(bool).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        return len(self.bits or b"")
