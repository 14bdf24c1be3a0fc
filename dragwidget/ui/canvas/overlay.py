"""Encode images and mask overlays for the browser."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from dragwidget.data.frames import BoolArray, Size

MASK_STYLES = ("darken", "tint", "hidden")

SHOWN_SIDE = 2048  # longest side of an image that is sent to the browser
_CRISP_SIDE = 1024  # a smaller mask is enlarged to this, lest the browser blur its pixels
_LOSSLESS_PIXELS = 1_200_000  # a larger image is sent as JPEG
_EDGE = "#ffffffd9"


def shown_size(size: Size) -> Size:
    """Return (width, height) at which an image of that size is sent to the browser."""
    scale = min(1.0, SHOWN_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def encode(image: Image.Image, *, lossless: bool) -> tuple[str, bytes]:
    """Encode an RGB image as (format, bytes), fast rather than small; lossless up to 1.2 MP."""
    file = io.BytesIO()
    if not lossless or image.width * image.height > _LOSSLESS_PIXELS:
        image.save(file, "JPEG", quality=90, subsampling=0)
        return "jpeg", file.getvalue()
    if features.check("webp") and max(image.size) <= 16383:
        image.save(file, "WEBP", lossless=True, quality=0, method=0)
        return "webp", file.getvalue()
    image.save(file, "PNG", compress_level=1)
    return "png", file.getvalue()


class Overlay:
    """Renders a mask in the colours of a style, at the resolution of the browser.

    style: "darken" darkens the protected region, "tint" colours the editable one, "hidden" shows
    nothing.
    tint: "#rrggbb". opacity: 0 to 1. on_screen: longest side of the fitted image, canvas pixels.
    """

    def __init__(
        self, mask: BoolArray, style: str, tint: str, opacity: float, on_screen: float
    ) -> None:
        rows, columns = (_sample(side, max(mask.shape)) for side in mask.shape)
        allowed = mask[np.ix_(rows, columns)]
        width = max(1, round(2 * max(allowed.shape) / max(on_screen, 1)))  # of the edge
        filled = allowed if style == "tint" else ~allowed
        self._index = filled.astype(np.uint8)
        self._index[_edge(allowed, width)] = 2
        fill, edge = colours(style, tint, opacity)
        if style == "hidden":
            self._index[:] = 0
        self._palette = [bytes(4), _bytes(fill), _bytes(edge)]

    @property
    def size(self) -> Size:
        return self._index.shape[1], self._index.shape[0]

    def png(self) -> bytes:
        image = Image.fromarray(self._index).convert("P")
        image.putpalette(b"".join(colour[:3] for colour in self._palette))
        file = io.BytesIO()
        alphas = bytes(colour[3] for colour in self._palette)
        image.save(file, "PNG", compress_level=1, transparency=alphas)
        return file.getvalue()

    def rgba(self) -> Image.Image:
        table = np.frombuffer(b"".join(self._palette), dtype=np.uint8).reshape(-1, 4)
        return Image.fromarray(table[self._index])


def colours(style: str, tint: str, opacity: float) -> tuple[str, str]:
    """Return #rrggbbaa of the filled region and of its edge."""
    alpha = f"{round(255 * opacity):02x}"
    if style == "tint":
        return f"{tint}{alpha}", f"{tint}ff"
    return f"#0b0b10{alpha}", _EDGE


def _bytes(colour: str) -> bytes:
    return bytes.fromhex(colour[1:])


def _sample(side: int, longest: int) -> npt.NDArray[np.intp]:
    """Return the row, or column, of the mask for each row, or column, that is shown."""
    if longest > SHOWN_SIDE:
        count = max(1, round(side * SHOWN_SIDE / longest))
        return ((np.arange(count) + 0.5) * (side / count)).astype(np.intp)
    return np.repeat(np.arange(side), max(1, round(_CRISP_SIDE / longest)))


def _edge(allowed: BoolArray, width: int) -> BoolArray:
    """Return the editable pixels within ``width`` of the protected region."""
    inner = allowed.copy()
    for axis in (0, 1):
        if allowed.shape[axis] > width:
            near, far = np.swapaxes(inner, 0, axis), np.swapaxes(allowed, 0, axis)
            near[width:] &= far[:-width]
            near[:-width] &= far[width:]
    edge: BoolArray = allowed & ~inner
    return edge
