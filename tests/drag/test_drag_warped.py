"""The first step of a drag from a warped latent, and what a pass of the network keeps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from analytic_models import LatentItself
from drag_tasks import passes_of, problem_of
from tiny_models import make_scheduler, noise

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings
from dragwidget.drag import Ended, FeatureMap, GaussianPrior, ModelOutput, Schedule, drag
from dragwidget.drag.descent import losses
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.loop import protected_cells
from dragwidget.drag.methods.dragdiffusion import DragDiffusion
from dragwidget.drag.supervision import motion_supervision, region_loss
from dragwidget.drag.warping import warp_latent

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
T = 681
SIGNAL, _ = SCHEDULE.levels(T)
METHOD = DragDiffusion()
WARPED = DragSettings(feature_scale=0.25, steps=3, start="warped", stop_distance=0.5)
LATENT, CLEAN = noise(1, 4, 12, 20), noise(1, 4, 12, 20, seed=1)
# An image of 160 x 96 pixels: 24 x 40 cells of features, 12 x 20 of the latent.
POINTS = [(40, 32), (80, 48), (100, 72), (92, 40)]
HANDLES, TARGETS = (
    torch.tensor([[8.0, 10.0], [18.0, 25.0]]),
    torch.tensor([[12.0, 20.0], [10.0, 23.0]]),
)


def instructions(mask=None):
    return DragInstructions.from_points(POINTS, size=(160, 96), mask=mask)


def wide_mask():
    mask = np.zeros((96, 160), dtype=bool)
    mask[16:88, 24:152] = True
    return mask


def latent_cells(cells):
    """Centres of feature cells, of which two lie along one latent cell, in latent cells."""
    return (cells - 0.5) / 2


class Watched(LatentItself):
    """Keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __call__(self, latent, timestep, *, blocks=(), predict=True):
        self.asked.append((timestep, tuple(blocks), predict))
        return super().__call__(latent, timestep, blocks=blocks, predict=predict)


# ---------------------------------------------------------------- the warped start


@pytest.mark.parametrize("mask", [None, wide_mask()])
def test_a_warped_drag_begins_with_the_warped_latent_and_then_descends(mask):
    first, second, *_ = drag(
        LatentItself(), LATENT, instructions(mask), SCHEDULE, T, WARPED, clean=CLEAN
    )
    protected = None
    if mask is not None:
        protected = torch.ones(12, 20)
        protected[2:11, 3:19] = 0
    points = latent_cells(HANDLES), latent_cells(TARGETS)
    assert torch.equal(first.latent, warp_latent(LATENT, CLEAN, SIGNAL, *points, protected))
    assert (first.index, first.loss, first.loss_terms) == (1, 0, {})
    assert set(second.loss_terms) == {"motion"} if mask is None else {"motion", "region"}
    # The first step of Adam is as long as the learning rate: the warp was none of its steps.
    assert (second.latent - first.latent).abs().max().item() == pytest.approx(0.01, rel=1e-3)


def test_after_the_warp_a_handle_is_sought_at_its_target():
    settings = dataclasses.replace(WARPED, tracking_radius=1, steps=1)
    (step,) = drag(LatentItself(), LATENT, instructions(), SCHEDULE, T, settings, clean=CLEAN)
    assert (np.abs(step.handles_xy - step.targets_xy) <= 4).all()  # a cell has 4 pixels


def test_only_a_new_target_bends_the_latent_again():
    passes = passes_of(LatentItself(), SCHEDULE, (24, 40), WARPED)
    begun = METHOD.begin(passes, LATENT, HANDLES, T)
    problem = problem_of(TARGETS, WARPED, SCHEDULE, clean=CLEAN)
    warped, report = METHOD.advance(passes, begun, problem)
    assert (begun.retarget, warped.retarget) == (True, False)
    assert report.loss_terms == {}
    assert warped.moments is begun.moments
    _, report = METHOD.advance(passes, warped, problem)
    assert set(report.loss_terms) == {"motion"}
    source = passes.at(LATENT, T, previous=True, graph=False)
    again = dataclasses.replace(warped, retarget=True)
    problem = problem_of(TARGETS, WARPED, SCHEDULE, clean=CLEAN, source=source)
    assert METHOD.advance(passes, again, problem)[1].loss_terms == {}


def test_without_a_warped_start_nothing_is_warped():
    settings = dataclasses.replace(WARPED, start="inverted")
    steps = list(drag(LatentItself(), LATENT, instructions(), SCHEDULE, T, settings, clean=CLEAN))
    assert set(steps[0].loss_terms) == {"motion"}
    assert (steps[0].latent - LATENT).abs().max().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prior_weight": 0.5, "start": "inverted"},
            r"^prior_weight > 0 needs a prior: pass GaussianPrior\.of\(clean latent, \.\.\.\)$",
        ),
        ({}, '^start="warped" needs the clean latent of the image: pass clean$'),
    ],
)
def test_what_a_drag_needs_and_was_not_given_is_named(changes, message):
    settings = dataclasses.replace(WARPED, **changes)
    with pytest.raises(ValueError, match=message):
        next(drag(LatentItself(), LATENT, instructions(), SCHEDULE, T, settings))


# ---------------------------------------------------------------- the terms of the loss


def stood(latent=LATENT, **settings):
    """(the pass at a latent with everything, the state at another, the settings)"""
    settings = DragSettings(feature_scale=0.25, **settings)
    passes = passes_of(LatentItself(), SCHEDULE, (24, 40), settings)
    here = passes.take(latent, T, previous=True)
    return here, METHOD.begin(passes, CLEAN, HANDLES, T), settings


@pytest.mark.parametrize("template", ["current", "original"])
def test_the_original_template_is_what_lay_under_the_handles_at_the_start(template):
    here, state, settings = stood(template=template)
    templates = state.anchors if template == "original" else None
    wanted = motion_supervision(
        here.features, HANDLES, TARGETS, torch.tensor([True, True]), radius=1, templates=templates
    )
    assert losses(state, problem_of(TARGETS, settings, SCHEDULE), here)["motion"] == wanted


@pytest.mark.parametrize(("region", "prior"), [(0.0, 0.0), (0.5, 0.0), (0.0, 2.0), (0.5, 2.0)])
def test_terms_are_weighted_and_those_of_no_weight_are_not_there(region, prior):
    here, state, settings = stood(region_weight=region, prior_weight=prior)
    protected, reference = torch.ones(12, 20), torch.zeros(1, 4, 12, 20)
    statistics = GaussianPrior.of(CLEAN, SCHEDULE, T)
    source = dataclasses.replace(here.detach(), previous=reference)
    problem = problem_of(
        TARGETS, settings, SCHEDULE, source=source, protected=protected, prior=statistics
    )
    terms = losses(state, problem, here)
    wanted = {
        "region": region * region_loss(here.previous, reference, protected),
        "prior": prior * statistics.divergence(LATENT),
    }
    assert {name: term.item() for name, term in terms.items() if name != "motion"} == {
        name: term.item() for name, term in wanted.items() if term
    }
    assert set(losses(state, problem_of(TARGETS, settings, SCHEDULE), here)) == {"motion"}


def test_without_a_weight_the_region_costs_no_prediction():
    model = Watched()
    settings = DragSettings(feature_scale=0.25, steps=2, region_weight=0.0)
    list(drag(model, LATENT, instructions(wide_mask()), SCHEDULE, T, settings))
    assert model.asked == [(T, (-2,), False)] * 3


def test_what_is_frozen_is_one_and_of_the_latents_type():
    mask = np.array([[True, False, False], [True, True, False]])
    protected = protected_cells(mask, LATENT.double())
    assert protected.dtype == torch.float64
    assert protected.tolist() == [[0, 1, 1], [0, 0, 1]]


# ---------------------------------------------------------------- steps without a move


def test_steps_in_which_no_handle_moves_are_counted_from_the_last_move():
    settings = DragSettings(learning_rate=1e-7, patience=7)
    problem = problem_of(TARGETS, settings, SCHEDULE)
    passes = passes_of(LatentItself(), SCHEDULE, (24, 40), settings)
    state = dataclasses.replace(METHOD.begin(passes, LATENT, HANDLES, T), still=5)
    stays, _ = METHOD.advance(passes, state, problem)
    assert stays.still == 6
    assert METHOD.ended(stays, problem) is None
    stays, _ = METHOD.advance(passes, stays, problem)
    assert METHOD.ended(stays, problem) == Ended.NOT_MOVING
    off = dataclasses.replace(stays, handles=HANDLES + 1)  # which tracking puts right
    moves, _ = METHOD.advance(passes, off, problem)
    assert torch.equal(moves.handles, HANDLES)
    assert moves.still == 0


# ---------------------------------------------------------------- half precision


class Faint:
    """1024 channels whose gradient, on its way back, is too small for float16."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, latent, _timestep, *, blocks=(), predict=True):
        assert not predict
        wide = (latent.to(self.dtype) * 2**10).repeat(1, 256, 1, 1) * 2**-16
        return ModelOutput(None, (wide,) * len(blocks))


def test_a_gradient_too_small_for_half_precision_is_not_lost():
    settings = DragSettings(motion_radius=0)
    problem = problem_of(torch.tensor([[8.0, 11.0]]), settings, SCHEDULE)
    latent = (4 * noise(1, 4, 16, 16)).round() / 4  # float16 holds it exactly
    moments = []
    for dtype in (torch.float16, torch.float32):
        model = Faint(dtype)
        passes = passes_of(model, SCHEDULE, (16, 16), settings)
        state = METHOD.begin(passes, latent, torch.tensor([[8.0, 5.0]]), T)
        after, _ = METHOD.advance(passes, state, problem)
        moments.append(after.moments.first)
    assert moments[1].abs().max() > 0
    torch.testing.assert_close(*moments, rtol=1e-3, atol=0)


def test_a_loss_that_is_not_finite_is_named_with_its_terms():
    latent = LATENT.clone()
    latent[..., 4, 5] = torch.nan
    walk = drag(
        LatentItself(), latent, instructions(), SCHEDULE, T, DragSettings(feature_scale=0.25)
    )
    with pytest.raises(
        ArithmeticError,
        match=r"^drag step 1 was refused: its loss or gradient \(\{'motion': nan\}\) is not "
        r"finite; try a smaller learning rate, or float32 in place of torch\.float32$",
    ):
        next(walk)


# ---------------------------------------------------------------- one pass


def test_a_pass_gives_the_step_ahead_and_the_image_it_guesses():
    model = Watched()
    settings = DragSettings(feature_blocks=(1, 3))
    got = pass_of(model, settings, previous=True)
    assert model.asked == [(T, (1, 3), True)]
    ahead, x0 = SCHEDULE.step(LATENT, 0.1 * LATENT, T)
    assert torch.equal(got.previous, ahead)
    assert torch.equal(got.x0, x0)
    assert got.previous.requires_grad
    assert got.features.grid == (24, 40)
    assert len(got.features.blocks) == 2


def pass_of(model, settings, **more):
    return Passes(model, SCHEDULE, (24, 40), settings).at(LATENT, T, **more)


class Talkative(LatentItself):
    """Predicts, whether it is asked to or not."""

    def __call__(self, latent, timestep, *, blocks=(), predict=True):
        del predict
        return super().__call__(latent, timestep, blocks=blocks, predict=True)


def test_a_prediction_that_was_not_asked_for_is_not_stepped_along():
    got = pass_of(Talkative(), DragSettings(), previous=False)
    assert got.previous is None
    assert got.x0 is None


def test_a_pass_without_a_graph_carries_none():
    got = pass_of(LatentItself(), DragSettings(), previous=True, graph=False)
    assert not any(t.requires_grad for t in (got.latent, got.previous, *got.features.blocks))


@pytest.mark.parametrize("previous", [True, False])
def test_what_is_kept_of_a_pass_has_its_values_and_no_graph(previous):
    got = pass_of(LatentItself(), DragSettings(), previous=previous)
    kept = got.detach()
    assert torch.equal(kept.latent, LATENT)
    assert isinstance(kept.features, FeatureMap)
    assert kept.features.grid == (24, 40)
    assert torch.equal(kept.features.blocks[0], LATENT)
    assert not kept.latent.requires_grad
    assert not kept.features.blocks[0].requires_grad
    if previous:
        ahead, x0 = SCHEDULE.step(LATENT, 0.1 * LATENT, T)
        assert torch.equal(kept.previous, ahead)
        assert torch.equal(kept.x0, x0)
        assert not kept.previous.requires_grad
        assert not kept.x0.requires_grad
    else:
        assert kept.previous is None
        assert kept.x0 is None
