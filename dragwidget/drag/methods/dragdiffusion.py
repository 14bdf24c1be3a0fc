"""DragDiffusion (Shi et al., arXiv 2306.14435, section 3.3): all steps at one timestep.

One forward pass a step: the pass that tracks the points after an update also carries the gradient
of the next update. Beside the paper's choices, the settings offer GoodDrag's template and a start
from a warped latent, as FastDrag does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import Evaluation, Passes
from dragwidget.drag.method import DragState, Ended, Problem, StepReport
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments, adam_step, loss_scale
from dragwidget.drag.supervision import Anchor, motion_supervision, region_loss
from dragwidget.drag.tracking import distances, track_points
from dragwidget.drag.warping import in_latent, warp_latent

__all__ = ["DragDiffusion", "losses", "reached"]


class DragDiffusion:
    """The drag method of the paper."""

    def begin(self, passes: Passes, latent: Tensor, handles: Tensor, timestep: Time) -> DragState:
        """Return the initial state; handles track what lies under them in ``latent``."""
        features = passes.at(latent, timestep).features.detach()
        return DragState(
            latent=latent,
            timestep=timestep,
            handles=handles.float(),
            anchors=tuple(Anchor(features, handle) for handle in handles.float()),
            moments=Moments.zeros(latent),
        )

    def advance(
        self, passes: Passes, state: DragState, task: Problem
    ) -> tuple[DragState, StepReport]:
        """Update the latent, then track the handles.

        The latent goes down the gradient; with ``start == "warped"`` the first step, and the first
        with a new target, warps it.
        """
        settings = task.settings
        if settings.start == "warped" and state.retarget:
            latent, moments = _warp(passes, state, task), state.moments
            report, expected = StepReport(), task.targets
        else:
            latent, moments, report = _descend(passes, state, task)
            expected = state.handles
        ahead = passes.at(latent, state.timestep, previous=task.has_region_loss)
        if not all(block.isfinite().all() for block in ahead.features.blocks):
            raise _refusal(state, "its features are", ahead)
        handles = track_points(
            ahead.features, expected, state.anchors, radius=settings.tracking_radius
        )
        moved = not torch.equal(handles, state.handles)
        after = replace(
            state,
            latent=latent,
            handles=handles,
            moments=moments,
            index=state.index + 1,
            still=0 if moved else state.still + 1,
            retarget=False,
        )
        return after, report

    def ended(self, state: DragState, task: Problem) -> Ended | None:
        """Return REACHED, NOT_MOVING after ``patience`` steps without motion, or ``None``."""
        if reached(state.handles, task.targets, task.settings).all():
            return Ended.REACHED
        if task.settings.patience and state.still >= task.settings.patience:
            return Ended.NOT_MOVING
        return None


def reached(handles: Tensor, targets: Tensor, settings: DragSettings) -> Tensor:
    """Return which handles are within the stop distance of their targets, (N,) bool."""
    return distances(handles, targets) < settings.stop_distance


def losses(state: DragState, task: Problem, evaluation: Evaluation) -> dict[str, Tensor]:
    """Return the weighted terms of the loss at this state, by name; each a scalar."""
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


def _descend(passes: Passes, state: DragState, task: Problem) -> tuple[Tensor, Moments, StepReport]:
    """Take one step of Adam; return the latent, the moments, and the terms of the loss."""
    evaluation = passes.take(state.latent, state.timestep, previous=task.has_region_loss)
    with torch.enable_grad():
        terms = losses(state, task, evaluation)
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


def _warp(passes: Passes, state: DragState, task: Problem) -> Tensor:
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
    signal, _ = task.path.levels(state.timestep)
    return warp_latent(state.latent, clean, signal, handles, targets, task.protected)


def _refusal(state: DragState, what: str, evaluation: Evaluation) -> ArithmeticError:
    return ArithmeticError(
        f"drag step {state.index + 1} was refused: {what} not finite; try a smaller learning "
        f"rate, or float32 in place of {evaluation.features.blocks[0].dtype}"
    )
