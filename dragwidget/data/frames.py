"""The coordinate frames of an image, and the only arithmetic that leads from one to another.

**Convention**

- Image frame: points are ``(x, y)`` = (column, row), in pixels of the image as it was given.
  Integer coordinates index pixels: ``(0, 0)`` is the top left one, ``(width - 1, height - 1)`` the
  bottom right one. What lies between pixels is allowed, so every click on a canvas,
  ``0 <= x < width`` and ``0 <= y < height``, is a point of the image.
- ``size`` is ``(width, height)`` as in Pillow; a *grid* is ``(rows, columns)`` as in torch.
- Grid frame: points are ``(row, col)``, whole cells of a feature or latent grid, cell 0 at pixel 0:
  ``row = round(y / height * rows)``, half to even, never past the last cell.
- A mask is bool ``(H, W)``: True = editable. No mask is ``None``: everything is editable.
  On the latent grid it is what nearest sampling leaves of it, and the cells of what that loses
  (``lost_cells``): nothing editable is lost. The protected region may be: a protected line
  thinner than a cell between two editable regions is changed with them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

XY = tuple[float, float]
Size = tuple[int, int]  # (width, height), pixels
Grid = tuple[int, int]  # (rows, columns), cells
BoolArray = npt.NDArray[np.bool_]

MAX_PIXELS = 80_000_000  # of an image or mask that a file may make us allocate


PARTS = 1024  # of a feature cell: where a handle can be that a method moves by fractions


def to_grid(
    points_xy: npt.ArrayLike, size: Size, grid: Grid, parts: int = 1
) -> npt.NDArray[np.float32]:
    """Points (N, 2) ``(x, y)`` in image pixels -> (N, 2) float32 ``(row, col)``, whole cells.

    With ``parts`` a power of 2 up to ``PARTS``, the nearest of so many places in a cell instead.

    Examples:
        >>> to_grid([(0, 0), (100, 50), (511.9, 511.9)], size=(512, 512), grid=(256, 256)).tolist()
        [[0.0, 0.0], [25.0, 50.0], [255.0, 255.0]]
    """
    points_yx = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)[:, ::-1]
    # Divided first, and float32 before rounding: so the authors' arithmetic is met bit for bit.
    cells = np.rint((points_yx / size[::-1] * grid).astype(np.float32) * parts) / np.float32(parts)
    last = np.array(grid, dtype=np.float32) - 1
    clamped: npt.NDArray[np.float32] = np.clip(cells, 0, last)
    return clamped


def from_grid(points_rc: npt.ArrayLike, size: Size, grid: Grid) -> npt.NDArray[np.float64]:
    """Cells (N, 2) ``(row, col)`` -> (N, 2) ``(x, y)`` in image pixels; ``to_grid`` undoes it.

    Examples:
        >>> from_grid([(25, 50)], size=(512, 512), grid=(256, 256)).tolist()
        [[100.0, 50.0]]
    """
    cells = np.asarray(points_rc, dtype=np.float64).reshape(-1, 2)
    points_xy: npt.NDArray[np.float64] = (cells / grid * size[::-1])[:, ::-1]
    return points_xy


def mask_to_latent(mask: BoolArray, feature_grid: Grid, latent_grid: Grid) -> BoolArray:
    """Mask (H, W) in image pixels -> (h, w) in latent cells, by way of the feature grid.

    Both steps take the nearest cell as torch's ``interpolate(mode="nearest")`` does.
    """
    return _nearest(_nearest(mask, feature_grid), latent_grid)


def lost_cells(mask: BoolArray, feature_grid: Grid, latent_grid: Grid) -> BoolArray:
    """Return the latent cells (h, w) of those parts of a mask (H, W) that ``mask_to_latent`` loses.

    Nearest sampling sees one pixel of a cell, so that it passes over what is thinner than a cell: a
    dot, a hairline, the thin end of a broad stroke. A pixel of the mask is lost where no cell
    is editable that is its own or next to it (within a cell of the feature grid, where that is the
    coarser one); its own cell is then returned here. What a round brush of two cells' width has
    painted loses nothing.
    """
    kept = mask_to_latent(mask, feature_grid, latent_grid)
    touched: BoolArray = mask
    for axis in (0, 1):
        touched = _any_in_cell(touched, latent_grid[axis], axis)
        beside = -(-latent_grid[axis] // feature_grid[axis])  # 1 unless features are coarser
        kept = _widened(kept, beside, axis)
    return touched & ~kept


def _any_in_cell(mask: BoolArray, cells: int, axis: int) -> BoolArray:
    """Return whether anything is set in each of so many cells along an axis."""
    pixels = mask.shape[axis]
    touched, first = np.unique(np.arange(pixels) * cells // pixels, return_index=True)
    found = np.zeros((cells, mask.shape[1 - axis]), dtype=np.bool_)
    # Not logical_or.reduceat, which takes twenty times as long.
    found[touched] = [part.any(axis) for part in np.split(mask, first[1:], axis)]
    return found if axis == 0 else found.T


def _widened(mask: BoolArray, cells: int, axis: int) -> BoolArray:
    """Return what lies at most so many cells from anything that is set, along an axis."""
    wide: BoolArray = mask.copy()
    by_axis, source = np.moveaxis(wide, axis, 0), np.moveaxis(mask, axis, 0)
    for shift in range(1, min(cells, len(source) - 1) + 1):
        by_axis[shift:] |= source[:-shift]
        by_axis[:-shift] |= source[shift:]
    return wide


def _nearest(mask: BoolArray, grid: Grid) -> BoolArray:
    rows, columns = (
        # torch computes the source index in float32, which is not always the exact floor
        np.minimum(np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new)), old - 1)
        for old, new in zip(mask.shape, grid, strict=True)
    )
    return mask[np.ix_(rows.astype(np.intp), columns.astype(np.intp))]
