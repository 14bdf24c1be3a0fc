"""Motion supervision and the terms beside it (paper, section 3.3, equation 3).

Points are (row, column) on the feature grid. Losses are float32 (float64 for float64 features).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dragwidget.drag.features import FeatureMap, FeaturePatch
from dragwidget.drag.noise_path import NoisePath, Time
from dragwidget.drag.torch_state import ordinary

__all__ = [
    "Anchor",
    "GaussianPrior",
    "cells_around",
    "motion_supervision",
    "placement",
    "region_loss",
]


@dataclass(frozen=True, eq=False)
class Anchor:
    """What a handle tracks: a position in the features of the latent that it was drawn on.

    Attributes:
        features: the features of that latent, or of the cells around the place, without gradient.
        position: (row, column), (2,).
    """

    features: FeatureMap | FeaturePatch
    position: Tensor


def cells_around(position: Tensor, radius: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return rows and columns within ``radius`` of ``position`` (2,), cut at the grid's border."""
    spans = []
    for centre, size in zip(position.tolist(), grid, strict=True):
        cell = int(centre)
        spans.append(torch.arange(max(0, cell - radius), min(size, cell + radius + 1)))
    rows, columns = spans
    return rows.float(), columns.float()


def motion_supervision(
    features: FeatureMap,
    handles: Tensor,
    targets: Tensor,
    active: Tensor,
    *,
    radius: int,
    step_length: float = 1.0,
    templates: Sequence[Anchor] | None = None,
    weight: float | None = None,
) -> Tensor:
    """Return the loss whose gradient moves every active handle's patch one step to its target.

    For each pair the features at the patch shifted by a step d towards the target should become
    those of the unshifted patch, which is detached: (2 r_m + 1)^2 x mean |A - B|.

    Args:
        features: of the current latent, with gradient.
        handles: current handle points, (N, 2).
        targets: target points, (N, 2).
        active: which pairs have not reached their targets, (N,) bool; none gives a zero loss.
        radius: r_m, cells.
        step_length: length of d, cells, cut so that it never passes the target.
        templates: what the patch should look like, one for each pair; without them the current
            patch is its own template.
        weight: of the mean; ``None``: (2 r_m + 1)^2, as in DragDiffusion.
    """
    weight = (2 * radius + 1) ** 2 if weight is None else weight
    losses = []
    for k in active.nonzero()[:, 0].tolist():
        way = targets[k] - handles[k]
        distance = way.norm()
        shift = way / distance * distance.clamp(max=step_length)
        rows, columns = cells_around(handles[k], radius, features.grid)
        if templates is None:
            wanted = features.detach().patch(rows, columns)
        else:
            offset = templates[k].position.floor() - handles[k].floor()
            wanted = templates[k].features.patch(rows + offset[0], columns + offset[1])
        moved = features.patch(rows + shift[0], columns + shift[1])
        # The weight stays the same at the border, where the patch is smaller.
        losses.append(weight * (wanted - moved).abs().mean())
    return torch.stack(losses).sum() if losses else torch.zeros(())


def placement(
    features: FeatureMap, anchors: Sequence[Anchor], places: Tensor, *, radius: int
) -> Tensor:
    """Return how far the patches at ``places`` differ from the handles' original ones, summed.

    As in ``motion_supervision``, (2 r_m + 1)^2 x mean |A - B| for each pair, but without a step:
    the content should be there already.

    Args:
        features: of the current latent, with gradient.
        anchors: what each handle is, (N).
        places: where it should be, (N, 2); fractions are meant.
        radius: r_m, cells.
    """
    losses = []
    for anchor, shift in zip(anchors, places - positions(anchors), strict=True):
        rows, columns = cells_around(anchor.position, radius, features.grid)
        wanted = anchor.features.patch(rows, columns)
        placed = features.patch(rows + shift[0], columns + shift[1])
        losses.append((2 * radius + 1) ** 2 * (wanted - placed).abs().mean())
    return torch.stack(losses).sum()


def positions(anchors: Sequence[Anchor]) -> Tensor:
    """Return where the handles were drawn, (N, 2)."""
    return torch.stack([anchor.position for anchor in anchors])


def region_loss(previous: Tensor, reference: Tensor, protected: Tensor) -> Tensor:
    """Return the region loss: how far one denoising step changes the protected region.

    Args:
        previous: the latent one DDIM step nearer to the image, (1, c, h, w), with gradient.
        reference: the same for the latent before the drag, (1, c, h, w).
        protected: 1 in the protected region, (h, w).
    """
    return ((previous - reference) * protected).abs().sum()


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """The forward process's mean and variance of each latent channel at one noise level.

    Not in the paper: dragging hard can push the latent's statistics away from what the network
    was trained on. ``divergence`` measures that and can be added to the loss.

    Attributes:
        mean: (c,).
        variance: (c,).
    """

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, clean: Tensor, path: NoisePath, timestep: Time) -> GaussianPrior:
        """Return the prior of a clean latent (1, c, h, w) at a timestep of a noise path."""
        variance, mean = torch.var_mean(clean, dim=(0, 2, 3), correction=0)
        return cls(*path.marginal(mean, variance, timestep))

    def divergence(self, latent: Tensor) -> Tensor:
        """Return the KL divergence of the latent's channel Gaussians from these, summed, >= 0."""
        variance, mean = torch.var_mean(latent, dim=(0, 2, 3), correction=0)
        usual = ordinary(self.variance)
        ratio = variance / usual
        shift = (mean - ordinary(self.mean)) ** 2 / usual
        return 0.5 * (ratio + shift - 1 - ratio.log()).sum()
