"""A first guess in one go: the latent itself, bent so that handles lie on their targets.

FastDrag (Zhao et al., arXiv 2405.15769) showed that moving the cells of an inverted latent moves
the content, noise and all. What the paper's drag does in many small steps then only has to be put
right. The field here is plainer than theirs: displacements are weighted by nearness and fade out
towards the mask's border.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

__all__ = ["warp_latent"]

REACH = 2.5  # how far a pair's pull reaches, in lengths of its drag (a standard deviation)
FADE = 1 / 16  # how wide the fading is, in shares of the latent's longer side


def warp_latent(
    latent: Tensor, handles: Tensor, targets: Tensor, frozen: Tensor | None = None
) -> Tensor:
    """The latent with the content of each handle at its target.

    Every cell takes the value of one cell, none a mean of several, which would be less noisy than
    the network expects.

    Args:
        latent: (1, c, h, w).
        handles: (N, 2) as (row, column), latent cells; fractions are meant.
        targets: (N, 2), likewise.
        frozen: 1 where nothing may change, (h, w); ``None``: all may change.
    """
    height, width = latent.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([rows, columns], dim=-1).to(torch.float32)  # (h, w, 2)
    moves = targets - handles
    square = (cells[:, :, None] - targets).square().sum(-1)  # (h, w, N)
    nearness = 1 / (square + 1)
    reach = torch.exp(-square / (2 * (REACH * moves.norm(dim=-1)).square() + 1))
    field = ((nearness * reach)[..., None] * moves).sum(2) / nearness.sum(2, keepdim=True)
    if frozen is not None:
        field = field * _fading(1 - frozen.float().cpu())[..., None]
    source = (cells - field).round().long()
    row = source[..., 0].clamp(0, height - 1).to(latent.device)
    column = source[..., 1].clamp(0, width - 1).to(latent.device)
    return latent[:, :, row, column]


def _fading(free: Tensor) -> Tensor:
    """1 well inside the free cells, 0 outside them, (h, w)."""
    radius = max(1, round(FADE * max(free.shape)))
    mean = avg_pool2d(free[None], 2 * radius + 1, stride=1, padding=radius)[0]
    # At a straight border half of the window is free.
    return (2 * mean - 1).clamp(0, 1) * free
