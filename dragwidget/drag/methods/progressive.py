"""Progressive warp: warp a little further, repair, and so on. Ours.

A warp (``warp``) carries content to its targets in one step that nobody can steer. Here each step
moves every handle by at most ``step_length`` on its straight path to its target. The latent is then

    warp(start, handles where they were drawn -> where they are now) + carried

The warp always begins with the latent before the first step: a latent that is resampled again and
again would blur. ``carried`` is what the optimisation has added to the warped start so far. It
belongs to the content under it, so the step moves it by as much as it moves the handles. A few
updates of Adam then repair what the warp tore: the patch under every handle should look as it did
where the handle was drawn.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dragwidget.data.frames import PARTS
from dragwidget.drag.descent import Placed, descend, settle, warped
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.method import DragState, Ended, Problem, Start, StepReport
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.supervision import Anchor
from dragwidget.drag.warping import in_latent, near_field, resample

__all__ = ["Progressive"]


class Progressive:
    """Many small warps, each repaired by ``updates_per_track`` updates.

    Handles are where the warp has carried them; they are not tracked.
    """

    def begin(self, passes: Passes, latent: Tensor, handles: Tensor, timestep: Time) -> DragState:
        """Return the state before the first step."""
        features, handles = passes.at(latent, timestep).features.detach(), handles.float()
        return DragState(
            latent=latent,
            timestep=timestep,
            handles=handles,
            anchors=tuple(Anchor(features, handle) for handle in handles),
            moments=Moments.zeros(latent),
            start=Start(latent, handles),
        )

    def advance(
        self, passes: Passes, state: DragState, task: Problem
    ) -> tuple[DragState, StepReport]:
        """Warp the start a little further and update the result; the report is of one update."""
        passes.release()
        start = state.start or Start(state.latent, state.handles, state.index)
        handles = towards(state.handles, task.targets, task.settings.step_length)
        latent = _warped(passes, state, task, start, handles)
        if state.index > start.index:
            added = state.latent - _warped(passes, state, task, start, state.handles)
            latent = latent + _carried(passes, added, state, task, start, handles)
        after = replace(
            state, latent=latent, handles=handles, moments=Moments.zeros(latent), start=start
        )
        placed = Placed(FeatureMap((), passes.grid), start.handles)
        if task.settings.extra_weight > 0:
            begun = passes.at(start.latent, state.timestep, graph=False)
            placed = placed._replace(features=begun.features.detach())
        report = StepReport()
        for _ in range(task.settings.updates_per_track):
            here = passes.take(after.latent, state.timestep, previous=task.has_region_loss)
            descent = descend(after, task, here, placed=placed)
            report = settle(after, descent).report
            after = replace(after, latent=descent.latent, moments=descent.moments)
        return replace(after, index=state.index + 1, still=0, retarget=False), report

    def ended(self, state: DragState, task: Problem) -> Ended | None:
        """Return why: every handle is at its target, whatever the stop distance is."""
        return Ended.REACHED if torch.equal(state.handles, task.targets) else None


def towards(handles: Tensor, targets: Tensor, length: float) -> Tensor:
    """Return points (N, 2) one step nearer to their targets, in even steps of at most ``length``.

    They lie on parts of a cell that pixels of an image tell exactly: a step is the same wherever
    the drag goes on. That may make a step longer by a few of these parts.
    """
    way = targets - handles
    distance = way.norm(dim=-1, keepdim=True)
    steps = ((distance - 4 / PARTS) / length).ceil().clamp(min=1)
    return torch.where(steps > 1, ((handles + way / steps) * PARTS).round() / PARTS, targets)


def _warped(
    passes: Passes, state: DragState, task: Problem, start: Start, handles: Tensor
) -> Tensor:
    """Return the start with every handle's content carried to ``handles``."""
    begun = replace(state, latent=start.latent, handles=start.handles, index=start.index)
    return warped(passes, begun, replace(task, targets=handles))


def _carried(
    passes: Passes, added: Tensor, state: DragState, task: Problem, start: Start, handles: Tensor
) -> Tensor:
    """Return what updates have added so far, moved as far as this step moves the handles."""
    drawn, before, after = (
        in_latent(points, passes.grid, added) for points in (start.handles, state.handles, handles)
    )
    settings, size = task.settings, (added.shape[2], added.shape[3])
    field = near_field(
        size, drawn, after, task.protected, last=after - before,
        combine=settings.warp_combine, reach=settings.warp_reach,
    )  # fmt: skip
    return resample(added, field)
