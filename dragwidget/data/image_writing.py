"""Images as the bytes of files: which formats can take one, and what they carry beside pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from dragwidget.data.colour import srgb_profile
from dragwidget.data.frames import Size
from dragwidget.data.image_reading import Metadata, UInt8Array, with_alpha
from dragwidget.data.user_warning import warn_user

_ALL = frozenset(("icc_profile", "exif", "dpi"))
_MAX_JPEG_EXIF = 65533  # bytes of one segment


@dataclass(frozen=True)
class OutputFormat:
    """A format that results are written in.

    Attributes:
        name: Pillow's.
        longest: side that it can hold, pixels.
        alpha: whether it holds transparency that most programs read.
        carries: what it holds of ``icc_profile``, ``exif`` and ``dpi``.
        options: of Pillow's encoder, such that little is lost.
    """

    name: str
    longest: int = 2**31 - 1
    alpha: bool = False
    carries: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)


_FORMATS = {
    form.name: form
    for form in (
        OutputFormat("PNG", alpha=True, carries=_ALL),
        OutputFormat(
            "JPEG", longest=65500, carries=_ALL, options={"quality": 95, "subsampling": 0}
        ),
        OutputFormat(
            "WEBP", longest=16383, alpha=True, carries=_ALL - {"dpi"}, options={"quality": 95}
        ),
        OutputFormat("TIFF", alpha=True, carries=_ALL),
        OutputFormat(
            "AVIF", longest=16384, alpha=True, carries=_ALL - {"dpi"}, options={"quality": 90}
        ),
        OutputFormat("BMP", carries=frozenset({"dpi"})),
        OutputFormat("JPEG2000", alpha=True),
        OutputFormat("TGA", longest=65535, alpha=True),
        OutputFormat("PPM"),
    )
}
_BY_SUFFIX = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".webp": "WEBP",
    ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".bmp": "BMP", ".jp2": "JPEG2000",
    ".tga": "TGA", ".ppm": "PPM",
}  # fmt: skip


def output_format(path: Path, size: Size, *, transparent: bool = False) -> OutputFormat:
    """Return the format that a path's ending names, for a result of that (width, height).

    Raises ValueError where it is none that is written, or cannot take the result.
    """
    Image.init()  # which of them this Pillow has
    suffix = path.suffix.lower()
    form = _FORMATS.get(_BY_SUFFIX.get(suffix, ""))
    if form is None or form.name not in Image.SAVE:
        known = " ".join(end for end, name in _BY_SUFFIX.items() if name in Image.SAVE)
        raise ValueError(
            f"{path} has no known image ending: name it like {path.stem}.png (or one of {known})"
        )
    if max(size) > form.longest:
        raise ValueError(
            f"{path}: {form.name} holds at most {form.longest} pixels a side, the image has "
            f"{size[0]} x {size[1]}: name it like {path.stem}.png"
        )
    if transparent and not form.alpha:
        raise ValueError(
            f"{path}: {form.name} cannot hold the transparency of the image: name it like "
            f"{path.stem}.png or {path.stem}.webp"
        )
    return form


def carrying(pixels: UInt8Array, metadata: Metadata) -> Image.Image:
    """Pixels (H, W, 3) as an image with all that its source carries beside its colours.

    The alpha makes it RGBA; EXIF, dpi and the profile of sRGB are in its ``info``.
    """
    image = with_alpha(pixels, metadata.alpha)
    carried = {"icc_profile": srgb_profile(), "exif": metadata.exif, "dpi": metadata.dpi}
    image.info.update({name: value for name, value in carried.items() if value})
    return image


def save_options(image: Image.Image, name: str) -> dict[str, Any]:
    """What to pass to ``Image.save`` so that a file of this Pillow format carries what it can."""
    form = _FORMATS.get(name.upper())
    if form is None:
        return {}
    carried = {key: image.info[key] for key in sorted(form.carries) if image.info.get(key)}
    if "icc_profile" in form.carries:
        carried["icc_profile"] = srgb_profile()  # results are sRGB, whatever their ``info`` says
    if form.name == "JPEG" and len(carried.get("exif", b"")) > _MAX_JPEG_EXIF:
        del carried["exif"]
        warn_user("the EXIF is too large for a JPEG: it is left out")
    return {**form.options, **carried}


def encode_image(image: Image.Image, name: str) -> bytes:
    """Return the bytes of a file of this Pillow format, with all that it can carry."""
    file = io.BytesIO()
    image.save(file, name, **save_options(image, name))
    return file.getvalue()
