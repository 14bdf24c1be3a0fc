"""The shapes of a mask as their definitions say, pixel by pixel: slow and plain."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def centres(shape):
    """The centres (x, y) of all pixels of (H, W), two arrays."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return x, y


def stroke(shape, points, size):
    """What lies within half of ``size`` of a polyline; the thinnest brush holds one centre."""
    radius = max(size, 2**0.5) / 2
    x, y = centres(shape)
    covered = np.zeros(shape, bool)
    ends = list(pairwise(points)) or [(points[0], points[0])]
    for (x0, y0), (x1, y1) in ends:
        dx, dy = x1 - x0, y1 - y0
        length = dx * dx + dy * dy
        share = np.clip(((x - x0) * dx + (y - y0) * dy) / length, 0, 1) if length else 0.0
        ax, ay = (x - x0) - share * dx, (y - y0) - share * dy
        covered |= ax * ax + ay * ay <= radius * radius
    return covered


def polygon(shape, points):
    """What a closed polygon winds round."""
    x, y = centres(shape)
    winding = np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if y0 == y1:
            continue
        crossing = x0 + (y - y0) * ((x1 - x0) / (y1 - y0))
        winding += ((y0 <= y) & (y < y1) & (crossing <= x)).astype(int)
        winding -= ((y1 <= y) & (y < y0) & (crossing <= x)).astype(int)
    return winding != 0


def rectangle(shape, a, b):
    x, y = centres(shape)
    (x0, x1), (y0, y1) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    return (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)


def grown(mask, radius):
    """What lies within ``radius`` of what is set."""
    x, y = centres(mask.shape)
    result = np.zeros(mask.shape, bool)
    for row, column in np.argwhere(mask):
        result |= (x - column - 0.5) ** 2 + (y - row - 0.5) ** 2 <= radius * radius
    return result


def shrunk(mask, radius):
    return ~grown(~mask, radius)
