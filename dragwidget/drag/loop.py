"""The drag as a loop of small, explicit steps (paper, section 3.3).

``advance`` takes one step from a ``DragState`` to the next and is the only place that changes a
latent; ``drag`` walks it as a generator of ``DragStep``. Everything the next step depends on is in
the state, so a drag can stop, go on, go back and branch without a trace of how it was driven.

One pass of the network per step: the pass that tracks the points after an update also carries the
gradient of the next one (``Evaluation``).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dragwidget.data.instructions import DragInstructions, from_grid, on_grid
from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import DragModel, Evaluation, evaluate
from dragwidget.drag.noise_path import Schedule
from dragwidget.drag.optimizer import Moments, adam_step, loss_scale
from dragwidget.drag.supervision import Anchor, GaussianPrior, motion_supervision, region_loss
from dragwidget.drag.tracking import distances, track_points
from dragwidget.drag.warping import in_latent, warp_latent

__all__ = [
    "DragState",
    "DragStep",
    "Ended",
    "Problem",
    "advance",
    "drag",
    "start",
]

Ended = Literal["reached", "step limit", "not moving"]
"""Why a drag is over; one that was stopped from outside has no reason of its own."""


@dataclass(frozen=True, eq=False)
class DragState:
    """Where a drag stands: everything that its next step depends on.

    Attributes:
        latent: (1, c, h, w) float32.
        handles: where the handle points are now, (N, 2) as (row, column) feature cells, float32.
        anchors: what each handle is, (N).
        moments: of Adam.
        index: updates since the start.
        warp: a target is new since the last update; with ``start == "warped"`` the next one warps
            the latent.
        still: updates since a handle last moved.
    """

    latent: Tensor
    handles: Tensor
    anchors: tuple[Anchor, ...]
    moments: Moments
    index: int = 0
    still: int = 0
    warp: bool = True


@dataclass(frozen=True, eq=False)
class Problem:
    """What a step works on and the user may change between two steps.

    Attributes:
        targets: (N, 2) as (row, column) feature cells, float32.
        protected: 1 where nothing may change, (h, w) latent cells; ``None``: all may change.
        reference: the latent before the drag, one DDIM step nearer to the image, (1, c, h, w);
            needed for the region term.
        prior: needed with ``prior_weight > 0``.
        clean: the clean latent that is in the present one, (1, c, h, w), and its share, the
            cumulative alpha; needed where a latent is to be warped.
    """

    targets: Tensor
    protected: Tensor | None = None
    reference: Tensor | None = None
    prior: GaussianPrior | None = None
    clean: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class DragStep:
    """One step of a drag, as the user sees it.

    Attributes:
        index: updates of the latent since the start of the drag, 1 for the first.
        loss: the loss that this step went down, before it.
        loss_terms: its parts by name: ``motion``, ``region``, ``prior``, each with its weight.
        handles_xy: where the handles are after the step, (N, 2), (x, y) image pixels.
        targets_xy: (N, 2), image pixels.
        distances: from handle to target, (N,), image pixels.
        reached: which handles have reached their targets, (N,) bool.
        latent: after the step, (1, c, h, w) float32.
    """

    index: int
    loss: float
    loss_terms: Mapping[str, float]
    handles_xy: npt.NDArray[np.float64]
    targets_xy: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float64]
    reached: npt.NDArray[np.bool_]
    latent: Tensor = field(repr=False)


def start(evaluation: Evaluation, handles: Tensor) -> DragState:
    """The state before the first step: the handles are what lies under them in this latent."""
    features = evaluation.features.detach()
    return DragState(
        latent=evaluation.latent.detach(),
        handles=handles.float(),
        anchors=tuple(Anchor(features, handle) for handle in handles.float()),
        moments=Moments.zeros(evaluation.latent),
    )


def reached(state: DragState, targets: Tensor, settings: DragSettings) -> Tensor:
    """Which handles have arrived, (N,) bool."""
    return distances(state.handles, targets) < settings.stop_distance


def losses(
    state: DragState, problem: Problem, evaluation: Evaluation, settings: DragSettings
) -> dict[str, Tensor]:
    """The terms of the loss at this state, weighted, by name; each a scalar."""
    terms = {
        "motion": motion_supervision(
            evaluation.features,
            state.handles,
            problem.targets,
            ~reached(state, problem.targets, settings),
            radius=settings.motion_radius,
            step_length=settings.step_length,
            templates=state.anchors if settings.template == "original" else None,
        )
    }
    if problem.reference is not None and settings.region_weight > 0:
        assert evaluation.previous is not None
        assert problem.protected is not None
        kept = region_loss(evaluation.previous, problem.reference, problem.protected)
        terms["region"] = settings.region_weight * kept
    if problem.prior is not None and settings.prior_weight > 0:
        terms["prior"] = settings.prior_weight * problem.prior.divergence(evaluation.latent)
    return terms


def advance(
    model: DragModel,
    schedule: Schedule,
    timestep: int,
    state: DragState,
    problem: Problem,
    evaluation: Evaluation,
    settings: DragSettings,
) -> tuple[DragState, Evaluation, dict[str, float]]:
    """One drag step: change the latent, then look where the handles went.

    The latent goes down the gradient; with ``settings.start == "warped"`` the first step, and the
    first with a new target, warps it.

    Args:
        evaluation: of ``state.latent``; its graph is used up.

    Returns:
        The next state, its evaluation, and the terms of the loss that were gone down.

    Raises:
        ArithmeticError: the loss, its gradient or the features after it are not finite; nothing
            was changed.
    """
    values: dict[str, float] = {}
    if settings.start == "warped" and state.warp:
        latent, moments, expected = (
            _warp(state, problem, evaluation),
            state.moments,
            problem.targets,
        )
    else:
        latent, moments, values = _descend(state, problem, evaluation, settings)
        expected = state.handles
    ahead = evaluate(
        model,
        latent,
        schedule,
        timestep,
        evaluation.features.grid,
        settings,
        previous=problem.reference is not None,
    )
    if not all(block.isfinite().all() for block in ahead.features.blocks):
        raise _refusal(state, "its features are", evaluation)
    handles = track_points(ahead.features, expected, state.anchors, radius=settings.tracking_radius)
    moved = not torch.equal(handles, state.handles)
    after = replace(
        state,
        latent=latent,
        handles=handles,
        moments=moments,
        index=state.index + 1,
        still=0 if moved else state.still + 1,
        warp=False,
    )
    return after, ahead, values


def _descend(
    state: DragState, problem: Problem, evaluation: Evaluation, settings: DragSettings
) -> tuple[Tensor, Moments, dict[str, float]]:
    """The latent one step of Adam down the loss; Adam's memory; the terms of the loss."""
    with torch.enable_grad():
        terms = losses(state, problem, evaluation, settings)
        total = torch.stack([term.to(state.latent.device) for term in terms.values()]).sum()
        scale = loss_scale(evaluation.features.blocks[0].dtype)
        (gradient,) = torch.autograd.grad(total * scale, evaluation.latent)
        gradient = gradient / scale
    values = {name: float(term.detach()) for name, term in terms.items()}
    if not (total.isfinite() and gradient.isfinite().all()):
        raise _refusal(state, f"its loss or gradient ({values}) is", evaluation)
    latent, moments = adam_step(state.latent, gradient, state.moments, settings.learning_rate)
    return latent, moments, values


def _refusal(state: DragState, what: str, evaluation: Evaluation) -> ArithmeticError:
    return ArithmeticError(
        f"drag step {state.index + 1} was refused: {what} not finite; try a smaller learning "
        f"rate, or float32 in place of {evaluation.features.blocks[0].dtype}"
    )


def _warp(state: DragState, problem: Problem, evaluation: Evaluation) -> Tensor:
    """The latent with every handle's content carried to its target."""
    handles, targets = (
        in_latent(points, evaluation.features.grid, state.latent)
        for points in (state.handles, problem.targets)
    )
    assert problem.clean is not None
    clean, alpha = problem.clean
    return warp_latent(state.latent, clean, alpha, handles, targets, problem.protected)


def ended(state: DragState, problem: Problem, settings: DragSettings) -> Ended | None:
    """Whether, and why, a drag is over at this state, whatever number of steps was asked for."""
    if reached(state, problem.targets, settings).all():
        return "reached"
    if settings.patience and state.still >= settings.patience:
        return "not moving"
    return None


def describe(
    state: DragState,
    targets: Tensor,
    terms: Mapping[str, float],
    size: tuple[int, int],
    grid: tuple[int, int],
    settings: DragSettings,
) -> DragStep:
    """The user's view of a state, in pixels of an image of ``size`` (width, height)."""
    handles_xy = from_grid(state.handles.numpy(), size, grid)
    targets_xy = from_grid(targets.numpy(), size, grid)
    return DragStep(
        index=state.index,
        loss=sum(terms.values()),
        loss_terms=dict(terms),
        handles_xy=handles_xy,
        targets_xy=targets_xy,
        distances=np.linalg.norm(targets_xy - handles_xy, axis=-1),
        reached=reached(state, targets, settings).numpy(),
        latent=state.latent,
    )


def drag(
    model: DragModel,
    latent: Tensor,
    instructions: DragInstructions,
    schedule: Schedule,
    timestep: int,
    settings: DragSettings,
    *,
    grid: tuple[int, int] | None = None,
    prior: GaussianPrior | None = None,
    clean: Tensor | None = None,
) -> Generator[DragStep, None, Ended]:
    """Drag a latent from its start, one ``DragStep`` at a time; return why it ended.

    Args:
        model: the network, with its prompt.
        latent: at ``timestep``, (1, c, h, w); it is not changed.
        instructions: in pixels of the image.
        timestep: where the latent is edited; 681 for the paper's defaults.
        grid: (rows, columns) of the feature grid; by default ``settings.feature_scale`` times the
            image's size.
        prior: needed with ``settings.prior_weight > 0``.
        clean: the image's clean latent, (1, c, h, w); needed with ``settings.start == "warped"``.
    """
    if settings.prior_weight > 0 and prior is None:
        raise ValueError("prior_weight > 0 needs a prior: pass GaussianPrior.of(clean latent, ...)")
    if settings.start == "warped" and clean is None:
        raise ValueError('start="warped" needs the clean latent of the image: pass clean')
    width, height = instructions.size
    grid = grid or settings.grid(height, width)
    cells = on_grid(instructions, grid, (latent.shape[2], latent.shape[3]))
    region = cells.mask is not None and settings.region_weight > 0
    evaluation = evaluate(model, latent, schedule, timestep, grid, settings, previous=region)
    state = start(evaluation, torch.from_numpy(cells.handles_rc))
    problem = Problem(
        targets=torch.from_numpy(cells.targets_rc),
        protected=None if cells.mask is None else protected_cells(cells.mask, latent),
        reference=None if evaluation.previous is None else evaluation.previous.detach(),
        prior=prior,
        clean=None if clean is None else (clean, schedule.alpha(timestep)),
    )
    for _ in range(settings.steps):
        if reason := ended(state, problem, settings):
            return reason
        state, evaluation, terms = advance(
            model, schedule, timestep, state, problem, evaluation, settings
        )
        yield describe(state, problem.targets, terms, instructions.size, grid, settings)
    return ended(state, problem, settings) or "step limit"


def protected_cells(mask: npt.NDArray[np.bool_], latent: Tensor) -> Tensor:
    """1 where nothing may change, (h, w), of the latent's type, from a mask in latent cells."""
    return torch.from_numpy(~mask).to(latent)
