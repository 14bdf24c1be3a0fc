"""Masks as bits, packed: a long history holds hundreds, of the size of the image."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dragwidget.data.frames import BoolArray

KEPT = 4  # masks that stay unpacked, of those that were asked for last


class PackedMask(NamedTuple):
    """A mask (H, W) in a few bytes; equal where the masks are."""

    height: int
    width: int
    data: bytes

    def unpack(self) -> BoolArray:
        """Return the mask (H, W), read-only; the same array as long as it is among those kept."""
        return _unpacked(self)


def pack(mask: BoolArray) -> PackedMask:
    """Pack a mask (H, W)."""
    height, width = mask.shape
    return PackedMask(height, width, zlib.compress(np.packbits(mask, axis=None).tobytes(), 1))


@lru_cache(maxsize=KEPT)
def _unpacked(packed: PackedMask) -> BoolArray:
    bits = np.frombuffer(zlib.decompress(packed.data), dtype=np.uint8)
    count = packed.height * packed.width
    mask: BoolArray = np.unpackbits(bits, count=count).view(np.bool_)
    mask = mask.reshape(packed.height, packed.width)
    mask.setflags(write=False)
    return mask
