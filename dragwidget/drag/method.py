"""The protocol of a drag method, and the data that it works on.

A method takes one step at a time from a ``DragState`` to the next. Everything that the next step
depends on is in the state, so that a drag can pause, continue, rewind and branch, whatever drives
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from torch import Tensor

from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import Evaluation, Passes
from dragwidget.drag.noise_path import NoisePath, Time
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.supervision import Anchor, GaussianPrior

__all__ = ["DragMethod", "DragState", "Ended", "Problem", "Start", "StepReport"]


class Ended(str, Enum):
    """Why a drag ended; a drag stopped by the caller has no reason."""

    REACHED = "reached"
    STEP_LIMIT = "step limit"
    NOT_MOVING = "not moving"
    DENOISED = "denoised"

    def __str__(self) -> str:
        return self.value

    def describe(self, settings: DragSettings) -> str:
        """Return the reason as a clause, with the setting that ended the drag."""
        if self is Ended.REACHED:
            return (
                f"all handles are within {settings.stop_distance:g} feature cells of their targets"
            )
        if self is Ended.NOT_MOVING:
            counted = "trackings" if settings.method == "gooddrag" else "steps"
            return f"no handle moved for {settings.patience} {counted}"
        if self is Ended.DENOISED:
            return f"all {settings.drag_timesteps} dragging timesteps are used"
        return "step limit reached"


@dataclass(frozen=True, eq=False)
class Start:
    """Where a drag of the same method and the same handles began.

    Attributes:
        latent: (1, c, h, w), at the timestep of the state.
        handles: where the handles are on it, (N, 2) as (row, column) feature cells, float32.
        index: steps before it.
    """

    latent: Tensor
    handles: Tensor
    index: int = 0


@dataclass(frozen=True, eq=False)
class DragState:
    """The state of a drag: everything that its next step depends on.

    Attributes:
        latent: (1, c, h, w) float32.
        timestep: noise level of the latent; a method may move along the path.
        handles: current handle points, (N, 2) as (row, column) feature cells, float32.
        anchors: what each handle tracks, (N).
        moments: Adam's moments.
        index: steps since the start.
        still: steps since a handle last moved.
        retarget: whether a target has changed since the last step.
        counts: what else the method counts.
        plain_steps: number of denoising steps from here that are still part of the drag: a render
            takes them without mutual self-attention.
        start: what a method warps that never resamples its own result; ``None``: this state.
    """

    latent: Tensor
    timestep: Time
    handles: Tensor
    anchors: tuple[Anchor, ...]
    moments: Moments
    index: int = 0
    still: int = 0
    retarget: bool = True
    counts: tuple[int, ...] = ()
    plain_steps: int = 0
    start: Start | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """The input of a step; the user can change it between two steps.

    Attributes:
        targets: (N, 2) as (row, column) feature cells, float32.
        settings: settings of the drag.
        path: the noise path of the model.
        source: returns the forward pass at a timestep, at the source's latent denoised to there
            without a drag; with its prediction, without a graph, and past the start without
            features.
        anchors: returns what each handle is at a timestep, (N): its place in the features of the
            latent that it was drawn on, denoised to there without a drag.
        clean: the source's clean latent, (1, c, h, w).
        protected: 1 where the latent must not change, (h, w) latent cells; ``None``: everything is
            editable.
        prior: needed with ``prior_weight > 0``.
    """

    targets: Tensor
    settings: DragSettings
    path: NoisePath
    source: Callable[[Time], Evaluation]
    anchors: Callable[[Time], Sequence[Anchor]]
    clean: Tensor
    protected: Tensor | None = None
    prior: GaussianPrior | None = None

    @property
    def has_region_loss(self) -> bool:
        """Whether the loss has a region term."""
        return self.protected is not None and self.settings.region_weight > 0


@dataclass(frozen=True, eq=False)
class StepReport:
    """What one step did, beside the new state.

    Attributes:
        loss_terms: the weighted terms of the loss before the step, by name; empty where the step
            minimised none.
    """

    loss_terms: Mapping[str, float] = field(default_factory=dict)


class DragMethod(Protocol):
    """A way to move the content of a latent from handles to targets, one step at a time.

    Methods are stateless: they keep nothing between two calls.
    """

    def begin(self, passes: Passes, latent: Tensor, handles: Tensor, timestep: Time) -> DragState:
        """Return the state before the first step.

        Args:
            latent: where the drag starts, (1, c, h, w).
            handles: (N, 2) as (row, column) feature cells.
        """
        ...

    def advance(
        self, passes: Passes, state: DragState, task: Problem
    ) -> tuple[DragState, StepReport]:
        """Return the state after one more step, and what the step did.

        Raises:
            ArithmeticError: a value is not finite; nothing was changed.
        """
        ...

    def ended(self, state: DragState, task: Problem) -> Ended | None:
        """Return why the drag is over at this state; ``None`` while it can continue."""
        ...
