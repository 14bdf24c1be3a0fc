"""Warp the image alone: the simplest method, which an edit has to beat."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from dragwidget.data.instructions import DragInstructions

SOFTNESS = 1 / 16  # how far inside the mask the warping fades out, in shares of the image


def warp(image: Tensor, instructions: DragInstructions) -> Tensor:
    """Warp an image (3, H, W) so that every handle lies on its target.

    Each pixel of the result is fetched from where it came: the pairs' displacements, weighted by
    the inverse square of the distance to their targets, fading out towards the mask's border.
    """
    _, height, width = image.shape
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    here = torch.stack([xs, ys], dim=-1).double()  # (H, W, 2), xy
    targets = torch.from_numpy(instructions.targets_xy)
    moves = targets - torch.from_numpy(instructions.handles_xy)
    nearness = 1 / ((here[:, :, None] - targets).square().sum(-1) + 1)  # (H, W, N)
    field = (nearness[..., None] * moves).sum(2) / nearness.sum(2, keepdim=True)
    source = here - field * _inside(instructions, height, width)[..., None]
    # Pixel centres in grid_sample's frame, where the image's edges are -1 and 1.
    size = torch.tensor([width, height])
    where = (2 * source + 1) / size - 1
    warped = grid_sample(
        image[None].double(), where[None], padding_mode="border", align_corners=False
    )
    return warped[0].to(image.dtype)


def _inside(instructions: DragInstructions, height: int, width: int) -> Tensor:
    """1 well inside the mask, 0 outside it, (H, W)."""
    if instructions.mask is None:
        return torch.ones(height, width, dtype=torch.float64)
    mask = torch.from_numpy(instructions.mask.copy()).double()
    radius = max(1, round(SOFTNESS * max(height, width)))
    mean = avg_pool2d(mask[None], 2 * radius + 1, stride=1, padding=radius)[0]
    # At a straight border half of the window lies inside.
    return ((2 * mean - 1).clamp(0, 1) * mask).clamp(0, 1)
