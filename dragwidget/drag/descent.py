"""One step down the loss: what methods that optimise the latent have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import Evaluation, Passes
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.method import DragState, Problem, StepReport
from dragwidget.drag.optimizer import Moments, adam_step, loss_scale
from dragwidget.drag.stretching import stretch_latent
from dragwidget.drag.supervision import Anchor, motion_supervision, placement, region_loss
from dragwidget.drag.tracking import distances, track_points
from dragwidget.drag.warping import in_features, in_latent, sample_field, warp_latent

__all__ = [
    "Descent",
    "Placed",
    "descend",
    "look_ahead",
    "losses",
    "reached",
    "settle",
    "tracked",
    "warped",
]

PATIENCE = 3  # steps that a handle may stay because it lost its content


class Placed(NamedTuple):
    """What a warped latent was warped from.

    Attributes:
        features: of that latent, without gradient; only used with ``extra_weight > 0``.
        handles: where the handles are on it, (N, 2).
    """

    features: FeatureMap
    handles: Tensor


@dataclass(frozen=True, eq=False)
class Descent:
    """One step of Adam down the loss; what it did is still on the device: ``settle`` reads it.

    Attributes:
        latent: after the step, (1, c, h, w).
        moments: Adam's, likewise.
        names: of the loss's terms.
        terms: the weighted terms of the loss before the step, (K,).
        finite: whether the loss and its gradient are, and whether the step is, (2,) bool.
        dtype: of the network.
    """

    latent: Tensor
    moments: Moments
    names: tuple[str, ...]
    terms: Tensor
    finite: Tensor
    dtype: torch.dtype


class Settled(NamedTuple):
    """What the host knows of a step.

    Attributes:
        report: of the descent; empty without one.
        handles: after the step, (N, 2) float32 on the CPU.
        moved: whether a handle moved.
    """

    report: StepReport
    handles: Tensor
    moved: bool


def reached(handles: Tensor, targets: Tensor, settings: DragSettings) -> Tensor:
    """Return which handles are within the stop distance of their targets, (N,) bool."""
    return distances(handles, targets) < settings.stop_distance


def losses(
    state: DragState,
    task: Problem,
    evaluation: Evaluation,
    weight: float | None = None,
    *,
    placed: Placed | None = None,
) -> dict[str, Tensor]:
    """Return the weighted terms of the loss at this state, by name; each a scalar.

    Args:
        weight: of the motion loss; see ``motion_supervision``.
        placed: the content of the handles should be where they are, in place of a step farther.
    """
    settings, features, radius = task.settings, evaluation.features, task.settings.motion_radius
    if placed is not None:
        motion = placement(features, state.anchors, state.handles, radius=radius)
    else:
        motion = motion_supervision(
            features,
            state.handles,
            task.targets,
            ~reached(state.handles, task.targets, settings),
            radius=radius,
            step_length=settings.step_length,
            templates=state.anchors if settings.template == "original" else None,
            weight=weight,
        )
    terms = {"motion": motion}
    if settings.extra_weight > 0:
        terms["extra"] = settings.extra_weight * _extra(state, task, evaluation, placed)
    if task.has_region_loss:
        reference = task.source(state.timestep).previous
        assert evaluation.previous is not None
        assert reference is not None
        assert task.protected is not None
        region = region_loss(evaluation.previous, reference, task.protected)
        terms["region"] = settings.region_weight * region
    if task.prior is not None and settings.prior_weight > 0:
        terms["prior"] = settings.prior_weight * task.prior.divergence(evaluation.latent)
    return terms


def _extra(
    state: DragState, task: Problem, evaluation: Evaluation, placed: Placed | None
) -> Tensor:
    """Return the motion loss of points between the pairs, on average; see ``extra_weight``."""
    settings, grid = task.settings, evaluation.features.grid
    latent = evaluation.latent
    size = (latent.shape[2], latent.shape[3])
    begin, end = (
        (state.handles, task.targets) if placed is None else (placed.handles, state.handles)
    )
    points, places = (
        in_features(found, grid, size)
        for found in sample_field(
            size, in_latent(begin, grid, latent), in_latent(end, grid, latent), task.protected,
            combine=settings.warp_combine, reach=settings.warp_reach,
        )
    )  # fmt: skip
    if not len(points):
        return evaluation.latent.new_zeros(())
    if placed is None:
        every = torch.ones(len(points), dtype=torch.bool)
        loss = motion_supervision(
            evaluation.features, points, places, every,
            radius=settings.motion_radius, step_length=settings.step_length,
        )  # fmt: skip
    else:
        anchors = [Anchor(placed.features, point) for point in points]
        loss = placement(evaluation.features, anchors, places, radius=settings.motion_radius)
    return loss / len(points)


def descend(
    state: DragState,
    task: Problem,
    evaluation: Evaluation,
    *,
    weight: float | None = None,
    placed: Placed | None = None,
) -> Descent:
    """Take one step of Adam down the loss, without asking the device for a number.

    Args:
        evaluation: the pass at the state's latent; its graph is used up.
        weight, placed: as for ``losses``.
    """
    with torch.enable_grad():
        named = losses(state, task, evaluation, weight=weight, placed=placed)
        terms = torch.stack(list(named.values()))
        total = terms.sum()
        dtype = evaluation.features.blocks[0].dtype
        scale = loss_scale(dtype)
        (gradient,) = torch.autograd.grad(total * scale, evaluation.latent)
        gradient = gradient / scale
    latent, moments = adam_step(state.latent, gradient, state.moments, task.settings.learning_rate)
    finite = torch.stack(
        [
            total.detach().isfinite() & gradient.isfinite().all(),
            latent.isfinite().all() & moments.second.isfinite().all(),  # squares overflow first
        ]
    )
    return Descent(latent, moments, tuple(named), terms.detach(), finite, dtype)


def settle(
    state: DragState,
    descent: Descent | None = None,
    *,
    handles: Tensor | None = None,
    ahead: Evaluation | None = None,
) -> Settled:
    """Read what a step did, in one copy from the device, and refuse it where it is not finite.

    Args:
        state: before the step.
        descent: its step down the loss, if it took one.
        handles: where they are after it, (N, 2); ``None``: where they were.
        ahead: the pass at its new latent, if it was taken.

    Raises:
        ArithmeticError: a value is not finite.
    """
    parts: list[Tensor] = []
    names: tuple[str, ...] = ()
    if handles is not None:
        before = state.handles.to(handles.device, non_blocking=True)
        parts = [handles.flatten(), (handles != before).any()[None]]
    if descent is not None:
        names = descent.names
        parts += [descent.terms, descent.finite]
    if ahead is not None:
        blocks = [block.isfinite().all() for block in ahead.features.blocks]
        parts.append(torch.stack(blocks).all()[None])
    read = iter(torch.cat(parts).tolist())

    if handles is None:
        moved, handles = False, state.handles
    else:
        values = [next(read) for _ in range(handles.numel())]
        handles, moved = torch.tensor(values).view_as(handles), bool(next(read))
    terms = {name: next(read) for name in names}
    if descent is not None:
        loss_is_finite, step_is_finite = next(read), next(read)
        if not loss_is_finite:
            raise _refusal(state, f"its loss or gradient ({terms}) is", descent.dtype)
        if not step_is_finite:
            raise _refusal(state, "the step is so large that it is", descent.dtype)
    if ahead is not None and not next(read):
        raise _refusal(state, "its features are", ahead.features.blocks[0].dtype)
    return Settled(StepReport(terms), handles, moved)


def warped(passes: Passes, state: DragState, task: Problem) -> Tensor:
    """Return the latent with every handle's content carried to its target."""
    handles, targets = (
        in_latent(points, passes.grid, state.latent) for points in (state.handles, task.targets)
    )
    clean = task.clean
    if state.index > 0:  # the source's clean latent, changed as the network's guess has changed
        here = passes.at(state.latent, state.timestep, previous=True, graph=False)
        there = task.source(state.timestep)
        assert here.x0 is not None
        assert there.x0 is not None
        clean = clean + (here.x0.detach() - there.x0)
    settings, levels = task.settings, task.path.levels(state.timestep)
    if settings.warp_field == "stretch":
        return stretch_latent(
            state.latent, clean, levels, handles, targets, task.protected,
            combine=settings.warp_combine, holes=settings.warp_holes,
            generator=torch.Generator().manual_seed(state.index),  # the same after a rewind
        )  # fmt: skip
    return warp_latent(
        state.latent, clean, levels[0], handles, targets, task.protected,
        combine=settings.warp_combine, reach=settings.warp_reach,
    )  # fmt: skip


def tracked(features: FeatureMap, state: DragState, task: Problem) -> Tensor:
    """Return where the handles are in these features, as the settings search them, (N, 2).

    A handle that lost its content stays, but not for more than 3 steps (DragLoRA).
    """
    settings = task.settings
    return track_points(
        features, state.handles, state.anchors,
        radius=settings.tracking_radius, targets=task.targets, candidates=settings.tracking,
        trace_back=settings.trace_back if state.still < PATIENCE else 0.0,
    )  # fmt: skip


def look_ahead(passes: Passes, state: DragState, *, previous: bool) -> Evaluation:
    """Return the pass at a step's new latent, which serves the next step too.

    Args:
        state: of the step; only its latent, or its timestep too, is new.

    Raises:
        ArithmeticError: its features are not finite.
    """
    ahead = passes.at(state.latent, state.timestep, previous=previous)
    settle(state, ahead=ahead)
    return ahead


def _refusal(state: DragState, what: str, dtype: torch.dtype) -> ArithmeticError:
    return ArithmeticError(
        f"drag step {state.index + 1} was refused: {what} not finite; try a smaller learning "
        f"rate, or float32 in place of {dtype}"
    )
