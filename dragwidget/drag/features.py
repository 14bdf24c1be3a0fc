"""Decoder features on the feature grid, sampled only where they are needed.

The method compares features on a grid of (rows, columns) finer than the network's own maps. The
authors upsample whole maps (bilinear, ``align_corners=False``); patches and windows cover a few
dozen cells of them, and the rest of the grid is never computed. The squares of all handles are read
at once, from the few cells of the map under each, and without asking the device where they are:
how many cells those are follows from the squares' side alone.

**Convention**: grid positions are (row, column), cell centres at whole numbers. A position outside
the grid is taken at the nearest border cell (replication).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FeatureMap", "FeaturePatch"]


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of one latent as a map over the feature grid.

    Attributes:
        blocks: the network's own maps, each (1, C_i, h_i, w_i); their channels are concatenated.
        grid: (rows, columns) of the feature grid.
    """

    blocks: tuple[Tensor, ...]
    grid: tuple[int, int]

    def detach(self) -> FeatureMap:
        """Return the same features without gradient."""
        return FeatureMap(tuple(block.detach() for block in self.blocks), self.grid)

    def patch(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return features at the crossings of ``rows`` (p,) and ``columns`` (q,), (C, p, q).

        Positions are grid cells and may be fractional: the value there is the bilinear mean of
        the four cells around it. Gradients flow to the blocks.
        """
        return torch.cat([self._sample(block[0], rows, columns) for block in self.blocks])

    def _sample(self, block: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        precision = torch.promote_types(block.dtype, torch.float32)
        down = _weights(rows.to(block.device, precision), block.shape[1], self.grid[0])
        across = _weights(columns.to(block.device, precision), block.shape[2], self.grid[1])
        return down @ block.to(precision) @ across.T

    def squares(self, corners: Tensor, side: int) -> Tensor:
        """Return the features in squares of the grid, (N, side * side, C), in row-major order.

        Gradients flow to the blocks.

        Args:
            corners: first cell of each square, (N, 2) as (row, column); may be fractional.
            side: in cells.
        """
        found = [self._squares(block, corners, side) for block in self.blocks]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    def _squares(self, block: Tensor, corners: Tensor, side: int) -> Tensor:
        precision = torch.promote_types(block.dtype, torch.float32)
        corners = corners.to(block.device, precision, non_blocking=True)
        (rows, down), (columns, across) = (
            _line_weights(corners[:, axis], side, block.shape[2 + axis], self.grid[axis])
            for axis in (0, 1)
        )
        cells = rows[:, :, None] * block.shape[3] + columns[:, None]
        count, a, b = cells.shape
        values = block[0].flatten(1).index_select(1, cells.flatten()).to(precision)
        lines = values.view(-1, count, a, b).permute(1, 2, 3, 0).reshape(count, a, -1)
        lines = (down @ lines).view(count, side, b, -1)
        return (across[:, None] @ lines).flatten(1, 2)

    def inside(self, corners: Tensor, side: int) -> Tensor:
        """Return which cells of such squares are on the grid, (N, side * side) bool.

        Args:
            corners: whole cells.
        """
        offset = torch.arange(side, device=corners.device)
        rows, columns = (
            (cells == cells.clamp(0, size - 1))
            for cells, size in zip((corners.T[..., None] + offset), self.grid, strict=True)
        )
        inside: Tensor = rows[:, :, None] & columns[:, None]
        return inside.flatten(1)

    def around(self, cell: Tensor, radius: int) -> FeaturePatch:
        """Return the features within ``radius`` cells of ``cell`` (2,), whole, without gradient.

        Cells outside the grid are replicated from its border.
        """
        side = 2 * radius + 1
        values = self.squares(cell.floor()[None] - radius, side)[0]
        return FeaturePatch(values.detach().T.reshape(-1, side, side))

    def full(self) -> Tensor:
        """Return the whole map, (C, rows, columns), float32: for images of it, not for the drag."""
        rows, columns = (torch.arange(n, dtype=torch.float32) for n in self.grid)
        return self.patch(rows, columns)


@dataclass(frozen=True, eq=False)
class FeaturePatch:
    """A square of whole cells around a cell of a feature map, kept in place of the map.

    Attributes:
        values: (C, p, p), float32; p is odd.
    """

    values: Tensor

    def around(self, radius: int) -> Tensor:
        """Return the features within ``radius`` of the cell in the middle, ((2 radius + 1)^2, C).

        Raises:
            IndexError: they are not all within the square.
        """
        rim = self.values.shape[1] // 2 - radius
        if rim < 0:
            raise IndexError(
                f"this patch of the feature map holds {self.values.shape[1] // 2} cells around its "
                f"middle, got a radius of {radius}"
            )
        end = self.values.shape[1] - rim
        return self.values[:, rim:end, rim:end].flatten(1).T


def _weights(positions: Tensor, size: int, grid: int) -> Tensor:
    """Weights (p, size) that read a line of ``size`` values at grid ``positions`` (p,)."""
    position = positions.clamp(0, grid - 1)
    below = position.floor()
    share = (position - below)[:, None]
    return (1 - share) * _resize_weights(below, size, grid) + share * _resize_weights(
        (below + 1).clamp(max=grid - 1), size, grid
    )


def _resize_weights(cells: Tensor, size: int, grid: int) -> Tensor:
    """Weights (p, size) of whole ``cells`` of a line resized from ``size`` to ``grid`` values."""
    source = ((cells + 0.5) * (size / grid) - 0.5).clamp(min=0)
    below = source.floor().clamp(max=size - 1)
    share = (source - below)[:, None]
    index = torch.arange(size, device=cells.device)
    lower = (index == below[:, None]).to(source.dtype)
    upper = (index == (below + 1).clamp(max=size - 1)[:, None]).to(source.dtype)
    return (1 - share) * lower + share * upper


def _line_weights(first: Tensor, side: int, size: int, grid: int) -> tuple[Tensor, Tensor]:
    """Weights that read a line of ``size`` values at ``side`` grid positions from each ``first``.

    Args:
        first: (N,).

    Returns:
        Which values of the line they are for, (N, a), and the weights, (N, side, a).
    """
    position = (first[:, None] + torch.arange(side, device=first.device)).clamp(0, grid - 1)
    below = position.floor()
    low, high = (
        ((cells + 0.5) * (size / grid) - 0.5).clamp(0, size - 1)
        for cells in (below, (below + 1).clamp(max=grid - 1))
    )
    # As many values as side + 1 cells can lie over, wherever they begin, and one for rounding.
    count = min(size, math.floor(side * size / grid) + 3)
    start = low[:, :1].floor().clamp(max=size - count)
    values = start + torch.arange(count, device=first.device)
    lower, upper = (
        (1 - (source[..., None] - values[:, None]).abs()).clamp(min=0) for source in (low, high)
    )
    return values.long(), lower.lerp(upper, (position - below)[..., None])
