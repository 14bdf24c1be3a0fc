"""Draw a similarity map as an image overlay."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["colours", "heat_overlay"]

# Ends of the scale in OKLCh (Ottosson 2020): lightness, chroma, hue in degrees. Lightness rises
# evenly, so that the map reads without colour, too, and the hue runs from blue by red to yellow.
_LOW, _HIGH = (0.28, 0.10, 285.0), (0.94, 0.15, 465.0)
_MIDDLE_CHROMA = 0.19


@cache
def colours() -> npt.NDArray[np.uint8]:
    """Return the colours of 256 steps from low to high, (256, 3)."""
    share = np.linspace(0, 1, 256)
    lightness = _LOW[0] + (_HIGH[0] - _LOW[0]) * share
    ends = _LOW[1] + (_HIGH[1] - _LOW[1]) * share
    chroma = ends + (_MIDDLE_CHROMA - (_LOW[1] + _HIGH[1]) / 2) * np.sin(math.pi * share) ** 2
    hue = np.radians(_LOW[2] + (_HIGH[2] - _LOW[2]) * share)
    for _ in range(200):  # less colourful, where a screen has no such colour
        linear = _linear_rgb(lightness, chroma, hue)
        outside = ((linear < 0) | (linear > 1)).any(axis=1)
        if not outside.any():
            break
        chroma = np.where(outside, chroma * 0.98, chroma)
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: npt.NDArray[np.uint8] = np.rint(encoded * 255).astype(np.uint8)
    return table


def _linear_rgb(
    lightness: npt.NDArray[Any], chroma: npt.NDArray[Any], hue: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return linear sRGB (N, 3) of OKLCh, by the matrices of OKLab."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        axis=1,
    )
    matrix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    rgb: npt.NDArray[Any] = cones**3 @ matrix.T
    return rgb


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
