"""The image that a session edits: read from anything, upright, RGB, fitted to the model's grid.

**Convention**

- ``size`` is ``(width, height)``, in pixels, as in Pillow. Arrays are (H, W, 3), uint8, RGB.
- Fitting stretches the whole image onto the fitted size and never crops. Pixels are areas: the
  left edge of the image stays its left edge, so pixel centres map as
  ``x_fitted + 0.5 = (x + 0.5) * fitted_width / width``, and there and back shifts nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from dragwidget.data.frames import MAX_PIXELS, Size

UInt8Array = npt.NDArray[np.uint8]

# Of all that Pillow can open: some of the others start programs (Ghostscript), or are for science.
FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000",
    "AVIF", "PCX", "SGI", "QOI",
)  # fmt: skip

_RESAMPLING = Image.Resampling.LANCZOS  # Pillow's keeps edges in place, both up and down


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image as it was given, and as the model sees it.

    original: (H, W, 3) uint8 RGB, upright, read-only.
    pixels: (h, w, 3) uint8 RGB, the same stretched to the model's grid, read-only.
    """

    original: UInt8Array
    pixels: UInt8Array

    @property
    def size(self) -> Size:
        """(width, height) of the original; the frame of ``DragInstructions``."""
        return self.original.shape[1], self.original.shape[0]

    @property
    def fitted_size(self) -> Size:
        """(width, height) of ``pixels``."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def restore(self, pixels: UInt8Array) -> Image.Image:
        """Fitted pixels (h, w, 3), uint8 RGB -> an image of the original size, unshifted."""
        if pixels.shape != self.pixels.shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"wanted uint8 pixels of shape {self.pixels.shape}, "
                f"got {pixels.dtype} of shape {pixels.shape}"
            )
        return Image.fromarray(pixels).resize(self.size, _RESAMPLING)


def source_image(
    source: Image.Image | str | os.PathLike[str] | npt.NDArray[Any],
    *,
    multiple: int = 64,
    max_side: int = 512,
    min_side: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> SourceImage:
    """Read an image and fit it to the model's grid.

    Args:
        source: a Pillow image, the path of a file, or an array (H, W), (H, W, 3) or (H, W, 4),
            either uint8 or floats in 0..1. Turned upright by its EXIF tag. What is transparent is
            laid on white. 16 bits are scaled to 8. A file with frames gives its first, an open
            Pillow image the frame it is at.
        multiple: both fitted sides are multiples of this; 64 pixels for Stable Diffusion.
        max_side: longest fitted side allowed, pixels.
        min_side: a longer side below this is stretched to it, pixels: a model sees little in a
            image much smaller than those it was trained on.
        max_pixels: largest image that is decoded, against files made to exhaust the memory.

    Raises:
        FileNotFoundError, IsADirectoryError: no file at that path.
        TypeError: a source of another kind.
        ValueError: not an image, a damaged or empty or too large one; values out of range.
    """
    if isinstance(source, str | os.PathLike):
        with _open(Path(source)) as file:
            original = _decode(file, max_pixels)
    elif isinstance(source, Image.Image):
        original = _decode(source, max_pixels)
    elif isinstance(source, np.ndarray):
        original = _decode(_from_array(source), max_pixels)
    else:
        raise TypeError(
            "an image must be a Pillow image, a path or a numpy array, "
            f"got {type(source).__name__}: convert it first"
        )
    fitted = original.resize(fit(original.size, multiple, max_side, min_side), _RESAMPLING)
    return SourceImage(_read_only(original), _read_only(fitted))


def fit(size: Size, multiple: int = 64, max_side: int = 512, min_side: int = 1) -> Size:
    """The fitted (width, height) for an image of that size.

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
            f"max_side must be at least one multiple, got max_side {max_side}, multiple {multiple}"
        )
    longest, shortest = max(size), min(size)
    long = min(-(-max(longest, min_side) // multiple), max_side // multiple) * multiple
    short = max(1, round(long * shortest / longest / multiple)) * multiple
    return (long, short) if size[0] >= size[1] else (short, long)


def _open(path: Path) -> Image.Image:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name one image in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no image at {path}")
    try:
        Image.init()  # which of them this Pillow has
        return Image.open(path, formats=[form for form in FORMATS if form in Image.OPEN])
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image that can be read: save it as PNG or JPEG"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is too large: {error}") from error
    except PermissionError:
        raise
    except Exception as error:  # as in ``_decode``
        raise ValueError(f"{path} is damaged or truncated: {error}") from error


def _decode(image: Image.Image, max_pixels: int) -> Image.Image:
    """Upright RGB, as a new image."""
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError(f"the image is empty: {width} x {height} pixels")
    if width * height > max_pixels:
        raise ValueError(
            f"the image has {width} x {height} pixels, and at most {max_pixels:,} are decoded: "
            "scale it down, or raise max_pixels"
        )
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise ValueError(f"the image is damaged or truncated: {error}") from error
    return _to_rgb(upright)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        image = _from_array(np.asarray(image))
    elif image.mode.startswith("I"):  # 16-bit grey, whichever way Pillow holds it
        image = _from_array(np.asarray(image) / 65535)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise ValueError(
            "an image array must be (H, W), (H, W, 3) or (H, W, 4) and not empty, "
            f"got shape {array.shape}: put channels last, and pass one image at a time"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError("the image array holds NaN or infinity: replace them first")
        if array.min() < 0 or array.max() > 1:
            raise ValueError(
                f"an image of floats must be in 0..1, got {array.min():g}..{array.max():g}: "
                "scale it, for example array / 255"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"an image array must be uint8 or floats in 0..1, got {array.dtype}: "
            "convert it with array.astype(np.uint8), or scale it to 0..1"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _read_only(image: Image.Image) -> UInt8Array:
    pixels = np.array(image)
    pixels.setflags(write=False)
    return pixels
