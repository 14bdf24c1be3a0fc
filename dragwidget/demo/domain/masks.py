"""The mask of a task: what really changes, widened to what a person would draw round it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

THRESHOLD = 6 / 255  # of the largest difference over the colour channels
MARGIN = 5.5  # pixels of an image of 128
_DIRECTIONS = 48  # half-planes that make a hull


def mask_of_change(
    source: Tensor, target: Tensor, handles: NDArray[np.float64], goals: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(H, W) bool: True where source and target (3, H, W) differ, and between handles and goals.

    Each connected part is filled to its convex hull and widened by MARGIN: a mask as tight as the
    change itself holds the image back where it must give way.
    handles, goals: (N, 2) xy, image pixels.
    """
    size = source.shape[-1]
    changed = (source - target).abs().amax(0) > THRESHOLD
    changed |= torch.from_numpy(_paths(handles, goals, size))
    grown = _dilate(changed, round(MARGIN / 128 * size))
    mask = torch.zeros_like(changed)
    for part in _parts(grown):
        mask |= _hull(part)
    return np.asarray(mask.numpy(), dtype=np.bool_)


def _paths(
    handles: NDArray[np.float64], goals: NDArray[np.float64], size: int
) -> NDArray[np.bool_]:
    """Return the pixels on the straight ways from handles to goals."""
    on = np.zeros((size, size), dtype=np.bool_)
    share = np.linspace(0, 1, 4 * size)[:, None, None]
    ways = np.clip(np.rint(handles + share * (goals - handles)).astype(int), 0, size - 1)
    on[ways[..., 1], ways[..., 0]] = True
    return on


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Return all pixels within `radius` of the mask, about: squares and diamonds in turn."""
    grown = mask.float()[None, None]
    for step in range(radius):
        plus = torch.maximum(
            max_pool2d(grown, (3, 1), 1, (1, 0)), max_pool2d(grown, (1, 3), 1, (0, 1))
        )
        grown = plus if step % 2 else max_pool2d(grown, 3, 1, 1)
    return grown[0, 0] > 0


def _parts(mask: Tensor) -> list[Tensor]:
    """Return the connected parts (8 neighbours) of a mask (H, W)."""
    height, width = mask.shape
    labels = torch.arange(1, height * width + 1).view(height, width).float() * mask
    while True:  # the largest label floods its part
        spread = max_pool2d(labels[None, None], 5, 1, 2)[0, 0] * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    return [labels == label for label in set(labels.flatten().tolist()) if label]


def _hull(part: Tensor) -> Tensor:
    """Return the convex hull of a part (H, W), as pixels."""
    rows, columns = torch.nonzero(part, as_tuple=True)
    y, x = (torch.arange(n, dtype=torch.float32) for n in part.shape)
    inside = torch.ones_like(part)
    for k in range(_DIRECTIONS):
        angle = 2 * math.pi * k / _DIRECTIONS
        cosine, sine = math.cos(angle), math.sin(angle)
        reach = (columns * cosine + rows * sine).max() + 1e-3
        inside &= (x[None] * cosine + y[:, None] * sine) <= reach
    return inside
