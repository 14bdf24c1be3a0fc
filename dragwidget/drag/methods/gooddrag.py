"""GoodDrag (Zhang et al., arXiv 2404.07206): drag and denoise in turn.

Over the first denoising timesteps the latent goes down the loss for a while and is then denoised by
one step, which repairs the artefacts of the drag. At every timestep the optimiser is new, and a
handle is what lies under it in the *undragged* latent denoised to the same timestep.

What the authors' code does and the paper does not say is kept: the motion loss is weighted by
(2 r_m)^2; handles are tracked in the features from before the update; they are found again at each
new timestep, which counts as no tracking; the count of trackings without movement runs on over
timesteps. Windows over the border are cut, where theirs fail.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from dragwidget.drag.descent import descend, look_ahead, reached, settle, tracked, warped
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.method import DragState, Ended, Problem, StepReport
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.tracking import track_points

__all__ = ["GoodDrag"]


class Counts(NamedTuple):
    """What a ``DragState`` of this method counts.

    Attributes:
        timesteps: dragging timesteps that are used up.
        tracks: trackings at the present one.
        updates: updates of the latent since the last of them.
    """

    timesteps: int = 0
    tracks: int = 0
    updates: int = 0


class GoodDrag:
    """Alternating drag and denoising.

    A step is one update of the latent. The step that makes the last tracking at a timestep also
    denoises the latent to the next one and finds the handles there.
    """

    def begin(self, passes: Passes, latent: Tensor, handles: Tensor, timestep: Time) -> DragState:  # noqa: ARG002 - the protocol's
        """Return the state before the first step; no pass is needed for it."""
        return DragState(latent, timestep, handles.float(), (), Moments.zeros(latent))

    def advance(
        self, passes: Passes, state: DragState, task: Problem
    ) -> tuple[DragState, StepReport]:
        """Update the latent; track where it is time to; denoise where the timestep is used up."""
        report = StepReport()
        after = state if state.plain_steps else _enter(passes, state, task)
        if reached(after.handles, task.targets, task.settings).all():
            pass  # they were found to have arrived only now
        elif task.settings.start == "warped" and state.retarget:
            after = _warp(passes, after, task)
        else:
            after, report = _update(passes, after, task)
            if Counts(*after.counts).tracks >= task.settings.tracks_per_timestep:
                after = _denoise(passes, after, task)
            else:
                look_ahead(passes, after, previous=task.has_region_loss)
        return replace(after, index=state.index + 1, retarget=False), report

    def ended(self, state: DragState, task: Problem) -> Ended | None:
        """Return why: all handles have arrived, none moves any more, or no timestep is left."""
        if reached(state.handles, task.targets, task.settings).all():
            return Ended.REACHED
        if task.settings.patience and state.still >= task.settings.patience:
            return Ended.NOT_MOVING
        if Counts(*state.counts).timesteps >= task.settings.drag_timesteps:
            return Ended.DENOISED
        return None


def _update(passes: Passes, state: DragState, task: Problem) -> tuple[DragState, StepReport]:
    """Move the latent down the loss, and track in the features from before where it is time to."""
    settings = task.settings
    evaluation = passes.take(state.latent, state.timestep, previous=task.has_region_loss)
    weight = (2 * settings.motion_radius) ** 2
    descent = descend(state, task, evaluation, weight=weight)
    report = settle(state, descent).report
    counts = Counts(*state.counts)
    counts = counts._replace(updates=counts.updates + 1)
    handles, still = state.handles, state.still
    if _is_time_to_track(counts, report, task):
        found = tracked(evaluation.features, state, task)
        _, handles, moved = settle(state, handles=found)
        still = 0 if moved else still + 1
        counts = counts._replace(tracks=counts.tracks + 1, updates=0)
    after = replace(
        state,
        latent=descent.latent,
        moments=descent.moments,
        handles=handles,
        still=still,
        counts=counts,
    )
    return after, report


def _is_time_to_track(counts: Counts, report: StepReport, task: Problem) -> bool:
    settings = task.settings
    if counts.updates >= settings.updates_per_track:
        return True
    threshold = settings.loss_threshold * (2 * settings.motion_radius) ** 2
    return threshold > 0 and report.loss_terms["motion"] <= threshold


def _enter(passes: Passes, state: DragState, task: Problem) -> DragState:
    """Begin at the state's timestep: a new optimiser, and handles found in its features.

    Raises:
        ValueError: too few denoising steps are left for the dragging timesteps.
    """
    counts = Counts(*state.counts)
    left = len(task.path.timesteps) - list(task.path.timesteps).index(state.timestep)
    if task.settings.drag_timesteps - counts.timesteps >= left:
        raise ValueError(
            f"DragSettings.drag_timesteps is {task.settings.drag_timesteps}, but only "
            f"{left + counts.timesteps} steps were inverted, and one at least must follow the "
            "drag: lower it, or raise InversionSettings.steps or strength"
        )
    anchors = tuple(task.anchors(state.timestep))
    if task.has_region_loss:
        task.source(state.timestep)
    here = look_ahead(passes, state, previous=task.has_region_loss)
    handles = track_points(
        here.features, state.handles, anchors, radius=task.settings.tracking_radius
    ).cpu()
    return replace(
        state,
        anchors=anchors,
        handles=handles,
        moments=Moments.zeros(state.latent),
        counts=Counts(counts.timesteps),
        plain_steps=1,
    )


def _denoise(passes: Passes, state: DragState, task: Problem) -> DragState:
    """Take the latent to the next timestep, and enter it where the drag goes on there."""
    settings, counts = task.settings, Counts(*state.counts)
    here = look_ahead(passes, state, previous=True)
    assert here.previous is not None
    after = replace(
        state,
        latent=here.previous.detach(),
        timestep=task.path.previous(state.timestep),
        moments=Moments.zeros(state.latent),
        counts=Counts(counts.timesteps + 1),
        plain_steps=0,
    )
    passes.release()
    gave_up = settings.patience > 0 and after.still >= settings.patience
    if gave_up or counts.timesteps + 1 >= settings.drag_timesteps:
        return after
    return _enter(passes, after, task)


def _warp(passes: Passes, state: DragState, task: Problem) -> DragState:
    """Carry every handle's content to its target, and look for the handles there."""
    state = replace(state, latent=warped(passes, state, task))
    ahead = look_ahead(passes, state, previous=task.has_region_loss)
    handles = track_points(
        ahead.features, task.targets, state.anchors, radius=task.settings.tracking_radius
    ).cpu()
    return replace(state, handles=handles)
