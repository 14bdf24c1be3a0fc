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
