"""DragDiffusion (Shi et al., arXiv 2306.14435, section 3.3): all steps at one timestep.

One forward pass a step: the pass that tracks the points after an update also carries the gradient
of the next update. The device is asked for numbers once, when a step's work is done: then its loss
and its handles are known, and whether all is finite. Beside the paper's choices, the settings offer
GoodDrag's template and a start from a warped latent, as FastDrag does.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from dragwidget.drag.descent import descend, reached, settle, tracked, warped
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.method import DragState, Ended, Problem, StepReport
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.supervision import Anchor
from dragwidget.drag.tracking import track_points

__all__ = ["DragDiffusion"]


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
        settings, masked = task.settings, task.has_region_loss
        descent = None
        if settings.start == "warped" and state.retarget:
            latent, moments = warped(passes, state, task), state.moments
        else:
            here = passes.take(state.latent, state.timestep, previous=masked)
            descent = descend(state, task, here)
            latent, moments = descent.latent, descent.moments
        ahead = passes.at(latent, state.timestep, previous=masked)
        if descent is not None:
            found = tracked(ahead.features, state, task)
        else:  # the warp carried them to their targets
            found = track_points(
                ahead.features, task.targets, state.anchors, radius=settings.tracking_radius
            )
        report, handles, moved = settle(state, descent, handles=found, ahead=ahead)
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
