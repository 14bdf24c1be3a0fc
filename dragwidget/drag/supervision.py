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
    "motion_supervision",
    "originals",
    "placement",
    "region_loss",
]

NEXT_TO_NOTHING = 1e-12  # cells


@dataclass(frozen=True, eq=False)
class Anchor:
    """What a handle tracks: a position in the features of the latent that it was drawn on.

    Attributes:
        features: the features of that latent, or of the cells around the place, without gradient.
        position: (row, column), (2,).
    """

    features: FeatureMap | FeaturePatch
    position: Tensor


def originals(anchors: Sequence[Anchor], radius: int) -> Tensor:
    """Return what lies around each handle where it was drawn, (N, (2 radius + 1)^2, C).

    The cells within ``radius``, in row-major order. Handles of one map are read at once.
    """
    found: dict[int, Tensor] = {}
    of_maps: dict[int, list[int]] = {}
    for k, anchor in enumerate(anchors):
        if isinstance(anchor.features, FeaturePatch):
            found[k] = anchor.features.around(radius)
        else:
            of_maps.setdefault(id(anchor.features), []).append(k)
    for numbers in of_maps.values():
        features = anchors[numbers[0]].features
        assert isinstance(features, FeatureMap)
        corners = positions([anchors[k] for k in numbers]).floor() - radius
        read = features.squares(corners, 2 * radius + 1)
        if len(numbers) == len(anchors):
            return read
        found.update(zip(numbers, read, strict=True))
    return torch.stack([found[k] for k in range(len(anchors))])


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
        features: features of the current latent, with gradient.
        handles: current handle points, (N, 2).
        targets: target points, (N, 2).
        active: which pairs have not reached their targets, (N,) bool; none gives a zero loss.
        radius: r_m, cells.
        step_length: length of d, cells, cut so that it never passes the target.
        templates: what the patch should look like, one for each pair; without them the current
            patch is its own template.
        weight: weight of the mean; ``None``: (2 r_m + 1)^2, as in DragDiffusion.
    """
    weight = (2 * radius + 1) ** 2 if weight is None else weight
    device, side = features.blocks[0].device, 2 * radius + 1
    handles, targets, active = (
        given.to(device, non_blocking=True) for given in (handles, targets, active)
    )
    corners = handles.trunc() - radius
    way = targets - handles
    distance = way.norm(dim=-1, keepdim=True)
    # A handle on its target has no way to go, and that is no way divided by next to nothing.
    shift = way / distance.clamp(min=NEXT_TO_NOTHING) * distance.clamp(max=step_length)
    if templates is None:
        read = features.squares(torch.cat([corners, corners + shift]), side)
        wanted, moved = read[: len(handles)].detach(), read[len(handles) :]
    else:
        wanted = originals(templates, radius)
        moved = features.squares(corners + shift, side)
    inside = features.inside(corners, side)
    return _difference(wanted, moved, inside, weight * active[:, None])


def _difference(wanted: Tensor, moved: Tensor, inside: Tensor, weight: Tensor | float) -> Tensor:
    """Return weight x mean |A - B| of squares (N, m, C), summed over them.

    The weight stays the same at the border, where fewer cells are inside.

    Args:
        inside: which cells are meant, (N, m) bool.
        weight: (N, 1), or the same for all.
    """
    gap = (wanted - moved).abs().sum(-1)
    cells = inside.to(gap.device, gap.dtype, non_blocking=True)
    share = cells * (weight / (cells.sum(-1, keepdim=True) * wanted.shape[-1]))
    return (gap * share).sum()


def placement(
    features: FeatureMap, anchors: Sequence[Anchor], places: Tensor, *, radius: int
) -> Tensor:
    """Return how far the patches at ``places`` differ from the handles' original ones, summed.

    As in ``motion_supervision``, (2 r_m + 1)^2 x mean |A - B| for each pair, but without a step:
    the content should be there already.

    Args:
        features: features of the current latent, with gradient.
        anchors: what each handle is, (N).
        places: where it should be, (N, 2); fractions are meant.
        radius: r_m, cells.
    """
    drawn = positions(anchors)
    corners, side = drawn.trunc() - radius, 2 * radius + 1
    placed = features.squares(corners + (places - drawn), side)
    inside = features.inside(corners, side)
    return _difference(originals(anchors, radius), placed, inside, (2 * radius + 1) ** 2)


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
