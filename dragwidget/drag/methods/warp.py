"""Warp: the content is moved to its targets in one step, without a gradient.

FastDrag (Zhao et al., arXiv 2405.15769) showed that moving the cells of an inverted latent moves
the content, and that rendering repairs the rest. ``DragSettings.warp_field`` chooses how cells
move: ``drag.warping`` has ours, ``drag.stretching`` FastDrag's.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from dragwidget.drag.descent import reached, warped
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.method import DragState, Ended, Problem, StepReport
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments

__all__ = ["Warp"]


class Warp:
    """One step carries every handle's content to its target; the handles are then there.

    A new or moved target is another step, from the latent as it is.
    """

    def begin(self, passes: Passes, latent: Tensor, handles: Tensor, timestep: Time) -> DragState:  # noqa: ARG002 - the protocol's
        """Return the state before the first step; no pass is needed for it."""
        return DragState(latent, timestep, handles.float(), (), Moments.zeros(latent))

    def advance(
        self, passes: Passes, state: DragState, task: Problem
    ) -> tuple[DragState, StepReport]:
        """Warp the latent; nothing is minimised, so the report is empty."""
        latent = warped(passes, state, task)
        passes.release()
        after = replace(
            state,
            latent=latent,
            handles=task.targets,
            moments=Moments.zeros(latent),
            index=state.index + 1,
            still=0,
            retarget=False,
        )
        return after, StepReport()

    def ended(self, state: DragState, task: Problem) -> Ended | None:
        """Return why: all handles are at their targets."""
        return Ended.REACHED if reached(state.handles, task.targets, task.settings).all() else None
