"""Draw a similarity map as an image overlay."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

# From low to high, evenly spaced on a curve in OKLCh (Ottosson 2020): lightness rises evenly, so
# that the map reads without colour, too, and the hue runs from blue by red to yellow.
_COLOURS = (
    "#261d57", "#3b2462", "#51296d", "#6a2c76", "#842e7a", "#a03078", "#ba3371", "#d23c65",
    "#e64b55", "#f56043", "#fe7831", "#fe9438", "#fead44", "#ffc451", "#ffda59", "#faf170",
)  # fmt: skip


@cache
def colours() -> npt.NDArray[np.uint8]:
    """Return the colours of 256 steps from low to high, (256, 3)."""
    places = np.linspace(0, 255, len(_COLOURS))
    channels = np.array([ImageColor.getrgb(colour) for colour in _COLOURS]).T
    table = np.stack([np.interp(np.arange(256), places, channel) for channel in channels], axis=1)
    levels: npt.NDArray[np.uint8] = np.rint(table).astype(np.uint8)
    return levels


def heat_overlay(
    similarity: npt.ArrayLike,
    size: tuple[int, int] | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    opacity: float = 0.75,
) -> Image.Image:
    """Return a heat map, RGBA: high similarity bright and nearly opaque, low dark and faint.

    Args:
        similarity: (H, W), any range; what is not finite is clear.
        size: (width, height) of the image it is laid over, pixels; by default its own.
        low, high: ends of the scale; by default those of the array.
        opacity: opacity of the highest similarity, 0 to 1; the lowest has a third of it.

    Raises:
        ValueError: not an array (H, W), or an empty one.
    """
    values = np.asarray(similarity, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"similarity must be an array (H, W), got shape {values.shape}")
    finite = np.isfinite(values)
    inside = values[finite]
    low = float(inside.min()) if low is None and inside.size else low or 0.0
    high = float(inside.max()) if high is None and inside.size else high or 0.0
    span = high - low
    filled = np.where(finite, values, low)
    share = ((filled - low) / span).clip(0, 1) if span > 0 else np.zeros_like(values)
    size = (values.shape[1], values.shape[0]) if size is None else size
    if size != (values.shape[1], values.shape[0]):
        share = np.asarray(_resized(share, size, Image.Resampling.BILINEAR)).clip(0, 1)
        finite = np.asarray(_resized(finite.astype(float), size, Image.Resampling.NEAREST)) > 0.5
    alpha = np.where(finite, 255 * opacity * (1 + 2 * share) / 3, 0)
    rgb = colours()[np.rint(share * 255).astype(np.intp)]
    rgba = np.dstack([rgb, np.rint(alpha).astype(np.uint8)])
    return Image.fromarray(rgba)


def _resized(values: npt.NDArray[Any], size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    return Image.fromarray(values.astype(np.float32)).resize(size, how)
