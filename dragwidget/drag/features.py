"""Decoder features on the feature grid, sampled only where they are needed.

The method compares features on a grid of (rows, columns) finer than the network's own maps. The
authors upsample whole maps (bilinear, ``align_corners=False``); patches and windows cover a few
dozen cells of them. Bilinear sampling is separable, so a patch is ``rows @ map @ columns.T`` with
two thin matrices, and the rest of the grid is never computed.

**Convention**: grid positions are (row, column), cell centres at whole numbers. A position outside
the grid is taken at the nearest border cell (replication).
"""

from __future__ import annotations

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

    def around(self, cell: Tensor, radius: int) -> FeaturePatch:
        """Return the features within ``radius`` cells of ``cell`` (2,), whole, without gradient.

        Cells outside the grid are replicated from its border.
        """
        corner = cell.cpu().floor() - radius
        rows, columns = corner[:, None] + torch.arange(2 * radius + 1)
        return FeaturePatch(self.patch(rows, columns).detach(), corner)

    def full(self) -> Tensor:
        """Return the whole map, (C, rows, columns), float32: for images of it, not for the drag."""
        rows, columns = (torch.arange(n, dtype=torch.float32) for n in self.grid)
        return self.patch(rows, columns)


@dataclass(frozen=True, eq=False)
class FeaturePatch:
    """A square of whole cells of a feature map, kept in place of the map.

    Attributes:
        values: (C, p, p), float32.
        corner: (row, column) of its first cell, (2,).
    """

    values: Tensor
    corner: Tensor

    def patch(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Features at the crossings of ``rows`` and ``columns``, whole cells: (C, p, q).

        Raises:
            IndexError: they are not all within the square.
        """
        row, column = (
            (cells.cpu() - start).long()
            for cells, start in zip((rows, columns), self.corner, strict=True)
        )
        if any(
            bool(((cells < 0) | (cells >= self.values.shape[1])).any()) for cells in (row, column)
        ):
            raise IndexError("the cells are not all within this patch of the feature map")
        return self.values[:, row.to(self.values.device)][:, :, column.to(self.values.device)]


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
