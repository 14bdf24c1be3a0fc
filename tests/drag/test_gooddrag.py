"""GoodDrag on models that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analytic_models import LatentItself, RolledImage, blob
from tiny_models import make_scheduler
from torch.nn.functional import pad

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings, InversionSettings, Settings
from dragwidget.drag import Ended, FeatureMap, Schedule, drag
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.method import Problem
from dragwidget.drag.methods.gooddrag import Counts, GoodDrag
from dragwidget.drag.supervision import Anchor
from dragwidget.drag.trajectory import PlainTrajectory

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
STEPS = SCHEDULE.last(38)
METHOD = GoodDrag()
START = blob((8, 5))
GOOD = DragSettings(
    method="gooddrag", template="original", feature_scale=1.0, motion_radius=1, step_length=4.0,
    drag_timesteps=2, tracks_per_timestep=2, updates_per_track=2, learning_rate=0.02,
)  # fmt: skip
LEFT = np.zeros((16, 16), bool)
LEFT[:, :12] = True


class Drag:
    """One drag of the blob at (8, 5), on a model, with its task at hand."""

    def __init__(self, settings=GOOD, target=(8.0, 12.0), model=None, mask=None, start=START,
                 handle=(8.0, 5.0)):  # fmt: skip
        self.model = model or LatentItself()
        self.passes = Passes(self.model, SCHEDULE, (16, 16), settings)
        self.plain = PlainTrajectory(self.passes, start, STEPS[0])
        handles = torch.tensor([handle])
        self.task = Problem(
            targets=torch.tensor([target]),
            settings=settings,
            path=SCHEDULE,
            source=self.plain.at,
            anchors=lambda t: self.plain.anchors(t, tuple(handles), settings.motion_radius),
            clean=start,
            protected=None if mask is None else torch.from_numpy(~mask).float(),
        )
        self.state = METHOD.begin(self.passes, start, handles, STEPS[0])

    def step(self):
        self.state, report = METHOD.advance(self.passes, self.state, self.task)
        return self.state, report

    def run(self):
        """(state, report) of every step"""
        steps = []
        while METHOD.ended(self.state, self.task) is None:
            steps.append(self.step())
        return steps


def test_where_no_update_changes_a_bit_the_plain_denoising_remains():
    dragged = Drag(replace(GOOD, learning_rate=1e-38, drag_timesteps=7), mask=LEFT)
    states = [state for state, _ in dragged.run()]
    assert states[-1].timestep == STEPS[7]
    for state in states:
        at = dragged.plain.at(state.timestep)
        assert torch.equal(state.latent, at.latent)


def test_a_step_is_an_update_and_the_last_of_a_timestep_denoises_too():
    dragged = Drag()
    seen = [(s.timestep, *s.counts, s.plain_steps) for s, _ in dragged.run()]
    first, second, third = STEPS[:3]
    assert seen == [
        (first, 0, 0, 1, 1), (first, 0, 1, 0, 1), (first, 0, 1, 1, 1), (second, 1, 0, 0, 1),
        (second, 1, 0, 1, 1), (second, 1, 1, 0, 1), (second, 1, 1, 1, 1), (third, 2, 0, 0, 0),
    ]  # fmt: skip
    assert METHOD.ended(dragged.state, dragged.task) == Ended.DENOISED


def test_an_update_costs_one_pass_and_a_timestep_three():
    """The pass before the update; per timestep one to denoise, and one of the undragged latent."""
    dragged = Drag()
    dragged.run()
    updates, timesteps = 8, 2
    # at the first timestep the undragged latent is the one that is dragged
    assert dragged.model.passes == updates + timesteps + (timesteps - 1)


@pytest.mark.parametrize("mask", [None, LEFT])
def test_between_trackings_it_is_dragdiffusions_loop_but_for_the_weight(mask):
    """(2 r)^2 in place of (2 r + 1)^2, which a region weight of as much less makes up for."""
    ratio = 4 / 9
    good = replace(GOOD, template="current", step_length=1.0, updates_per_track=1000,
                   region_weight=0.1 * ratio, drag_timesteps=1)  # fmt: skip
    theirs = replace(good, method="dragdiffusion", region_weight=0.1, tracking_radius=0, steps=5)
    drawn = DragInstructions.from_points([((5, 8), (12, 8))], size=(16, 16), mask=mask)
    wanted = list(drag(LatentItself(), START, drawn, SCHEDULE, STEPS[0], theirs))
    dragged = Drag(good, mask=mask)
    for step in wanted:
        state, report = dragged.step()
        torch.testing.assert_close(state.latent, step.latent, rtol=0, atol=1e-5)
        assert sum(report.loss_terms.values()) == pytest.approx(ratio * step.loss, rel=1e-4)


@pytest.mark.parametrize(("target", "shift"), [((8.0, 12.0), 4), ((8.0, 8.0), 3)])
def test_the_first_update_moves_each_cell_of_the_shifted_patch_by_the_learning_rate(target, shift):
    """The shift is the step length, or all of the way where that is shorter."""
    state, _ = Drag(target=target).step()
    change = state.latent - START
    wanted = torch.zeros_like(START)
    patch = START[..., 7:10, 4:7]
    there = (..., slice(7, 10), slice(4 + shift, 7 + shift))
    wanted[there] = -0.02 * (START[there] - patch).sign()
    torch.testing.assert_close(change, wanted, rtol=0, atol=1e-6)


def test_the_motion_loss_is_weighted_by_two_radii_squared():
    _, report = Drag().step()
    gap = (START[0, :, 7:10, 4:7] - START[0, :, 7:10, 8:11]).abs().mean()
    assert report.loss_terms["motion"] == pytest.approx(4 * float(gap), rel=1e-5)


def test_the_optimiser_is_new_at_every_timestep():
    counts = [s.moments.count for s, _ in Drag().run()]
    assert counts == [1, 2, 3, 0, 1, 2, 3, 0]
    dragged = Drag()
    for state, _ in dragged.run():
        if not state.moments.count:
            assert not state.moments.first.any()
            assert not state.moments.second.any()


def test_what_a_handle_is_at_a_timestep_comes_from_the_undragged_latent_there():
    plain, changed = Drag(), Drag()
    anchors = changed.task.anchors

    def other(t):
        found = anchors(t)
        if t == STEPS[1]:
            patch = found[0].features
            found = (Anchor(replace(patch, values=patch.values + 1), found[0].position),)
        return found

    changed.task = replace(changed.task, anchors=other)
    before, after = plain.run(), changed.run()
    losses = [[r.loss_terms["motion"] for _, r in steps] for steps in (before, after)]
    assert losses[0][:4] == losses[1][:4]
    assert losses[0][4] != losses[1][4]
    assert torch.equal(before[2][0].latent, after[2][0].latent)


def test_the_region_is_compared_with_the_undragged_latent_at_each_timestep():
    editable = np.zeros((16, 16), bool)
    editable[:, :8] = True
    dragged = Drag(mask=editable)
    steps = dragged.run()
    assert steps[0][1].loss_terms["region"] == 0  # the very same pass
    entered, (after, report) = steps[3][0], steps[4]
    assert (entered.timestep, after.timestep) == (STEPS[1], STEPS[1])
    reference = dragged.plain.at(STEPS[1]).previous
    prediction = dragged.model(entered.latent, STEPS[1]).prediction
    previous, _ = SCHEDULE.step(entered.latent, prediction, STEPS[1])
    wanted = 0.1 * (previous - reference)[..., 8:].abs().sum()
    assert wanted > 0
    assert report.loss_terms["region"] == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("cell", [(0, 0), (0, 15), (15, 0), (15, 15), (8, 0), (3, 14)])
def test_around_the_border_the_features_are_replicated(cell):
    features = FeatureMap((START,), (16, 16))
    around = features.around(torch.tensor(cell).float(), 3)
    padded = pad(START, (3, 3, 3, 3), mode="replicate")[0]
    torch.testing.assert_close(
        around.values, padded[:, cell[0] : cell[0] + 7, cell[1] : cell[1] + 7], rtol=0, atol=1e-6
    )
    cells = torch.tensor(cell).float()[:, None] + torch.tensor([-1.0, 0.0, 1.0])
    torch.testing.assert_close(around.around(1), features.patch(*cells).flatten(1).T)
    with pytest.raises(IndexError, match="holds 3 cells around its middle, got a radius of 4"):
        around.around(4)


@pytest.mark.parametrize("handle", [(0.0, 0.0), (15.0, 15.0), (0.0, 8.0), (8.0, 15.0)])
def test_a_handle_at_the_border_is_dragged(handle):
    settings = replace(GOOD, motion_radius=4, tracking_radius=12)
    target = (15 - handle[0], 15 - handle[1]) if handle != (8.0, 15.0) else (8.0, 2.0)
    dragged = Drag(settings, target=target, handle=handle, mask=LEFT)
    for state, report in dragged.run():
        assert state.latent.isfinite().all()
        assert all(np.isfinite(value) for value in report.loss_terms.values())
        assert ((state.handles >= 0) & (state.handles <= 15)).all()


def test_the_content_arrives_at_the_target():
    drawn = DragInstructions.from_points([((32, 32), (46, 40))], size=(64, 64))
    settings = DragSettings(
        method="gooddrag", template="original", step_length=4.0, motion_radius=2, steps=300,
        tracking_radius=6, learning_rate=0.1, drag_timesteps=7,
    )  # fmt: skip
    steps = list(drag(RolledImage(), torch.zeros(1, 2, 1, 1), drawn, SCHEDULE, STEPS[0], settings))
    assert len(steps) < 7 * 10 * 3  # it was over before the timesteps were
    assert steps[-1].distances[0] < 4


def test_patience_counts_trackings_over_timesteps_and_then_nothing_is_entered():
    still = replace(GOOD, learning_rate=1e-9, patience=2, drag_timesteps=5)
    dragged = Drag(still)
    steps = dragged.run()
    assert len(steps) == 4  # two trackings of two updates: the first timestep's
    assert METHOD.ended(dragged.state, dragged.task) == Ended.NOT_MOVING
    assert (dragged.state.timestep, dragged.state.plain_steps) == (STEPS[1], 0)
    assert dragged.model.passes == 4 + 1
    middle = Drag(replace(still, patience=3))
    assert len(middle.run()) == 6
    assert (middle.state.timestep, middle.state.plain_steps) == (STEPS[1], 1)
    assert Ended.NOT_MOVING.describe(still) == "no handle moved for 2 trackings"


def test_a_small_loss_is_tracked_at_once():
    dragged = Drag(replace(GOOD, loss_threshold=1e6))
    assert [s.counts[1:] for s, _ in dragged.run()] == [(1, 0), (0, 0), (1, 0), (0, 0)]


def test_a_target_that_moved_is_dragged_to():
    dragged = Drag(target=(8.0, 6.0))
    assert METHOD.ended(dragged.state, dragged.task) == Ended.REACHED
    dragged.task = replace(dragged.task, targets=torch.tensor([[8.0, 13.0]]))
    assert METHOD.ended(dragged.state, dragged.task) is None
    assert dragged.step()[0].counts == Counts(0, 0, 1)


def test_a_warped_start_comes_before_the_first_update():
    dragged = Drag(replace(GOOD, start="warped"))
    state, report = dragged.step()
    assert report.loss_terms == {}
    assert state.counts == Counts(0, 0, 0)
    assert not torch.equal(state.latent, START)
    assert torch.linalg.norm(state.handles[0] - torch.tensor([8.0, 12.0])) < 3


# ---------------------------------------------------------------- what is refused


def test_three_quarters_of_50_steps_are_38():
    assert InversionSettings(steps=50, strength=0.75).count == 38


def test_more_dragging_timesteps_than_there_are_steps_are_refused():
    walk = drag(LatentItself(), START, DragInstructions.from_points([((5, 8), (12, 8))],
                size=(16, 16)), SCHEDULE, STEPS[-2], GOOD)  # fmt: skip
    with pytest.raises(ValueError, match=r"DragSettings\.drag_timesteps is 2, but only 2 steps"):
        next(walk)


@pytest.mark.parametrize(
    ("inversion", "settings", "message"),
    [
        ({"strength": 1}, {}, r"InversionSettings\.strength must be below 1"),
        ({"steps": 10, "strength": 0.2}, {}, r"drag_timesteps must be below 2, the steps"),
        ({}, {"drag_timesteps": 38}, r"drag_timesteps must be below 35"),
        ({}, {"motion_radius": 0}, r"motion_radius must be at least 1"),
        ({}, {"prior_weight": 0.5}, r"prior_weight must be 0"),
    ],
)
def test_settings_that_gooddrag_cannot_have_are_refused_by_name(inversion, settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(
            inversion=InversionSettings(**inversion),
            drag=DragSettings(method="gooddrag", **settings),
        )
    Settings(inversion=InversionSettings(**inversion), drag=DragSettings(**settings))
