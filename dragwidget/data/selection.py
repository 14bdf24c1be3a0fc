"""Select a thing in an image by clicks on it: by colours, or by features from elsewhere.

**Convention**: points are ``(x, y)`` in image pixels, pixel ``(column, row)`` covering ``[column,
column + 1) x [row, row + 1)``. A description of an image is an array (h, w, C) float32 over the
whole image, whose Euclidean distances say how different two places are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dragwidget.data.frames import BoolArray, Size
from dragwidget.data.image import UInt8Array
from dragwidget.data.regions import Regions

__all__ = [
    "TOLERANCES", "check_clicks", "connected", "guided_filter", "lab", "select", "select_by_colour",
    "select_regions", "swept", "working_size",
]  # fmt: skip

Floats = npt.NDArray[np.float32]

WORK_SIDE = 256  # pixels of the longest side of what is compared
COLOUR_REACH = 12.0  # units of CIELAB that a thing's colours differ by, at tolerance 1
REFINE_RADIUS, REFINE_EPSILON = 2, 1e-4  # cells; variance of levels 0 to 1
REFINED_SIDE = 1024  # pixels of the longest side of what the filter is applied to
TOLERANCES = (1 / 16, 16.0)


def select_by_colour(
    pixels: UInt8Array,
    points: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    tolerance: npt.ArrayLike = 1.0,
) -> BoolArray:
    """Return the mask (H, W) of what has the colours of the clicked places and touches them.

    Args:
        pixels: the image, (H, W, 3) uint8.
        points: the clicks, (N, 2).
        labels: (N,) bool: True on the thing, False off it; by default all are on it.
        tolerance: how different colours may be, as a factor, 1/16 to 16; or one a click, (N,).
    """
    size = (pixels.shape[1], pixels.shape[0])
    small = Image.fromarray(pixels).resize(working_size(size), Image.Resampling.BOX)
    return select(pixels, lab(np.asarray(small)) / COLOUR_REACH, points, labels, tolerance)


def select(
    pixels: UInt8Array,
    description: Floats,
    points: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    tolerance: npt.ArrayLike = 1.0,
) -> BoolArray:
    """Return the mask (H, W) of what is like the clicked places, touches them and ends at edges.

    Args:
        pixels: the image, (H, W, 3) uint8, whose edges the mask follows.
        description: (h, w, C); at tolerance 1, places less than 1 apart are one thing.
        points: as for ``select_by_colour``; likewise labels and tolerance.
    """
    size = (pixels.shape[1], pixels.shape[0])
    where, on, reach = check_clicks(size, points, labels, tolerance)
    height, width = description.shape[:2]
    cells = np.floor(where / size * (width, height)).astype(int)
    like = np.full((2, height, width), np.inf, dtype=np.float32)  # what is off the thing, and on it
    for cell, is_on, factor in zip(cells, on.tolist(), reach.tolist(), strict=True):
        apart = _apart(description, cell) / np.float32(factor)
        if not is_on:  # its like elsewhere may well be of the thing
            apart[~connected(apart <= 1, _only(cell, apart))] = np.inf
        np.minimum(like[int(is_on)], apart, out=like[int(is_on)])
    inside = (like[1] <= 1) & (like[1] < like[0])
    seeds = np.zeros_like(inside)
    seeds[cells[on, 1], cells[on, 0]] = True
    found = connected(inside, seeds)
    return _refined(pixels, found)


def select_regions(
    pixels: UInt8Array,
    regions: Regions,
    points: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    tolerance: npt.ArrayLike = 1.0,
) -> BoolArray:
    """Return the mask (H, W) of the regions of an image that the clicks most likely mean.

    A click selects the regions around it that it most likely means. A further one corrects: it
    adds what it means, or takes it away, and nothing that holds an earlier click of the other kind.
    With another tolerance a click means what is so many times as large.

    Args:
        pixels: the image, (H, W, 3) uint8, whose edges the mask follows.
        regions: of this image.
        points: as for ``select_by_colour``; likewise labels and tolerance.
    """
    size = (pixels.shape[1], pixels.shape[0])
    where, on, reach = check_clicks(size, points, labels, tolerance)
    height, width = regions.leaf.shape
    found, earlier = np.zeros((height, width), dtype=bool), list[tuple[tuple[int, int], bool]]()
    for (x, y), is_on, factor in zip(where, on.tolist(), reach.tolist(), strict=True):
        cell = (int(y * height / size[1]), int(x * width / size[0]))
        found[regions.meant(found, cell, is_on, earlier, factor)] = is_on
        earlier.append((cell, is_on))
    return _refined(pixels, found)


def swept(part: BoolArray, move: tuple[float, float]) -> BoolArray:
    """Return all pixels that a mask (H, W) covers while it moves straight by ``move``, (x, y)."""
    covered: BoolArray = part.copy()
    whole = max(1, math.ceil(max(map(abs, move))))  # in moves of a pixel at most
    done = 1  # of them: what is covered after so many is known
    while done <= whole:
        further = min(done, whole + 1 - done)
        covered |= _moved(covered, (move[0] * further / whole, move[1] * further / whole))
        done += further
    return covered


def _moved(mask: BoolArray, move: tuple[float, float]) -> BoolArray:
    """Return a mask (H, W) moved by whole pixels; what leaves the image is gone."""
    moved: BoolArray = np.zeros_like(mask)
    (x, y), (height, width) = (round(move[0]), round(move[1])), mask.shape
    if abs(x) < width and abs(y) < height:
        moved[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)] = mask[
            max(-y, 0) : height + min(-y, 0), max(-x, 0) : width + min(-x, 0)
        ]
    return moved


def check_clicks(
    size: Size, points: npt.ArrayLike, labels: npt.ArrayLike | None, tolerance: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], BoolArray, npt.NDArray[np.float64]]:
    """Return points (N, 2), labels and tolerances (N,) of clicks; ValueError where they are none.

    Args:
        size: (width, height) of the image.
    """
    where = np.asarray(points, dtype=np.float64)
    if where.shape == (2,):
        where = where[None]
    if where.ndim != 2 or where.shape[1] != 2 or not len(where):
        raise ValueError(f"points must be (x, y), or several of them (N, 2), got {points!r:.100}")
    for x, y in where:
        if not (0 <= x < size[0] and 0 <= y < size[1]):
            raise ValueError(
                f"the point ({x:g}, {y:g}) is outside the image: x must be in [0, {size[0]}) and "
                f"y in [0, {size[1]})"
            )
    on = np.ones(len(where), dtype=bool) if labels is None else np.asarray(labels)
    if on.dtype != np.bool_ or on.shape != (len(where),):
        raise ValueError(f"labels must be {len(where)} booleans, one a point, got {labels!r:.100}")
    low, high = TOLERANCES
    reach = np.asarray(tolerance, dtype=np.float64)
    if reach.shape not in ((), on.shape) or not ((reach >= low) & (reach <= high)).all():
        raise ValueError(
            f"tolerance must be a factor of {low:g} to {high:g}, or one a point, "
            f"got {tolerance!r:.100}"
        )
    return where, on, np.broadcast_to(reach, on.shape)


def working_size(size: Size) -> Size:
    """Return the (width, height) that an image is compared at, ``WORK_SIDE`` at most."""
    scale = min(1.0, WORK_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def lab(pixels: UInt8Array) -> Floats:
    """Return sRGB (H, W, 3) uint8 as CIELAB under D65, (H, W, 3) float32."""
    levels = np.arange(256, dtype=np.float32) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    xyz = linear.astype(np.float32)[pixels] @ _XYZ.T / _WHITE
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


_XYZ = np.array(  # of linear sRGB, IEC 61966-2-1
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)
_WHITE = _XYZ.sum(axis=1)  # D65


def connected(inside: BoolArray, seeds: BoolArray) -> BoolArray:
    """Return what of a mask (h, w) is connected, by sides, with a seed that lies in it."""
    across, down = _runs(inside), _runs(inside.T).T
    reached: BoolArray = inside & seeds
    count = -1
    while count != (count := int(np.count_nonzero(reached))):
        for runs in (across, down):  # whoever reaches a run reaches all of it
            met = np.zeros(int(runs.max(initial=0)) + 1, dtype=bool)
            met[runs[reached]] = True
            reached = met[runs]
    return reached


def _runs(inside: BoolArray) -> npt.NDArray[np.intp]:
    """Return the number of the run that each pixel of a mask belongs to, along rows; 0: none."""
    starts = inside.copy()
    starts[:, 1:] &= ~inside[:, :-1]
    return np.where(inside, np.cumsum(starts).reshape(inside.shape), 0)


def _only(cell: npt.NDArray[np.int_], like: npt.NDArray[Any]) -> BoolArray:
    """Return a mask of the size of ``like`` (h, w) that holds one cell (column, row)."""
    mask = np.zeros(like.shape, dtype=bool)
    mask[cell[1], cell[0]] = True
    return mask


def _apart(description: Floats, cell: npt.NDArray[np.int_]) -> Floats:
    """Return how different all places are from a cell (column, row) and those beside it."""
    rows, columns = (slice(max(at - 1, 0), at + 2) for at in cell[::-1])
    middle = description[rows, columns].mean(axis=(0, 1))
    apart: Floats = np.linalg.norm(description - middle, axis=-1)
    return apart


def _refined(pixels: UInt8Array, coarse: BoolArray) -> BoolArray:
    """Return a mask (h, w) at the size of the image (H, W, 3), snapped to its edges.

    The filter is fitted to the image at the mask's size, and applied where it is sharper: He, Sun:
    Fast Guided Filter, arXiv 1505.00996.
    """
    image, size = Image.fromarray(pixels), (pixels.shape[1], pixels.shape[0])
    cells = (coarse.shape[1], coarse.shape[0])
    small = np.asarray(image.resize(cells, Image.Resampling.BOX)) / np.float32(255)
    slope, offset = guided_filter(small, coarse.astype(np.float32), REFINE_RADIUS, REFINE_EPSILON)
    scale = min(1.0, REFINED_SIDE / max(size))
    sharp = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    guide = np.asarray(image.resize(sharp, Image.Resampling.BOX)) / np.float32(255)
    soft = _resized(offset, sharp)
    for k in range(3):
        soft = soft + _resized(slope[..., k], sharp) * guide[..., k]
    refined: BoolArray = _resized(soft, size) > 0.5
    return refined


def _resized(values: Floats, size: Size) -> Floats:
    shown = Image.fromarray(values.astype(np.float32))
    return np.asarray(shown.resize(size, Image.Resampling.BILINEAR))


def guided_filter(
    guide: Floats, values: Floats, radius: int, epsilon: float
) -> tuple[Floats, Floats]:
    """Return the local linear map of a guide (H, W, 3) that is most like values (H, W).

    He, Sun, Tang: Guided Image Filtering, IEEE TPAMI 2013, equations 14 to 16.

    Args:
        guide: an image whose levels are 0 to 1.
        values: what is smoothed, but for the edges of the guide.
        radius: of the square windows, pixels.
        epsilon: variance of the guide below which it has no edge.

    Returns:
        slope (H, W, 3) and offset (H, W); the result is ``(slope * guide).sum(-1) + offset``.
    """
    mean, mean_values = _mean(guide, radius), _mean(values, radius)
    shared = _mean(guide * values[..., None], radius) - mean * mean_values[..., None]
    products = guide[..., :, None] * guide[..., None, :]
    spread = _mean(products, radius) - mean[..., :, None] * mean[..., None, :]
    slope = np.linalg.solve(spread + epsilon * np.eye(3), shared[..., None])[..., 0]
    offset = mean_values - (slope * mean).sum(axis=-1)
    return (
        _mean(slope, radius).astype(np.float32),
        _mean(offset, radius).astype(np.float32),
    )


def _mean(values: npt.NDArray[np.floating], radius: int) -> npt.NDArray[np.float64]:
    """Return the mean over the square around each pixel, cut off at the border."""
    means = values.astype(np.float64)
    for axis in (0, 1):
        count = means.shape[axis]
        sums = np.insert(np.cumsum(means, axis=axis), 0, 0.0, axis=axis)
        first = np.maximum(np.arange(count) - radius, 0)
        after = np.minimum(np.arange(count) + radius + 1, count)
        whole = np.take(sums, after, axis=axis) - np.take(sums, first, axis=axis)
        means = whole / np.expand_dims(after - first, [a for a in range(means.ndim) if a != axis])
    return means
