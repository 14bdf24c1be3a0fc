"""Rasterise shapes in image pixels, bit for bit the same everywhere.

**Convention**: a pixel is an area, pixel ``(column, row)`` covering ``[column, column + 1) x
[row, row + 1)`` of the image frame, which is how a canvas shows it. A shape covers the pixels whose
centres lie in it. Shapes may reach outside the image; what is outside covers nothing.

Every function takes a mask (H, W), bool, and sets in place what its shape covers to ``value``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import BoolArray

Points = npt.NDArray[np.float64]  # (N, 2), (x, y) in image pixels
Sizes = npt.NDArray[np.float64]  # (N,), diameters in image pixels

# A disc of this diameter holds the centre of the pixel it lies in, wherever it lies.
THINNEST = math.sqrt(2)


def paint_stroke(mask: BoolArray, points: Points, size: float | Sizes, value: bool) -> None:
    """Paint a polyline of N >= 1 points with a round brush of diameter ``size``, round caps.

    With a diameter for each point, (N), a segment is as wide as the mean of its ends.
    """
    sizes = np.broadcast_to(np.asarray(size, dtype=np.float64), len(points))
    if len(points) > 1:
        sizes = (sizes[:-1] + sizes[1:]) / 2
    radii = np.maximum(sizes, THINNEST) / 2
    widest = radii.max()
    # A pixel more than floating point needs on each side; the distances decide.
    left, top = np.floor(points.min(axis=0) - widest) - 1
    right, bottom = np.ceil(points.max(axis=0) + widest) + 1
    window = _Window.clipped(mask, left, top, right, bottom)
    if window is None:
        return
    # One point is a segment of no length.
    starts, ends = (points[:-1], points[1:]) if len(points) > 1 else (points, points)
    for start, end, radius in zip(starts, ends, radii.tolist(), strict=True):
        _add_capsule(window, start, end, radius)
    window.paint(value)


@dataclass(frozen=True)
class _Window:
    """A part of a mask, and per row where shapes begin (+1) and end (-1) to cover its pixels."""

    part: BoolArray  # (h, w), a view of the mask
    edges: npt.NDArray[np.int32]  # (h, w + 1)
    left: int
    top: int

    @classmethod
    def clipped(
        cls, mask: BoolArray, left: float, top: float, right: float, bottom: float
    ) -> _Window | None:
        height, width = mask.shape
        x0, x1 = (int(min(max(x, 0), width)) for x in (left, right))
        y0, y1 = (int(min(max(y, 0), height)) for y in (top, bottom))
        if x0 >= x1 or y0 >= y1:
            return None
        edges = np.zeros((y1 - y0, x1 - x0 + 1), dtype=np.int32)
        return cls(mask[y0:y1, x0:x1], edges, x0, y0)

    def paint(self, value: bool) -> None:
        inside = np.cumsum(self.edges[:, :-1], axis=1, dtype=np.int32) != 0
        self.part[inside] = value


def _add_capsule(window: _Window, start: Points, end: Points, radius: float) -> None:
    """Add all pixels whose centres are at most ``radius`` from the segment.

    A capsule is convex, so it covers one run of each row. Geometry says where the run ends to
    within a pixel; the distance of the centres there, which is the definition, says exactly.
    """
    height = len(window.part)
    low, high = min(start[1], end[1]) - radius, max(start[1], end[1]) + radius
    first = int(min(max(math.floor(low) - 1 - window.top, 0), height))
    last = int(min(max(math.ceil(high) + 1 - window.top, 0), height))
    if first >= last:
        return
    rows = np.arange(first, last)
    y = rows + (window.top + 0.5 - start[1])  # all relative to the start of the segment
    along_x, along_y = (end - start).tolist()
    length_squared = along_x * along_x + along_y * along_y
    reach = radius * radius

    def covered(columns: npt.NDArray[np.intp]) -> BoolArray:
        x = columns + (0.5 - start[0])
        share = 0.0 if length_squared == 0 else (x * along_x + y * along_y) / length_squared
        share = np.clip(share, 0, 1)
        across, down = x - share * along_x, y - share * along_y
        near: BoolArray = across * across + down * down <= reach
        return near

    lefts, rights = [], []
    for x0, y0 in ((0.0, 0.0), (along_x, along_y)):  # the caps
        half = np.sqrt(np.maximum(reach - (y - y0) ** 2, 0))
        near = np.abs(y - y0) <= radius + 1e-9
        lefts.append(np.where(near, x0 - half, np.inf))
        rights.append(np.where(near, x0 + half, -np.inf))
    if abs(along_y) > 1e-9:  # else the caps reach all that the sides do
        length = math.sqrt(length_squared)
        for side in (radius / length, -radius / length):  # the straight sides
            share = (y - side * along_x) / along_y
            x = share * along_x - side * along_y
            between = (share >= -1e-9) & (share <= 1 + 1e-9)
            lefts.append(np.where(between, x, np.inf))
            rights.append(np.where(between, x, -np.inf))
    begin = np.ceil(np.minimum.reduce(lefts) + start[0] - 0.5)
    stop = np.floor(np.maximum.reduce(rights) + start[0] - 0.5)
    some = begin <= stop + 2  # rows that may be reached at all
    rows, y, begin, stop = rows[some], y[some], begin[some], stop[some]
    first_column, last_column = begin.astype(np.intp), stop.astype(np.intp)
    missed_left = _missed(covered, first_column - 1, +1)
    missed_right = _missed(covered, last_column + 1, -1)
    first_column = first_column - 1 + missed_left
    last_column = last_column + 1 - missed_right
    # Geometry is not that far off: a row that begins so late is not reached.
    some = (missed_left < 3) & (missed_right < 3) & (first_column <= last_column)
    rows, width = rows[some], window.part.shape[1]
    first_column = np.clip(first_column[some] - window.left, 0, width)
    after = np.clip(last_column[some] + 1 - window.left, 0, width)
    window.edges[rows, first_column] += 1  # a row comes once, so no two of these meet
    window.edges[rows, after] -= 1


def _missed(
    covered: Callable[[npt.NDArray[np.intp]], BoolArray], columns: npt.NDArray[np.intp], step: int
) -> npt.NDArray[np.intp]:
    """Return how many columns from there on, 0 to 3, are not covered."""
    missed = np.zeros_like(columns)
    searching = np.ones(columns.shape, dtype=bool)
    for offset in range(3):
        searching &= ~covered(columns + step * offset)
        missed += searching
    return missed


def paint_polygon(mask: BoolArray, points: Points, value: bool) -> None:
    """Paint the inside of a closed polygon of N points, by the nonzero winding rule."""
    width = mask.shape[1]
    window = _Window.clipped(
        mask, 0, np.floor(points[:, 1].min()), width, np.ceil(points[:, 1].max())
    )
    if window is None:
        return
    # Every edge that passes the centre line of a row changes, from there to the right, how often
    # the polygon winds round a pixel; the sum along the row tells inside from outside.
    bottom = window.top + len(window.part)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        low, high, turn = (y0, y1, 1) if y0 < y1 else (y1, y0, -1)
        first, last = (int(min(max(math.ceil(y - 0.5), window.top), bottom)) for y in (low, high))
        if first >= last:
            continue
        rows = np.arange(first, last)
        crossing = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)
        window.edges[rows - window.top, columns] += turn
    window.paint(value)


def paint_rectangle(
    mask: BoolArray, a: tuple[float, float], b: tuple[float, float], value: bool
) -> None:
    """Paint the rectangle between two opposite corners, in any order."""
    height, width = mask.shape
    (left, top), (right, bottom) = (
        (math.ceil(low(a[0], b[0]) - 0.5), math.ceil(low(a[1], b[1]) - 0.5)) for low in (min, max)
    )
    mask[
        min(max(top, 0), height) : min(max(bottom, 0), height),
        min(max(left, 0), width) : min(max(right, 0), width),
    ] = value


def dilate(mask: BoolArray, radius: float) -> BoolArray:
    """Return a new mask: all pixels whose centre is within ``radius`` of a True one's."""
    if radius < 1 or not mask.any():
        same: BoolArray = mask.copy()
        return same
    # Only round what is True; the border of what is not looked at stays as it is.
    reach = int(radius)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    window = (
        slice(max(rows[0] - reach, 0), rows[-1] + reach + 1),
        slice(max(columns[0] - reach, 0), columns[-1] + reach + 1),
    )
    source = mask[window]
    grown = source.copy()
    # Per distance in rows the disc is so many columns wide: widened step by step, laid up and down.
    wide = source.copy()
    half = 0
    for rise in range(min(reach, len(source) - 1), -1, -1):
        wanted = min(int(math.sqrt(radius * radius - rise * rise)), source.shape[1])
        while half < wanted:
            wider = wide.copy()
            wider[:, 1:] |= wide[:, :-1]
            wider[:, :-1] |= wide[:, 1:]
            wide = wider
            half += 1
        grown[rise:] |= wide[: len(wide) - rise]
        grown[: len(wide) - rise] |= wide[rise:]
    result: BoolArray = mask.copy()
    result[window] = grown
    return result


def erode(mask: BoolArray, radius: float) -> BoolArray:
    """Return a new mask without pixels within ``radius`` of a False one; the border is True."""
    left: BoolArray = ~dilate(~mask, radius)
    return left
