"""One step down the loss: what methods that optimise the latent have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import Evaluation, Passes
from dragwidget.drag.method import DragState, Problem, StepReport
from dragwidget.drag.optimizer import Moments, adam_step, loss_scale
from dragwidget.drag.stretching import stretch_latent
from dragwidget.drag.supervision import motion_supervision, region_loss
from dragwidget.drag.tracking import distances
from dragwidget.drag.warping import in_latent, warp_latent

__all__ = ["descend", "look_ahead", "losses", "reached", "warped"]


def reached(handles: Tensor, targets: Tensor, settings: DragSettings) -> Tensor:
    """Return which handles are within the stop distance of their targets, (N,) bool."""
    return distances(handles, targets) < settings.stop_distance


def losses(
    state: DragState, task: Problem, evaluation: Evaluation, weight: float | None = None
) -> dict[str, Tensor]:
    """Return the weighted terms of the loss at this state, by name; each a scalar.

    Args:
        weight: of the motion loss; see ``motion_supervision``.
    """
    settings = task.settings
    terms = {
        "motion": motion_supervision(
            evaluation.features,
            state.handles,
            task.targets,
            ~reached(state.handles, task.targets, settings),
            radius=settings.motion_radius,
            step_length=settings.step_length,
            templates=state.anchors if settings.template == "original" else None,
            weight=weight,
        )
    }
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


def descend(
    state: DragState, task: Problem, evaluation: Evaluation, weight: float | None = None
) -> tuple[Tensor, Moments, StepReport]:
    """Return the latent one step of Adam down the loss, Adam's moments, and the loss's terms.

    Args:
        evaluation: the pass at the state's latent; its graph is used up.
        weight: of the motion loss; see ``motion_supervision``.

    Raises:
        ArithmeticError: a value is not finite.
    """
    with torch.enable_grad():
        terms = losses(state, task, evaluation, weight)
        total = torch.stack([term.to(state.latent.device) for term in terms.values()]).sum()
        scale = loss_scale(evaluation.features.blocks[0].dtype)
        (gradient,) = torch.autograd.grad(total * scale, evaluation.latent)
        gradient = gradient / scale
    values = {name: float(term.detach()) for name, term in terms.items()}
    if not (total.isfinite() and gradient.isfinite().all()):
        raise _refusal(state, f"its loss or gradient ({values}) is", evaluation)
    latent, moments = adam_step(state.latent, gradient, state.moments, task.settings.learning_rate)
    if not (latent.isfinite().all() and moments.second.isfinite().all()):  # squares overflow first
        raise _refusal(state, "the step is so large that it is", evaluation)
    return latent, moments, StepReport(values)


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


def look_ahead(passes: Passes, state: DragState, *, previous: bool) -> Evaluation:
    """Return the pass at a step's new latent, which serves the next step too.

    Args:
        state: of the step; only its latent, or its timestep too, is new.

    Raises:
        ArithmeticError: its features are not finite.
    """
    ahead = passes.at(state.latent, state.timestep, previous=previous)
    if not all(block.isfinite().all() for block in ahead.features.blocks):
        raise _refusal(state, "its features are", ahead)
    return ahead


def _refusal(state: DragState, what: str, evaluation: Evaluation) -> ArithmeticError:
    return ArithmeticError(
        f"drag step {state.index + 1} was refused: {what} not finite; try a smaller learning "
        f"rate, or float32 in place of {evaluation.features.blocks[0].dtype}"
    )
