"""The drag as a whole, on models that can be worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from analytic_models import LatentItself, RolledImage, blob
from drag_tasks import passes_of, problem_of
from tiny_models import make_scheduler

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings
from dragwidget.drag import GaussianPrior, ModelOutput, Schedule, drag
from dragwidget.drag.methods.dragdiffusion import DragDiffusion

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
T = 681
METHOD = DragDiffusion()
ROLL = torch.zeros(1, 2, 1, 1)


def ask(*pairs, size=(64, 64), mask=None) -> DragInstructions:
    return DragInstructions.from_points(list(pairs), size=size, mask=mask)


def run(model, latent, instructions, prior=None, **settings):
    """(all steps, why it ended)"""
    settings = {"feature_scale": 0.5, "steps": 10, **settings}
    walk = drag(model, latent, instructions, SCHEDULE, T, DragSettings(**settings), prior=prior)
    steps = []
    while True:
        try:
            steps.append(next(walk))
        except StopIteration as end:
            return steps, end.value


def blob_run(model=None, mask=None, prior=None, **settings):
    """A drag of a blob at (8, 5) of 16 x 16 cells, 6 to the right; features are the latent."""
    latent = blob((8, 5))
    instructions = ask(((5, 8), (11, 8)), size=(16, 16), mask=mask)
    return run(model or LatentItself(), latent, instructions, prior, feature_scale=1.0, **settings)


LEFT = np.zeros((16, 16), bool)
LEFT[:, :12] = True


# ---------------------------------------------------------------- it drags


@pytest.mark.slow
@pytest.mark.parametrize("target", [(52, 32), (12, 32), (32, 52), (32, 12), (46, 46), (18, 46)])
@pytest.mark.parametrize("template", ["current", "original"])
def test_the_content_arrives_at_the_target(target, template):
    steps, why = run(RolledImage(), ROLL, ask(((32, 32), target)), steps=80, learning_rate=0.3,
                     template=template)  # fmt: skip
    assert why == "reached"
    assert steps[-1].reached.all()
    assert steps[-1].distances[0] < 2 * 2  # stop distance 2 cells, 2 pixels each
    rolled_xy = steps[-1].latent.flatten().numpy()[::-1] * 2
    np.testing.assert_allclose(rolled_xy, np.array(target) - 32, atol=6)


def test_the_handles_are_where_the_content_is():
    steps, _ = run(RolledImage(), ROLL, ask(((32, 32), (52, 40))), steps=30, learning_rate=0.3)
    for step in steps:
        moved_rc = step.latent.flatten().numpy()
        # whole cells of 2 pixels, the nearest in features
        np.testing.assert_allclose(step.handles_xy[0], 32 + 2 * moved_rc[::-1], atol=2)


def test_a_longer_step_asks_for_a_longer_move():
    def loss(length):
        steps, _ = run(RolledImage(), ROLL, ask(((32, 32), (52, 32))), steps=1,
                       step_length=length)  # fmt: skip
        return steps[0].loss

    assert loss(0.5) < loss(1.0) < loss(2.0)


def test_the_template_is_the_current_patch_or_the_original_one():
    """They are the same until the first update."""
    current, original = (
        blob_run(steps=4, learning_rate=0.1, template=template)[0]
        for template in ("current", "original")
    )
    assert current[0].loss == original[0].loss
    assert current[3].loss != original[3].loss


def test_the_blob_is_dragged_towards_its_target():
    steps, _ = blob_run(steps=40, learning_rate=0.1)
    assert steps[-1].distances[0] < steps[0].distances[0] - 2
    assert steps[-1].latent[0, :, 8, 8].mean() > blob((8, 5))[0, :, 8, 8].mean() + 0.5


def test_pairs_are_dragged_together():
    pairs = ((20, 20), (28, 20)), ((40, 40), (48, 40))
    steps, why = run(RolledImage(), ROLL, ask(*pairs), steps=60, learning_rate=0.3)
    assert why == "reached"
    assert (steps[-1].handles_xy[:, 0] > [22, 42]).all()


def test_one_handle_with_two_targets_is_pulled_between_them():
    with pytest.warns(UserWarning, match="two targets"):
        instructions = ask(((32, 32), (48, 32)), ((32, 32), (32, 48)))
    steps, _ = run(RolledImage(), ROLL, instructions, steps=8, learning_rate=0.2)
    rows, columns = steps[-1].latent.flatten().tolist()
    assert rows > 0.5
    assert columns > 0.5


# ---------------------------------------------------------------- what it costs


@pytest.mark.parametrize("steps", [1, 4])
def test_n_steps_make_n_and_one_passes(steps):
    model = LatentItself()
    assert len(blob_run(model, steps=steps)[0]) == steps
    assert model.passes == steps + 1


def test_no_pass_is_made_before_the_first_step_is_asked_for():
    model = LatentItself()
    instructions = ask(((5, 8), (11, 8)), size=(16, 16))
    walk = drag(model, blob((8, 5)), instructions, SCHEDULE, T, DragSettings(feature_scale=1.0))
    assert model.passes == 0
    next(walk)
    assert model.passes == 2


def test_without_a_mask_no_prediction_is_asked_for():
    model = LatentItself()
    blob_run(model, steps=3)
    assert model.predictions == 0


def test_with_a_mask_every_pass_predicts():
    model = LatentItself()
    blob_run(model, mask=LEFT, steps=3)
    assert model.predictions == model.passes == 4


# ---------------------------------------------------------------- when it ends


def test_with_every_handle_at_its_target_no_step_is_taken():
    model = LatentItself()
    steps, why = run(model, blob((8, 5)), ask(((5, 8), (6, 8)), size=(16, 16)), feature_scale=1.0)
    assert (steps, why) == ([], "reached")
    assert model.passes == 1


def test_a_drag_ends_at_its_step_limit():
    steps, why = blob_run(steps=2)
    assert (len(steps), why) == (2, "step limit")


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_a_drag_that_does_not_move(patience):
    steps, why = blob_run(steps=20, learning_rate=1e-7, patience=patience)
    assert (len(steps), why) == (patience, "not moving")


def test_without_patience_a_drag_that_does_not_move_goes_on():
    assert blob_run(steps=12, learning_rate=1e-7)[1] == "step limit"


def test_a_smaller_stop_distance_comes_nearer():
    pairs = ask(((32, 32), (52, 32)))
    loose, near = (
        run(RolledImage(), ROLL, pairs, steps=80, learning_rate=0.2, stop_distance=distance)
        for distance in (4.0, 1.5)
    )
    assert loose[1] == near[1] == "reached"
    assert near[0][-1].distances[0] < loose[0][-1].distances[0]


# ---------------------------------------------------------------- what a step says


def test_a_step_says_what_it_did():
    prior = GaussianPrior.of(blob((8, 5)), SCHEDULE, T)
    steps, _ = blob_run(mask=LEFT, prior=prior, prior_weight=1.0, steps=4)
    assert [step.index for step in steps] == [1, 2, 3, 4]
    for step in steps:
        assert set(step.loss_terms) == {"motion", "region", "prior"}
        assert step.loss == pytest.approx(sum(step.loss_terms.values()))
        gaps = np.linalg.norm(step.targets_xy - step.handles_xy, axis=1)
        np.testing.assert_allclose(step.distances, gaps)
        assert step.targets_xy.tolist() == [[11, 8]]
        assert step.latent.dtype == torch.float32
        assert not step.latent.requires_grad
    with pytest.raises(dataclasses.FrozenInstanceError):
        steps[0].index = 7


def test_every_step_has_its_own_latent():
    steps, _ = blob_run(steps=3)
    assert not any(torch.equal(a.latent, b.latent) for a, b in itertools.pairwise(steps))


def test_the_same_drag_gives_the_same_bits():
    one, other = (blob_run(mask=LEFT, steps=5)[0][-1] for _ in range(2))
    assert torch.equal(one.latent, other.latent)
    assert one.loss == other.loss


# ---------------------------------------------------------------- what it leaves alone


def test_the_arguments_are_not_changed():
    latent, instructions = blob((8, 5)), ask(((5, 8), (11, 8)), size=(16, 16), mask=LEFT)
    before = latent.clone(), hash(instructions)
    run(LatentItself(), latent, instructions, feature_scale=1.0)
    assert torch.equal(latent, before[0])
    assert hash(instructions) == before[1]
    assert not latent.requires_grad
    assert latent.grad is None


@pytest.mark.parametrize("mode", [True, False])
def test_the_consumers_gradient_mode_is_left_alone(mode):
    instructions = ask(((5, 8), (11, 8)), size=(16, 16))
    settings = DragSettings(feature_scale=1.0, steps=5)
    with torch.set_grad_enabled(mode):
        walk = drag(LatentItself(), blob((8, 5)), instructions, SCHEDULE, T, settings)
        for step in walk:
            assert torch.is_grad_enabled() is mode
            if step.index == 3:
                break
        walk.close()
        assert torch.is_grad_enabled() is mode


def test_it_also_runs_where_the_consumer_wants_no_gradients():
    with torch.no_grad():
        inside = blob_run(steps=3)[0]
    assert torch.equal(inside[-1].latent, blob_run(steps=3)[0][-1].latent)


def test_the_region_loss_keeps_the_protected_region():
    editable = np.zeros((16, 16), bool)
    editable[:, :7] = True  # the target's side is protected
    free, kept = (
        blob_run(mask=editable, steps=15, learning_rate=0.05, region_weight=weight)[0][-1]
        for weight in (0.0, 10.0)
    )
    change = [(step.latent - blob((8, 5)))[..., 7:].abs().sum() for step in (free, kept)]
    assert change[1] < 0.2 * change[0]
    assert "region" not in free.loss_terms


def test_the_prior_keeps_the_statistics():
    clean = Schedule(torch.ones(1000))  # a path without noise
    prior = GaussianPrior.of(blob((8, 5)), clean, T)
    free, kept = (
        blob_run(prior=prior, prior_weight=weight, steps=30, learning_rate=0.1)[0][-1]
        for weight in (0.0, 100.0)
    )
    assert prior.divergence(kept.latent) < prior.divergence(free.latent)


# ---------------------------------------------------------------- where it could break

EDGES = (0, 8, 15)


@pytest.mark.parametrize("handle", list(itertools.product(EDGES, EDGES)))
def test_a_handle_at_any_border_or_corner_can_be_dragged(handle):
    target = (15 - handle[0], 15 - handle[1]) if handle != (8, 8) else (15, 0)
    instructions = ask((handle, target), size=(16, 16), mask=LEFT)
    latent = blob((handle[1], handle[0]))
    steps, _ = run(LatentItself(), latent, instructions, feature_scale=1.0, steps=4,
                   learning_rate=0.1, motion_radius=4, tracking_radius=12,
                   step_length=4.0, template="original")  # fmt: skip
    assert len(steps) == 4
    for step in steps:
        assert np.isfinite(step.loss)
        assert step.latent.isfinite().all()
        assert (step.handles_xy >= 0).all()
        assert (step.handles_xy <= 15).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_of_any_precision_are_dragged_in_single_precision(dtype):
    steps, _ = blob_run(LatentItself(dtype), mask=LEFT, steps=4, learning_rate=0.05)
    exact, _ = blob_run(LatentItself(), mask=LEFT, steps=4, learning_rate=0.05)
    assert steps[-1].latent.dtype == torch.float32
    assert steps[0].loss == pytest.approx(exact[0].loss, rel=0.02)


def test_what_half_precision_is_scaled_by_is_divided_out_again():
    settings = DragSettings()
    problem = problem_of(torch.tensor([[8.0, 11.0]]), settings, SCHEDULE)
    moments = []
    for dtype in (torch.float16, torch.float32):
        passes = passes_of(LatentItself(dtype), SCHEDULE, (16, 16), settings)
        state = METHOD.begin(passes, blob((8, 5)), torch.tensor([[8.0, 5.0]]), T)
        after, _ = METHOD.advance(passes, state, problem)
        moments.append(after.moments.first)
    torch.testing.assert_close(*moments, rtol=1e-2, atol=1e-4)


class TurnsBad(LatentItself):
    """Gives NaN from its second pass on."""

    def __call__(self, latent, timestep, **options):
        output = super().__call__(latent, timestep, **options)
        if self.passes > 1:
            return ModelOutput(output.prediction, tuple(f * torch.nan for f in output.features))
        return output


def test_a_step_whose_features_are_not_finite_is_refused():
    instructions = ask(((5, 8), (11, 8)), size=(16, 16))
    settings = DragSettings(feature_scale=1.0, steps=5)
    walk = drag(TurnsBad(), blob((8, 5)), instructions, SCHEDULE, T, settings)
    with pytest.raises(ArithmeticError, match=r"drag step 1 was refused: its features are not fin"):
        next(walk)


def test_a_refused_step_changes_nothing():
    settings = DragSettings()
    model = LatentItself()
    bad = blob((8, 5))
    bad[0, 0, 8, 5] = torch.inf
    passes = passes_of(model, SCHEDULE, (16, 16), settings)
    state = METHOD.begin(passes, bad, torch.tensor([[8.0, 5.0]]), T)
    before = [t.clone() for t in (state.latent, state.handles, state.moments.first)]
    problem = problem_of(torch.tensor([[8.0, 11.0]]), settings, SCHEDULE)
    with pytest.raises(ArithmeticError, match="step 1 was refused"):
        METHOD.advance(passes, state, problem)
    after = state.latent, state.handles, state.moments.first
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.passes == 2  # it is refused once all of its work is done
