"""Where the content of each latent cell came from: the warp's own map, as attention needs it.

LazyDrag (arXiv 2509.12203) lets a diffusion transformer attend to the source by this
explicit map in place of the similarity of features. ``diffusion.unet`` carries it over to a U-Net.
Positions are (row, column) in latent cells; a cell's index is its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from dragwidget.drag.stretching import Combine, arriving, planned
from dragwidget.drag.warping import near_field

__all__ = ["Correspondence", "correspondence"]


@dataclass(frozen=True, eq=False)
class Correspondence:
    """A map from each cell to the source cell whose content it holds.

    Attributes:
        source: that cell, (h, w, 2) int64; the cell itself where nothing moved.
        weight: A, how surely, (h, w) float32 in [0, 1]: 1 / (distance of the source cell from its
            handle), at most 1. It is 0 in the background and in holes.
        editable: what is no background, (h, w) bool.
    """

    source: Tensor
    weight: Tensor
    editable: Tensor

    @property
    def holes(self) -> Tensor:
        """Vacated cells, which no source cell moved to, (h, w) bool."""
        return self.editable & (self.weight == 0)

    @property
    def border(self) -> Tensor:
        """Cells of the background beside an editable cell, (h, w) bool."""
        near = max_pool2d(self.editable.float()[None], 3, stride=1, padding=1)[0] > 0
        return near & ~self.editable

    @property
    def index(self) -> Tensor:
        """The source cells, counted in row-major order, (h w)."""
        rows, columns = self.source.flatten(0, 1).unbind(-1)
        return rows * self.source.shape[1] + columns

    def then(self, later: Correspondence) -> Correspondence:
        """Return the map of this movement and then a later one.

        A weight counts where its movement moves; the smaller one where both do.
        """
        before, moved_before = (
            values.flatten(0, 1)[later.index].view_as(values)
            for values in (self.source, self.moved)
        )
        weight_before, editable_before, hole_before = (
            values.flatten()[later.index].view_as(values)
            for values in (self.weight, self.editable, self.holes)
        )
        least = torch.minimum(
            torch.where(moved_before, weight_before, 1.0),
            torch.where(later.moved, later.weight, 1.0),
        )
        most = torch.maximum(weight_before, later.weight)
        weight = torch.where(moved_before | later.moved, least, most)
        weight = torch.where(hole_before | later.holes, 0.0, weight)
        return Correspondence(before, weight, editable_before | later.editable)

    @property
    def moved(self) -> Tensor:
        """Cells that hold what was elsewhere, (h, w) bool."""
        return (self.source != _cells(*self.weight.shape)).any(-1)

    def at(self, count: int) -> Correspondence:
        """Return the map at the level of a network that has ``count`` cells.

        Each level halves the sides, rounded up. Of 2 x 2 cells the one with the largest weight
        stands for all; its source cell is the one that this lies in.

        Raises:
            ValueError: there is no such level.
        """
        level = self
        while level.weight.numel() > count:
            level = level._coarser
        if level.weight.numel() != count:
            height, width = self.weight.shape
            raise ValueError(
                f"attention over {count} tokens fits no level of a latent of {height} x {width} "
                "cells: set RenderSettings.correspondence and DragSettings.correspondence to 0"
            )
        return level

    @cached_property
    def _coarser(self) -> Correspondence:
        weight, index = max_pool2d(self.weight[None], 2, ceil_mode=True, return_indices=True)
        editable = max_pool2d(self.editable.float()[None], 2, ceil_mode=True)[0] > 0
        return Correspondence(self.source.flatten(0, 1)[index[0]] // 2, weight[0], editable)


def correspondence(
    size: tuple[int, int],
    handles: Tensor,
    targets: Tensor,
    protected: Tensor | None = None,
    *,
    field: Literal["near", "stretch"] = "near",
    combine: Combine = "mean",
    reach: float = 2.5,
) -> Correspondence:
    """Return the map of a warp of handles to targets.

    Args:
        size: (h, w) of the latent.
        handles: (N, 2); may be fractional.
        targets: (N, 2), likewise.
        protected: 1 in the protected region, the background, (h, w); ``None``: there is none.
        field: field of the warp, ``DragSettings.warp_field``.
        combine: ``DragSettings.warp_combine``.
        reach: ``DragSettings.warp_reach``.
    """
    height, width = size
    handles, targets = handles.cpu(), targets.cpu()
    if protected is None:
        editable = torch.ones(height, width, dtype=torch.bool)
    else:
        editable = protected.cpu() == 0
    source, filled = _cells(height, width), editable
    if field == "near":
        moves = near_field(size, handles, targets, protected, combine=combine, reach=reach)
        last = torch.tensor([height - 1, width - 1])
        source = (source - moves).round().long().clamp(min=torch.zeros(2).long(), max=last)
    elif editable.any():
        plan = planned(editable, handles, targets, combine)
        number = arriving(size, plan)
        filled = number >= 0
        source = torch.where(filled[..., None], plan.cells[number], source)
    distance = (source[:, :, None] - handles).norm(dim=-1).amin(-1)
    weight = torch.where(filled & editable, 1 / distance.clamp(min=1), 0.0)
    return Correspondence(source, weight.float(), editable)


def _cells(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns], dim=-1)
