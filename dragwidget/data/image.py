"""The image that a session edits: read from anything, upright, sRGB, fitted to the model's grid.

**Convention**

- ``size`` is ``(width, height)``, in pixels, as in Pillow. Arrays are (H, W, 3), uint8, RGB.
- Fitting stretches the whole image onto the fitted size and never crops. Pixels are areas: the
  left edge of the image stays its left edge, so pixel centres map as
  ``x_fitted + 0.5 = (x + 0.5) * fitted_width / width``, and there and back shifts nothing.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from dragwidget.data.frames import MAX_PIXELS, BoolArray, Size
from dragwidget.data.image_reading import ImageSource, Metadata, ReadImage, read_image
from dragwidget.data.image_writing import carrying

UInt8Array = npt.NDArray[np.uint8]

_RESAMPLING = Image.Resampling.LANCZOS  # Pillow's keeps edges in place, both up and down


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image as it was given, and as the model sees it; equal to others by content.

    Attributes:
        original: (H, W, 3) uint8 sRGB, upright, what is transparent laid on white, read-only.
        pixels: (h, w, 3) uint8 sRGB, the same stretched to the model's grid, read-only.
        metadata: what it holds beside its colours; results carry it on.
        path: absolute path of its file; ``None``: it was not read from one, or that is not known.
    """

    original: UInt8Array
    pixels: UInt8Array
    metadata: Metadata = field(default_factory=Metadata)
    path: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pixels, and of the size they are fitted to."""
        return self._hash(None)

    def _hash(self, made_by: object) -> str:
        said = f"{self.original.shape} {self.pixels.shape} {made_by}"
        digest = hashlib.sha256(said.encode())
        digest.update(self.original.tobytes())
        return digest.hexdigest()

    def _content(self) -> tuple[object, ...]:
        alpha, exif, dpi = self.metadata.alpha, self.metadata.exif, self.metadata.dpi
        return self.digest, None if alpha is None else alpha.tobytes(), exif, dpi

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SourceImage):
            return NotImplemented
        return self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def unfitted(self) -> ReadImage:
        """The image as it was read, to be fitted to another size without being read again."""
        return ReadImage(self.original, self.metadata, self.path)

    @property
    def size(self) -> Size:
        """(width, height) of the original; the frame of ``DragInstructions``."""
        return self.original.shape[1], self.original.shape[0]

    @property
    def fitted_size(self) -> Size:
        """(width, height) of ``pixels``."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def pillow(self) -> Image.Image:
        """The image as it was given, in sRGB and upright, with its alpha (mode RGBA) if any."""
        return carrying(self.original, self.metadata)

    def restore(
        self, pixels: UInt8Array, editable: BoolArray | None = None, cell: int = 1
    ) -> Image.Image:
        """Fitted pixels (h, w, 3), uint8 RGB -> an image of the original size, unshifted.

        It carries the source's alpha (mode RGBA), and ``info`` its EXIF, dpi and sRGB profile.

        Args:
            editable: (H, W); elsewhere the original's own pixels stay, but for a blended seam.
                ``None``: none of them stay.
            cell: width of the seam, around what is editable, fitted pixels.
        """
        if pixels.shape != self.pixels.shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"pixels must be uint8 of shape {self.pixels.shape}, "
                f"got {pixels.dtype} of shape {pixels.shape}"
            )
        edited = Image.fromarray(pixels).resize(self.size, _RESAMPLING)
        if editable is not None:
            radius = math.ceil(cell * max(self.size) / max(self.fitted_size) / 2)
            share = feathered(editable, radius)[..., None]
            blended = self.original + share * (
                np.asarray(edited) - self.original.astype(np.float32)
            )
            edited = Image.fromarray(np.rint(blended).astype(np.uint8))
        return self.completed(edited)

    def completed(self, image: Image.Image) -> Image.Image:
        """Return an image of the original size, with the source's metadata if it has none."""
        if image.mode == "RGBA":
            return image
        return carrying(np.asarray(image.convert("RGB")), self.metadata)


def feathered(mask: BoolArray, radius: int) -> npt.NDArray[np.float32]:
    """Return a mask (H, W) as 1 where it is true, falling to 0 over ``2 * radius`` pixels around.

    What is farther from it than ``2 * radius`` rows or columns is exactly 0.
    """
    grown = _box_sum(mask.astype(np.int32), radius) > 0
    share = _box_sum(grown.astype(np.int32), radius) / np.float32((2 * radius + 1) ** 2)
    blended: npt.NDArray[np.float32] = np.where(mask, np.float32(1), share.astype(np.float32))
    return blended


def _box_sum(values: npt.NDArray[np.int32], radius: int) -> npt.NDArray[np.int32]:
    """Return the sums (H, W) over the square of ``radius`` around each cell; edges are repeated."""
    for _ in range(2):
        padded = np.pad(values, [(radius + 1, radius), (0, 0)], mode="edge")
        sums = np.cumsum(padded, axis=0, dtype=np.int32)
        values = (sums[2 * radius + 1 :] - sums[: len(values)]).T
    return values


def source_image(
    source: ImageSource,
    *,
    multiple: int = 64,
    max_side: int = 512,
    min_side: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> SourceImage:
    """Read an image and fit it to the model's grid.

    Args:
        source: what ``read_image`` takes, which says how it is read, what is refused and where it
            warns; or what it returned.
        multiple: both fitted sides are multiples of this; 64 pixels for Stable Diffusion.
        max_side: longest fitted side allowed, pixels.
        min_side: a longer side below this is stretched to it, pixels: a model sees little in an
            image much smaller than those it was trained on.
        max_pixels: largest image that is decoded, against files made to exhaust the memory.
    """
    read = read_image(source, max_pixels=max_pixels)
    original = Image.fromarray(read.pixels)
    fitted = np.array(
        original.resize(fit(original.size, multiple, max_side, min_side), _RESAMPLING)
    )
    fitted.setflags(write=False)
    return SourceImage(read.pixels, fitted, read.metadata, read.path)


def fit(size: Size, multiple: int = 64, max_side: int = 512, min_side: int = 1) -> Size:
    """Return the fitted (width, height) for an image of that size.

    The longer side goes up to the next multiple of at least ``min_side``, or to the last that
    ``max_side`` allows; the shorter to the multiple that keeps the aspect nearest, and at least
    one. So the aspect is off by half a multiple at most, but for images too narrow for that,
    which are stretched to one.

    >>> fit((500, 333)), fit((150, 201)), fit((4000, 3000)), fit((5000, 20)), fit((1, 1))
    ((512, 320), (192, 256), (512, 384), (512, 64), (64, 64))
    >>> fit((150, 201), min_side=512)
    (384, 512)
    """
    if multiple < 1 or max_side < multiple:
        raise ValueError(
            f"max_side must be at least {multiple} pixels, for the model works at sides that are "
            f"multiples of {multiple}; got {max_side}"
        )
    longest, shortest = max(size), min(size)
    long = min(-(-max(longest, min_side) // multiple), max_side // multiple) * multiple
    short = max(1, round(long * shortest / longest / multiple)) * multiple
    return (long, short) if size[0] >= size[1] else (short, long)
