"""The progressive warp on models that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analytic_models import LatentItself, RolledImage, blob
from tiny_models import make_scheduler

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings
from dragwidget.drag import Ended, FeatureMap, Schedule, drag
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.method import Problem
from dragwidget.drag.methods.progressive import Progressive, towards
from dragwidget.drag.supervision import Anchor, placement
from dragwidget.drag.warping import near_field, resample, warp_latent

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
TIME = SCHEDULE.last(38)[0]
SIGNAL = SCHEDULE.levels(TIME)[0]
METHOD = Progressive()
START = blob((8, 4))
STILL = 1e-38  # a learning rate that changes no bit
SETTINGS = DragSettings(
    method="progressive", feature_scale=1.0, step_length=0.5, learning_rate=STILL,
)  # fmt: skip
LEFT = np.zeros((16, 16), bool)
LEFT[:, :13] = True


class Drag:
    """A drag of what is at (8, 4)."""

    def __init__(self, target=(8.0, 9.0), mask=None, **changes):
        settings = replace(SETTINGS, **changes)
        self.model = LatentItself()
        self.passes = Passes(self.model, SCHEDULE, (16, 16), settings)
        first = self.passes.at(START, TIME, previous=True).detach()
        self.task = Problem(
            targets=torch.tensor([target]),
            settings=settings,
            path=SCHEDULE,
            source=lambda _: first,
            anchors=lambda _: (),
            clean=START,
            protected=None if mask is None else torch.from_numpy(~mask).float(),
        )
        self.state = METHOD.begin(self.passes, START, torch.tensor([[8.0, 4.0]]), TIME)

    def step(self):
        self.state, report = METHOD.advance(self.passes, self.state, self.task)
        return self.state, report

    def run(self):
        states = []
        while METHOD.ended(self.state, self.task) is None:
            states.append(self.step()[0])
        return states


def warp_to(places, mask=None):
    protected = None if mask is None else torch.from_numpy(~mask).float()
    return warp_latent(START, START, SIGNAL, torch.tensor([[8.0, 4.0]]), places, protected)


@pytest.mark.parametrize(("length", "steps"), [(0.5, 10), (0.3, 17), (1.0, 5), (64.0, 1)])
def test_each_step_moves_a_handle_by_the_step_length_and_the_last_ends_on_the_target(length, steps):
    states = Drag(step_length=length).run()
    assert len(states) == steps
    assert torch.equal(states[-1].handles, torch.tensor([[8.0, 9.0]]))
    places = torch.cat([torch.tensor([[8.0, 4.0]]), *(state.handles for state in states)])
    moved = (places[1:] - places[:-1]).norm(dim=-1)
    assert moved.max() <= length + 4e-3
    assert moved.max() - moved.min() < 4e-3  # even steps: none is a remainder


def test_towards_goes_straight_and_never_past_the_target():
    handles, targets = (
        torch.tensor([[0.0, 0.0], [5.0, 5.0]]),
        torch.tensor([[3.0, 4.0], [5.0, 5.0]]),
    )
    assert torch.allclose(towards(handles, targets, 2.5)[0], torch.tensor([1.5, 2.0]), atol=1e-3)
    assert torch.allclose(towards(handles, targets, 3.0)[0], torch.tensor([1.5, 2.0]), atol=1e-3)
    assert torch.equal(towards(handles, targets, 2.5)[1], targets[1])
    assert torch.equal(towards(handles, targets, 5.0), targets)


@pytest.mark.parametrize("mask", [None, LEFT])
def test_the_warp_begins_with_the_start_in_every_step(mask):
    """So no latent is resampled twice: after ten steps the bits are those of one warp."""
    for state in Drag(mask=mask).run():
        wanted = warp_to(state.handles, mask)
        torch.testing.assert_close(state.latent, wanted, rtol=0, atol=1e-6)


def test_a_moved_target_takes_effect_with_the_next_step_and_the_start_stays():
    dragged = Drag()
    for _ in range(4):
        dragged.step()
    assert torch.equal(dragged.state.handles, torch.tensor([[8.0, 6.0]]))
    dragged.task = replace(dragged.task, targets=torch.tensor([[11.0, 6.0]]))
    assert torch.equal(dragged.step()[0].handles, torch.tensor([[8.5, 6.0]]))
    last = dragged.run()[-1]
    torch.testing.assert_close(last.latent, warp_to(torch.tensor([[11.0, 6.0]])), rtol=0, atol=1e-6)


def test_an_update_is_made_so_often_in_a_step_and_costs_one_pass():
    dragged = Drag(updates_per_track=4)
    before = dragged.model.passes
    state, report = dragged.step()
    assert dragged.model.passes - before == 4
    assert state.moments.count == 4
    assert set(report.loss_terms) == {"motion"}
    assert set(Drag(mask=LEFT).step()[1].loss_terms) == {"motion", "region"}


def test_updates_bring_the_patch_under_the_handle_back_to_what_was_drawn():
    def gap(rate):
        dragged = Drag(learning_rate=rate, updates_per_track=10)
        last = dragged.run()[-1]
        features = FeatureMap((last.latent,), (16, 16))
        return float(placement(features, last.anchors, last.handles, radius=1))

    assert gap(0.02) < 0.5 * gap(STILL)


def test_what_updates_added_moves_with_the_handle_in_the_next_step():
    """It is dragged along by the step alone, as wide around the handle as the whole warp."""
    dragged = Drag(learning_rate=0.05)
    first, _ = dragged.step()
    added = first.latent - warp_to(first.handles)
    assert added.abs().max() > 0.04
    settings = replace(dragged.task.settings, learning_rate=STILL)
    dragged.task = replace(dragged.task, settings=settings)
    second, _ = dragged.step()
    field = near_field(
        (16, 16), torch.tensor([[8.0, 4.0]]), second.handles, last=second.handles - first.handles
    )
    assert torch.allclose(field[8, 5], torch.tensor([0.0, 0.5]))
    carried = second.latent - warp_to(second.handles)
    torch.testing.assert_close(carried, resample(added, field), rtol=0, atol=1e-5)
    assert not torch.allclose(carried, added, atol=1e-3)


def test_a_patch_that_was_moved_is_in_its_place():
    model = RolledImage()
    image = model(torch.zeros(1, 2, 1, 1), 0, blocks=(0,)).features[0]
    rolled = model(torch.tensor([2.0, 3.0]).view(1, 2, 1, 1), 0, blocks=(0,)).features[0]
    anchors = [Anchor(FeatureMap((image,), (32, 32)), torch.tensor([10.0, 12.0]))]
    there, elsewhere = (
        float(placement(FeatureMap((rolled,), (32, 32)), anchors, torch.tensor([place]), radius=2))
        for place in ((12.0, 15.0), (10.0, 12.0))
    )
    assert there < 1e-4
    assert elsewhere > 1


def test_with_the_stretched_field_too_it_is_one_warp():
    dragged = Drag(mask=LEFT, warp_field="stretch", warp_holes="noise")
    at_once = Drag(mask=LEFT, warp_field="stretch", warp_holes="noise", step_length=64.0)
    torch.testing.assert_close(
        dragged.run()[-1].latent, at_once.run()[-1].latent, rtol=0, atol=1e-5
    )


def test_the_loop_takes_visible_steps_to_the_target():
    drawn = DragInstructions.from_points([((8, 16), (18, 16))], size=(32, 32))
    settings = replace(SETTINGS, feature_scale=0.5, stop_distance=0.5, learning_rate=0.01)
    walk = drag(LatentItself(), START, drawn, SCHEDULE, TIME, settings, clean=START)
    steps = list(walk)
    assert len(steps) == 10  # 10 pixels are 5 cells
    assert [round(float(step.handles_xy[0, 0]), 6) for step in steps] == list(range(9, 19))
    assert steps[-1].reached.all()


def test_it_ends_where_every_handle_is_on_its_target():
    dragged = Drag(target=(8.0, 4.0))
    assert METHOD.ended(dragged.state, dragged.task) == Ended.REACHED
    dragged = Drag(target=(8.0, 5.0), stop_distance=100.0)
    assert METHOD.ended(dragged.state, dragged.task) is None
