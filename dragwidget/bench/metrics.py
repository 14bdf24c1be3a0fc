"""Metrics of an edit, as functions of tensors and points.

Images: (3, H, W) float in [0, 1]. Masks: (H, W) bool. Points: (N, 2), xy, image pixels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

WINDOW = 1 / 8  # side of the window of `worst_window`, units of the image
GRAIN = 32
PERFECT = 99.0  # dB reported where two images do not differ


def psnr(image: Tensor, reference: Tensor, where: npt.ArrayLike | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB, over all channels of the pixels `where`.

    At most PERFECT; not a number where no pixel is asked for.

    Examples:
        >>> round(psnr(torch.full((3, 4, 4), 0.6), torch.full((3, 4, 4), 0.5)), 2)
        20.0
    """
    squares = (image.double() - reference.double()) ** 2
    if where is not None:
        squares = squares[:, torch.as_tensor(np.array(where, dtype=np.bool_))]
    if not squares.numel():
        return math.nan
    mean = float(squares.mean())
    return min(PERFECT, -10 * math.log10(mean)) if mean > 0 else PERFECT


def completion(
    handles_xy: npt.ArrayLike, targets_xy: npt.ArrayLike, reached_xy: npt.ArrayLike
) -> float:
    """Return 1 - remaining / requested distance, each summed over the points.

    1: every point is where it was to go; 0: nothing done; below 0: farther away than before.

    Examples:
        >>> completion([(0, 0)], [(10, 0)], [(4, 0)])
        0.4
    """
    handles, targets, reached = (
        np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in (handles_xy, targets_xy, reached_xy)
    )
    asked = np.linalg.norm(targets - handles, axis=1).sum()
    if asked == 0:
        raise ValueError("completion needs at least one target that is not its handle, got none")
    return float(1 - np.linalg.norm(targets - reached, axis=1).sum() / asked)


def worst_window(image: Tensor, reference: Tensor) -> float:
    """Return the root mean square difference in the window of side WINDOW where it is largest.

    Taken of images reduced to about GRAIN cells a side: that outlines are less sharp does not
    count, that something is there or not does.
    """
    cell = max(1, image.shape[-1] // GRAIN)
    difference = avg_pool2d((image - reference)[None], cell)
    squares = (difference**2).mean(1, keepdim=True)
    side = max(1, round(squares.shape[-1] * WINDOW))
    return float(avg_pool2d(squares, side, stride=1).amax().sqrt())


def dragging_accuracy(
    source: Tensor,
    edited: Tensor,
    handles_xy: npt.ArrayLike,
    targets_xy: npt.ArrayLike,
    radius: int,
    *,
    twice: bool = False,
) -> float:
    """Return the dragging accuracy index (GoodDrag, arXiv 2404.07206, section 5): lower is better.

    It is the squared difference between the source around each handle and the edited image around
    its target, summed over channels, averaged over the pixels of the patch and over the pairs.
    What of a patch lies outside an image is left out.

    Args:
        radius: radius of the patches, pixels; their side is 2 radius + 1.
        twice: divide by the number of pairs a second time, as the authors' code does.
    """
    handles, targets = (
        np.rint(np.asarray(p, dtype=np.float64).reshape(-1, 2)).astype(int)
        for p in (handles_xy, targets_xy)
    )
    inside = np.array([source.shape[2] - 1, source.shape[1] - 1])
    total = 0.0
    for handle, target in zip(handles, targets, strict=True):
        left, top = np.minimum(radius, np.minimum(handle, target))
        right, bottom = np.minimum(radius, np.minimum(inside - handle, inside - target))
        (x, y), (u, v) = handle, target
        old = source[:, y - top : y + bottom + 1, x - left : x + right + 1]
        new = edited[:, v - top : v + bottom + 1, u - left : u + right + 1]
        total += float((old.double() - new.double()).square().sum(0).mean())
    return total / len(handles) / (len(handles) if twice else 1)
