"""Images and masks, read from files, bytes, Pillow images and arrays: all of them by this module.

**Convention**

- Arrays are (H, W, 3), uint8, sRGB, upright. 0 is black, 255 white.
- The range of values is known or asked for, never assumed: 16-bit integers go from 0 to 65535,
  floats from 0 to 1; other integers are refused, as nothing says which of them is white.
- The size is checked before anything is decoded.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from dragwidget.data.colour import to_srgb
from dragwidget.data.frames import MAX_PIXELS, BoolArray
from dragwidget.data.image_opening import called, check_size, damaged, is_lossy, opened
from dragwidget.data.paths import absolute
from dragwidget.data.user_warning import warn_user

UInt8Array = npt.NDArray[np.uint8]
# TIFF tags that say how the pixels lie in the source's file; in another they are wrong.
_LAYOUT = {
    254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 290, 291, 292, 293, 297, 301,
    317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 347, 529, 530, 531, 532, 700,
    33723, 34377, 34675,
}  # fmt: skip
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_SRGB_PNG = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white and primaries, x and y


@dataclass(frozen=True, eq=False)
class Metadata:
    """What a source holds beside its colours.

    Attributes:
        alpha: (H, W) uint8, 0 = transparent, read-only; ``None``: opaque everywhere.
        exif: an EXIF block, its orientation left out, as the image is upright; may be empty.
        dpi: (horizontal, vertical), pixels per inch; ``None``: unknown.
        conversions: what was done to the pixels while they were read.
    """

    alpha: UInt8Array | None = None
    exif: bytes = b""
    dpi: tuple[float, float] | None = None
    conversions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.alpha is not None:
            self.alpha.setflags(write=False)


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image as it was read.

    pixels: (H, W, 3) uint8, sRGB, upright, what is transparent laid on white; read-only.
    path: absolute path of its file; ``None``: it was not read from one.
    """

    pixels: UInt8Array
    metadata: Metadata = Metadata()
    path: str | None = None


ImageSource = (
    Image.Image
    | str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | npt.NDArray[Any]
    | ReadImage
)


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ReadImage:
    """Read an image: upright, sRGB, 8 bits.

    Args:
        source: a Pillow image, the path of a file, the bytes of one, or an array (H, W), (H, W, 3)
            or (H, W, 4) in sRGB, either uint8 or floats in 0..1. ICC profiles are applied. A file
            with frames gives its first, an open Pillow image the frame it is at.
        max_pixels: largest image that is decoded, against files made to exhaust the memory.

    Warns (UserWarning) where something is guessed or left out: a profile that cannot be used, CMYK
    without one, a file of floats, 16-bit values that look like 12 bits, a PNG's own gamma or
    primaries, EXIF that says Adobe RGB or cannot be read, more frames than one.

    Raises:
        FileNotFoundError, IsADirectoryError: no file at that path.
        TypeError: a source of another kind.
        ValueError: not an image, a damaged or empty or too large one; values out of their range, or
            of unknown range; a URL.
    """
    if isinstance(source, ReadImage):
        return source
    if isinstance(source, np.ndarray):
        return _read(_from_array(source), max_pixels)
    if isinstance(source, Image.Image):
        return _read(source, max_pixels)
    with opened(source, max_pixels) as image:
        # The others of an MPO are the camera's own: a depth map, a smaller copy.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            warn_user(f"{called(source)} has several frames: the first is read")
        read = _read(image, max_pixels)
    return replace(read, path=absolute(source)) if isinstance(source, str | os.PathLike) else read


def read_mask(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> BoolArray:
    """Read a mask (H, W), True = editable: all that is neither black nor fully transparent.

    Any value above 0 counts, whatever the mode and the depth, so a soft edge is editable too.
    Palettes are looked up; colour profiles are not applied. Formats and limits are those of
    ``read_image``, and so are the errors; lossy formats are refused (ValueError).
    """
    if isinstance(source, np.ndarray):
        return _mask_of(_from_array(source), max_pixels)
    if isinstance(source, Image.Image):
        return _mask_of(source, max_pixels)
    with opened(source, max_pixels) as image:
        if is_lossy(image):
            raise ValueError(
                f"{called(source)}: {image.format} is lossy, so its black is never quite black: "
                "save the mask as PNG"
            )
        return _mask_of(image, max_pixels)


def flattened(image: Image.Image) -> Image.Image:
    """Return an RGB image, what is transparent laid on white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    below = Image.new("RGB", image.size, "white")
    below.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return below


def with_alpha(pixels: UInt8Array, alpha: UInt8Array | None) -> Image.Image:
    """Return the RGBA image whose pixels, laid on white, are these (H, W, 3), to the bit.

    Where it is fully transparent the pixels stay as they are, for whoever drops the alpha.
    """
    if alpha is None:
        return Image.fromarray(pixels)
    rgba = np.dstack([pixels, alpha])
    for row, laid, opacity in zip(rgba, pixels, alpha, strict=True):  # by rows: little memory
        soft = (opacity > 0) & (opacity < 255)
        share = opacity[soft, None] / 255.0
        row[soft, :3] = np.rint((laid[soft] - 255 * (1 - share)) / share).clip(0, 255)
    return Image.fromarray(rgba)


def _read(image: Image.Image, max_pixels: int) -> ReadImage:
    deep = image.mode.startswith("RGB") and ";16" in str(getattr(image, "tile", ""))
    upright, orientation = _upright(image, max_pixels)
    colour, alpha, depth = _split(upright, image)
    if deep:  # Pillow takes the upper 8 while it decodes
        depth = "brought from 16 bits to 8 bits"
    profile = image.info.get("icc_profile")
    if not profile:
        _warn_of_other_colours(image)
    rgb, name = to_srgb(colour, profile)
    if alpha is not None:
        below = Image.new("RGB", rgb.size, "white")
        below.paste(rgb, mask=alpha)
        rgb = below
    notes = (
        f"turned upright (EXIF orientation {orientation})" if orientation != 1 else "",
        depth,
        f"colours converted from {name} to sRGB" if name else "",
    )
    metadata = Metadata(
        alpha=None if alpha is None else _read_only(alpha),
        exif=_exif(image, rgb.size),
        dpi=read_dpi(image.info.get("dpi"), swapped=orientation >= 5),
        conversions=tuple(note for note in notes if note),
    )
    return ReadImage(_read_only(rgb), metadata)


def _mask_of(image: Image.Image, max_pixels: int) -> BoolArray:
    upright, _ = _upright(image, max_pixels)
    shown: BoolArray
    if upright.mode == "F" or upright.mode.startswith("I"):
        shown = np.asarray(upright) > 0
        if isinstance(clear := upright.info.get("transparency"), int):
            shown &= np.asarray(upright) != clear
        return shown
    colour, alpha, _ = _split(upright, image)
    values = np.asarray(colour if colour.mode == "L" else colour.convert("RGB"))
    shown = values > 0 if values.ndim == 2 else values.max(axis=-1) > 0
    return shown if alpha is None else shown & (np.asarray(alpha) > 0)


def _upright(image: Image.Image, max_pixels: int) -> tuple[Image.Image, int]:
    """Return a decoded copy, turned by its EXIF orientation; and that, 1 to 8."""
    check_size(image.size, max_pixels)
    tagged = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation)  # TIFF: load() turns it
    try:
        image.load()
    except Exception as error:
        raise damaged("the image", error) from error
    check_size(image.size, max_pixels)
    try:
        orientation = tagged or image.getexif().get(ExifTags.Base.Orientation, 1)
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # of damaged EXIF Pillow raises almost anything, too
        if isinstance(error, MemoryError):
            raise
        warn_user(
            f"the image's EXIF cannot be read ({error}): it is left out, and nothing is turned"
        )
        return image.copy(), 1
    return upright, orientation if orientation in range(1, 9) else 1


def _split(image: Image.Image, source: Image.Image) -> tuple[Image.Image, Image.Image | None, str]:
    """Colours (mode L, RGB, CMYK or LAB), alpha (L) where not all is opaque, and what was done.

    ``source`` is the image before it was copied: it knows its file.
    """
    done = ""
    alpha = None
    clear = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if isinstance(clear, int):
            alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        levels, done = _to_8_bits(values, image.mode, source)
        colour = Image.fromarray(levels)
    else:
        if 2 in np.atleast_1d(getattr(source, "tag_v2", {}).get(_SAMPLE_FORMAT, 1)):
            raise ValueError(_unknown_range("signed integers"))
        if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, as its file is
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        if image.mode in _SEPARATE:
            image = image.convert(_SEPARATE[image.mode])
        if image.mode in ("P", "PA", "RGBA", "LA") or clear is not None:
            rgba = image.convert("RGBA")
            alpha = rgba.getchannel("A")
            if image.mode not in ("L", "LA", "1"):
                image = rgba
        if image.mode not in _COLOURS:
            image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
        colour = image
    if alpha is not None and alpha.getextrema()[0] == 255:
        alpha = None
    return colour, alpha, done


_SEPARATE = {"La": "LA", "RGBa": "RGBA"}  # alpha multiplied in
_COLOURS = ("L", "RGB", "CMYK", "LAB")


def _to_8_bits(values: npt.NDArray[Any], mode: str, source: Image.Image) -> tuple[UInt8Array, str]:
    """Grey levels of numbers whose range is known; and what was done."""
    tags = getattr(source, "tag_v2", {})  # of a TIFF
    if mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also where it is NaN
            raise ValueError(_unknown_range(f"floats (mode F) from {low:g} to {high:g}"))
        warn_user(
            "the image holds floats: 0 is taken as black, 1 as white. An array of uint8 is sure"
        )
        levels = np.rint(values * np.float32(255)).astype(np.uint8)
    else:
        if mode == "I" and source.format not in ("PNG", "PPM"):  # which Pillow scales to 16 bits
            low, high = int(values.min()), int(values.max())
            raise ValueError(_unknown_range(f"integers (mode I) from {low} to {high}"))
        bits = int(np.atleast_1d(tags.get(_BITS, 16))[0])
        if bits == 16 and 0 < values.max() < 4096:
            warn_user(
                f"the image has 16 bits and no value above {values.max()}, so it is nearly black: "
                "if its range is smaller, scale it to an array of uint8, and pass that"
            )
        white = 2**bits - 1
        levels = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
        mode = f"{bits} bits"
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero; Pillow sees to that for 8 bits only
        levels = 255 - levels
    return levels, f"brought from {mode} to 8 bits"


def _unknown_range(what: str) -> str:
    return (
        f"the image holds {what}, and nothing says which value is white: scale it to 0..255, "
        "and pass an array of uint8, for example (array / white * 255).round().astype(np.uint8)"
    )


def _warn_of_other_colours(image: Image.Image) -> None:
    """Where the colours may not be sRGB, though no profile says so."""
    info = image.info
    gamma, points = info.get("gamma"), info.get("chromaticity", _SRGB_PNG)
    if image.format == "PNG" and "srgb" not in info:
        other = gamma is not None and abs(gamma * 2.2 - 1) > 0.02
        if other or any(abs(a - b) > 0.003 for a, b in zip(points, _SRGB_PNG, strict=False)):
            warn_user(
                f"the PNG states gamma {gamma} and primaries {points} in place of a colour "
                "profile, which programs often write wrongly: its colours are taken as sRGB"
            )
    try:
        exif = image.getexif()
        index = exif.get_ifd(ExifTags.IFD.Interop).get(1) if ExifTags.IFD.Exif in exif else None
    except Exception:  # damaged: the warning has been given
        return
    if index == "R03":
        warn_user(
            "the image's EXIF says Adobe RGB, and it carries no colour profile: its colours are "
            "taken as sRGB, so they are paler than they were"
        )


def _exif(image: Image.Image, size: tuple[int, int]) -> bytes:
    """The EXIF block for an upright sRGB image of that size, in another file; empty if none."""
    try:
        kept = Image.Exif()
        kept.load(image.getexif().tobytes())
        for tag in {ExifTags.Base.Orientation.value, *_LAYOUT} & set(kept):
            del kept[tag]
        details = kept.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in kept else {}
        now = {
            ExifTags.Base.ColorSpace: 1,  # sRGB
            ExifTags.Base.ExifImageWidth: size[0],
            ExifTags.Base.ExifImageHeight: size[1],
        }
        details.update({tag: value for tag, value in now.items() if tag in details})
        # The index of an Adobe RGB file; and a maker's notes hold places in the file they were in.
        for tag in (ExifTags.IFD.Interop, ExifTags.IFD.MakerNote):
            details.pop(tag, None)
        return kept.tobytes() if len(kept) else b""
    except Exception:  # damaged: the warning has been given
        return b""


def read_dpi(dpi: Any, swapped: bool = False) -> tuple[float, float] | None:
    """Pixels per inch, if it is a number of them that every format can hold."""
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(math.isfinite(value) and 1 <= value <= 65535 for value in (across, down)):
        return None
    return (down, across) if swapped else (across, down)


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
            f"divide it by the value of white, {_white_of(array.dtype)}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _white_of(dtype: np.dtype[Any]) -> str:
    if dtype == np.uint16:
        return "array / 65535 if all 16 bits are used"
    return "array * 1.0 for True" if dtype.kind == "b" else "array / 255 if that is 255"


def _read_only(image: Image.Image) -> UInt8Array:
    pixels = np.array(image)
    pixels.setflags(write=False)
    return pixels
