"""FastDrag's field (Zhao et al., arXiv 2405.15769, section 3.2): whole latent cells are moved.

Every editable cell moves the way that a pair asks for, the less the farther it is from the handle
and not at all on a circle around the editable region: latents are stretched like a fabric. What
lies behind is empty and has to be filled.

Positions are (row, column) in latent cells; a cell's index is its centre. Cells are in row-major
order. What depends on a rounding is computed in float64.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Combine", "Holes", "Moved", "Plan", "arriving", "displacements", "fill_from_neighbours",
    "move_cells", "planned", "stretch_latent", "stretches",
]  # fmt: skip

Combine = Literal["mean", "winner"]
"""How a cell follows several pairs: a mean weighted by nearness, or the nearest handle's alone."""

Holes = Literal["keep", "neighbours", "noise"]
"""What a vacated cell holds: what it held, what its neighbours hold, or new noise."""

NEAR = 1e-4  # cells; keeps the weight of a handle's own cell finite


def stretches(cells: Tensor, handles: Tensor) -> Tensor:
    """Return the share of each pair's displacement that each cell takes, (N, m) float64, 0..1.

    For a cell C and a handle A, it is 1 - |C - A| / L, where L is the distance from A through C to
    the circle around the cells' bounding box: 1 at the handle, 0 on the circle.

    Args:
        cells: all editable cells, (m, 2) whole numbers.
        handles: (N, 2).
    """
    low, high = cells.amin(0).double(), cells.amax(0).double()
    centre, radius = (low + high) / 2, (high - low).norm() / 2
    offset = handles.double() - centre  # (N, 2), from the centre to the handle
    way = cells.double() - handles.double()[:, None]  # (N, m, 2), from the handle to the cell
    distance = way.norm(dim=-1)
    along = (way * offset[:, None]).sum(-1) / distance.clamp(min=1e-12)
    beyond = radius**2 - offset.square().sum(-1)[:, None] + along.square()
    length = beyond.clamp(min=0).sqrt() - along
    share = 1 - distance / length.clamp(min=1e-12)
    return torch.where(distance == 0, 1.0, share.clamp(0, 1))


def displacements(
    cells: Tensor, handles: Tensor, targets: Tensor, combine: Combine = "mean"
) -> Tensor:
    """Return how far each cell moves, (m, 2) float64; see ``stretches``."""
    moves = stretches(cells, handles)[..., None] * (targets - handles).double()[:, None]
    distance = (cells.double() - handles.double()[:, None]).norm(dim=-1)  # (N, m)
    if combine == "winner":
        nearest: Tensor = moves[distance.argmin(0), torch.arange(len(cells))]
        return nearest
    weights = 1 / (distance + NEAR)
    mean: Tensor = (weights[..., None] * moves).sum(0) / weights.sum(0)[:, None]
    return mean


class Moved(NamedTuple):
    """A latent whose cells were moved.

    Attributes:
        latent: (1, c, h, w); vacated cells hold what they held.
        holes: vacated cells that no other moved to, (h, w) bool.
        wins: which cells arrived, (m,) bool.
    """

    latent: Tensor
    holes: Tensor
    wins: Tensor


class Plan(NamedTuple):
    """Which cells of a latent move where.

    Attributes:
        cells: (m, 2) whole numbers.
        destinations: (m, 2) whole numbers; a row of -1: the cell goes nowhere.
        order: order of the cells, (m,): of those with one destination the first arrives.
    """

    cells: Tensor
    destinations: Tensor
    order: Tensor


def planned(editable: Tensor, handles: Tensor, targets: Tensor, combine: Combine) -> Plan:
    """Return where each of the ``editable`` cells, (h, w) bool, moves; see ``stretch_latent``."""
    cells = editable.nonzero()
    last = torch.tensor(editable.shape) - 1
    moves = displacements(cells, handles, targets, combine)
    destinations = (cells + moves).round().long().clamp(min=torch.zeros(2).long(), max=last)
    inside = editable[destinations[:, 0], destinations[:, 1]]
    destinations = torch.where(inside[:, None], destinations, -1)
    order = torch.arange(len(cells))
    if combine == "winner":
        distance = (cells.double() - handles.double()[:, None]).norm(dim=-1).amin(0)
        order = distance.argsort(stable=True)
    return Plan(cells, destinations, order)


def arriving(size: tuple[int, int], plan: Plan) -> Tensor:
    """Return the number of the cell that arrives at each, -1 where none does, (h, w) int64."""
    height, width = size
    source = np.full(height * width, -1)
    there = (plan.destinations[:, 0] * width + plan.destinations[:, 1]).numpy()
    rank = plan.order.numpy()[::-1]  # the last that is written stays
    rank = rank[(plan.destinations[:, 0] >= 0).numpy()[rank]]
    source[there[rank]] = rank
    return torch.from_numpy(source).view(height, width)


def move_cells(latent: Tensor, plan: Plan) -> Moved:
    """Move cells of a latent (1, c, h, w)."""
    height, width = latent.shape[2:]
    source = arriving((height, width), plan).flatten()
    hit = (source >= 0).nonzero().flatten()
    flat = latent.flatten(2).clone()
    here = plan.cells[:, 0] * width + plan.cells[:, 1]
    flat[..., hit.to(latent.device)] = latent.flatten(2)[..., here[source[hit]].to(latent.device)]
    holes = torch.zeros(height * width, dtype=torch.bool)
    holes[here] = True
    holes[hit] = False
    wins = torch.zeros(len(plan.cells), dtype=torch.bool)
    wins[source[hit]] = True
    return Moved(flat.view_as(latent), holes.view(height, width), wins)


def fill_from_neighbours(latent: Tensor, holes: Tensor) -> Tensor:
    """Return a latent (1, c, h, w) whose holes (h, w) are filled from the nearest cells around.

    FastDrag's bilateral nearest-neighbour interpolation: each hole is the mean of the nearest cells
    that hold something to its left and right and above and below, weighted by 1 / distance. One
    after the other in row-major order, so that a filled cell serves the next.
    """
    values, empty = latent[0].cpu().double(), holes.numpy().copy()
    height, width = empty.shape
    for row, column in zip(*np.nonzero(empty), strict=True):
        found, weights = [], []
        for down, across in ((0, -1), (0, 1), (-1, 0), (1, 0)):
            r, c, distance = row + down, column + across, 1
            while 0 <= r < height and 0 <= c < width and empty[r, c]:
                r, c, distance = r + down, c + across, distance + 1
            if 0 <= r < height and 0 <= c < width:
                found.append(values[:, r, c])
                weights.append(1 / distance)
        if found:
            share = torch.tensor(weights, dtype=torch.float64)
            values[:, row, column] = (torch.stack(found, 1) * (share / share.sum())).sum(1)
            empty[row, column] = False
    filled = latent.clone()
    where = holes.to(latent.device)
    filled[0][:, where] = values[:, holes].to(latent)
    return filled


def stretch_latent(
    latent: Tensor,
    clean: Tensor,
    levels: tuple[Tensor, Tensor],
    handles: Tensor,
    targets: Tensor,
    protected: Tensor | None = None,
    *,
    combine: Combine = "mean",
    holes: Holes = "keep",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the latent with the cells of each handle at its target, noise and all.

    Of several cells with one destination the first in row-major order arrives (FastDrag), or with
    ``combine="winner"`` the one nearest to its handle (LazyDrag, arXiv 2509.12203).

    Args:
        latent: noised, (1, c, h, w).
        clean: its clean latent or an estimate, likewise.
        levels: (signal, noise), scalars: latent = signal x clean + noise x standard normal noise.
        handles: (N, 2); may be fractional.
        targets: (N, 2), likewise.
        protected: 1 in the protected region, (h, w); ``None``: every cell is editable.
        holes: how vacated cells are filled.
        generator: source of the noise that fills them, on the CPU.
    """
    height, width = latent.shape[2:]
    if protected is None:
        editable = torch.ones(height, width, dtype=torch.bool)
    else:
        editable = protected.cpu() == 0
    if not editable.any():
        return latent
    moved = move_cells(latent, planned(editable, handles.cpu(), targets.cpu(), combine))
    if holes == "neighbours":
        return fill_from_neighbours(moved.latent, moved.holes)
    if holes == "noise":
        signal, noise = levels
        drawn = torch.randn(latent.shape, generator=generator, dtype=torch.float32)
        renoised = signal * clean + noise * drawn.to(latent)
        return torch.where(moved.holes.to(latent.device), renoised, moved.latent)
    return moved.latent
