"""More supervised points, sampled from the warp field."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from analytic_models import LatentItself, blob
from tiny_models import make_scheduler

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings
from dragwidget.drag import Schedule, drag
from dragwidget.drag.warping import in_features, in_latent, near_field, sample_field

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
TIME = SCHEDULE.last(38)[0]
START = blob((8, 4))
HANDLES, TARGETS = torch.tensor([[8.0, 4.0]]), torch.tensor([[8.0, 9.0]])
RIGHT = torch.zeros(16, 16)
RIGHT[:, 12:] = 1
SETTINGS = DragSettings(
    feature_scale=1.0, learning_rate=0.02, steps=1, drag_timesteps=2, tracks_per_timestep=1,
    updates_per_track=1,
)  # fmt: skip
METHODS = ["dragdiffusion", "gooddrag", "progressive"]


@pytest.mark.parametrize("protected", [None, RIGHT])
def test_the_points_are_those_that_the_field_moves_farthest(protected):
    field = near_field((16, 16), HANDLES, TARGETS, protected, reach=0.5)
    points, places = sample_field((16, 16), HANDLES, TARGETS, protected, reach=0.5)
    assert 8 < len(points) <= 16
    rows, columns = places.long().T
    torch.testing.assert_close(places - points, field[rows, columns])
    length = field.norm(dim=-1)
    assert length[rows, columns].min() >= length.max() / 10
    assert torch.equal(places[0], TARGETS[0])
    if protected is not None:
        assert not protected[rows, columns].any()


def test_a_field_that_moves_nothing_has_no_points():
    points, places = sample_field((16, 16), HANDLES, HANDLES)
    assert len(points) == len(places) == 0


def test_feature_cells_and_latent_cells_convert_both_ways():
    latent, points = torch.zeros(1, 4, 12, 16), torch.tensor([[0.0, 0.0], [5.5, 20.25]])
    back = in_features(in_latent(points, (48, 64), latent), (48, 64), (12, 16))
    torch.testing.assert_close(back, points)


def first_step(method, **changes):
    drawn = DragInstructions.from_points([((4, 8), (9, 8))], size=(16, 16))
    settings = replace(SETTINGS, method=method, **changes)
    walk = drag(LatentItself(), START, drawn, SCHEDULE, TIME, settings, clean=START)
    return next(iter(walk))


@pytest.mark.parametrize("method", METHODS)
def test_they_are_a_term_of_the_loss_in_proportion_to_their_weight(method):
    once, twice = (first_step(method, extra_weight=weight).loss_terms for weight in (0.5, 1.0))
    assert set(once) == {"motion", "extra"}
    assert 0 < once["extra"] == pytest.approx(twice["extra"] / 2)
    assert once["motion"] == pytest.approx(first_step(method).loss_terms["motion"])


@pytest.mark.parametrize("method", METHODS)
def test_by_default_there_are_none_and_with_them_more_cells_are_moved(method):
    plain, extra = first_step(method), first_step(method, extra_weight=0.5)
    assert set(plain.loss_terms) == {"motion"}
    still = first_step(method, learning_rate=1e-38)
    changed = [(step.latent != still.latent).any(1).sum() for step in (plain, extra)]
    assert changed[1] > 2 * changed[0] > 0
