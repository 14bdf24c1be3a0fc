"""DDIM forwards and backwards, against diffusers' schedulers and closed forms."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from tiny_models import make_scheduler, noise

from dragwidget.data.settings import InversionSettings
from dragwidget.drag import Schedule, denoise, invert
from dragwidget.drag.noise_path import compose, decompose

PREDICTIONS = ["epsilon", "v_prediction"]
DIVISORS = [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500]  # of 1000
STEPS = [1, 2, 10, 50, 500]


def both(steps: int, prediction_type: str = "epsilon", kind=DDIMScheduler, offset: int = 1):
    """(ours, diffusers') with the same settings."""
    theirs = kind.from_config(
        make_scheduler(prediction_type=prediction_type, steps_offset=offset).config
    )
    theirs.set_timesteps(steps)
    return Schedule(theirs.alphas_cumprod, steps, offset, prediction_type), theirs


def answer(latent, timestep):
    """Stands for a network: smooth in the latent and in time."""
    return torch.sin(latent + timestep / 300) * 0.7


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", DIVISORS)
def test_timesteps_are_those_of_diffusers_where_the_steps_divide_the_training_steps(steps, offset):
    ours, theirs = both(steps, offset=offset)
    assert list(ours.timesteps) == theirs.timesteps.tolist()


@pytest.mark.parametrize("levels", [1000, 997, 100, 7])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_other_spacings_give_diffusers_timesteps_for_every_number_of_steps(spacing, levels):
    theirs = make_scheduler(
        timestep_spacing=spacing, num_train_timesteps=levels, steps_offset=levels // 2
    )
    for steps in range(1, levels + 1):
        theirs.set_timesteps(steps)
        ours = Schedule(theirs.alphas_cumprod, steps, levels // 2, spacing=spacing)
        # An error of rounding lets diffusers take one more sometimes, from before the first level.
        wanted = [timestep for timestep in theirs.timesteps.tolist() if timestep >= 0]
        assert list(ours.timesteps) == wanted
        assert len(wanted) == len(set(wanted)) == steps


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 4, 8, 10])
def test_a_run_of_trailing_steps_is_that_of_diffusers(prediction_type, steps):
    theirs = make_scheduler(timestep_spacing="trailing", prediction_type=prediction_type)
    theirs.set_timesteps(steps)
    ours = Schedule(theirs.alphas_cumprod, steps, 1, prediction_type, "trailing")
    latent = noise(1, 4, 8, 8)
    for timestep in theirs.timesteps.tolist():
        wanted = theirs.step(answer(latent, timestep), timestep, latent)
        latent, clean = ours.step(latent, answer(latent, timestep), timestep)
        assert torch.equal(clean, wanted.pred_original_sample)
        assert torch.equal(latent, wanted.prev_sample)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match=r"one of \('leading', .*\), got 'random'"):
        Schedule(make_scheduler().alphas_cumprod, 50, spacing="random")


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1000, 997, 100, 7])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_strength_means_the_same_noise_for_every_number_of_steps(levels, offset):
    """N of T steps lead to the share N / T of the training timesteps, less one step."""
    alphas = torch.linspace(0.999, 0.005, levels)
    for steps in range(1, levels + 1):
        schedule = Schedule(alphas, steps, min(offset, levels - 1))
        ascending = schedule.timesteps[::-1]
        assert ascending[0] >= 0
        assert ascending[-1] < levels
        assert all(early < late for early, late in itertools.pairwise(ascending))
        for strength in (0.1, 0.25, 0.5, 0.7, 0.75, 1.0):
            count = InversionSettings(steps=steps, strength=strength).count
            wanted = (count - 1) * levels / steps + schedule.offset
            assert wanted - 1 <= ascending[count - 1] <= wanted


@pytest.mark.parametrize(
    ("strength", "steps", "count"),
    [(0.7, 50, 35), (0.25, 10, 2), (0.75, 10, 8), (0.7, 501, 351), (0.001, 10, 1), (1.0, 7, 7)],
)
def test_a_strength_is_rounded_half_to_even_and_takes_at_least_one_step(strength, steps, count):
    assert InversionSettings(steps=steps, strength=strength).count == count


@pytest.mark.parametrize("steps", [501, 600, 999, 1000])
def test_steps_that_do_not_divide_the_training_steps_still_start_at_pure_noise(steps):
    schedule, _ = both(steps)
    assert schedule.timesteps[0] == 999
    assert len(set(schedule.timesteps)) == steps


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_schedule_of_more_steps_than_noise_levels_or_of_none_is_refused(steps):
    with pytest.raises(ValueError, match=f"takes 1 to 1000 DDIM steps, got {steps}"):
        Schedule(make_scheduler().alphas_cumprod, steps)


@pytest.mark.parametrize("offset", [-1, 1000])
def test_an_offset_past_the_noise_levels_is_refused(offset):
    with pytest.raises(ValueError, match="steps_offset must be 0 to 999"):
        Schedule(make_scheduler().alphas_cumprod, 50, offset)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_levels_that_are_no_share_of_signal_are_refused(bad):
    alphas = make_scheduler().alphas_cumprod.clone()
    alphas[500] = bad
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Schedule(alphas)


@pytest.mark.parametrize("timestep", [0, 2, 680, 999, 1000, -1])
def test_a_step_from_a_timestep_that_is_not_walked_is_refused(timestep):
    schedule, _ = both(50)
    z = noise(1, 4, 4, 4)
    for step in (schedule.step, schedule.inverse_step):
        with pytest.raises(ValueError, match=f"one of the 50 timesteps .* got {timestep}"):
            step(z, z, timestep)


def test_the_defaults_are_the_papers():
    schedule, _ = both(50)
    assert schedule.timesteps[0] == 981
    assert schedule.timesteps[15] == 681  # 35 steps from the end: strength 0.7
    assert schedule.timesteps[-1] == 1


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("steps", STEPS)
def test_every_step_is_the_one_of_diffusers(steps, prediction_type):
    ours, theirs = both(steps, prediction_type)
    latent, prediction = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    for timestep in ours.timesteps:
        got, x0 = ours.step(latent, prediction, timestep)
        wanted = theirs.step(prediction, timestep, latent)
        torch.testing.assert_close(got, wanted.prev_sample)
        torch.testing.assert_close(x0, wanted.pred_original_sample)


@pytest.mark.parametrize("steps", STEPS)
def test_every_inverse_step_is_the_one_of_diffusers(steps):
    ours, theirs = both(steps, kind=DDIMInverseScheduler)
    latent, prediction = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    assert sorted(ours.timesteps) == theirs.timesteps.tolist()
    for timestep in ours.timesteps:
        got = ours.inverse_step(latent, prediction, timestep)
        torch.testing.assert_close(got, theirs.step(prediction, timestep, latent).prev_sample)


def test_inversion_walks_the_way_of_diffusers():
    ours, theirs = both(20, kind=DDIMInverseScheduler)
    latent = noise(1, 4, 4, 4)
    walked = list(invert(answer, latent, ours, 14))
    for timestep, got in zip(theirs.timesteps[:14].tolist(), walked, strict=True):
        latent = theirs.step(answer(latent, timestep), timestep, latent).prev_sample
        torch.testing.assert_close(got, latent)


# diffusers' inverse scheduler splits the source latent with a velocity that belongs to the latent
# where the step ends; so its velocity steps are undone by no step of its own.


def zero_terminal(alphas):
    """The same levels, shifted and scaled so that the last is pure noise (arXiv 2305.08891)."""
    root = alphas.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 333, 501, 1000])
@pytest.mark.parametrize(
    ("prediction_type", "zero"),
    [("epsilon", False), ("v_prediction", False), ("v_prediction", True)],
)
def test_a_step_undoes_the_inverse_step_with_the_same_prediction(
    prediction_type, zero, steps, dtype
):
    alphas = make_scheduler().alphas_cumprod
    schedule = Schedule(zero_terminal(alphas) if zero else alphas, steps, 1, prediction_type)
    latent, prediction = noise(1, 4, 8, 8).to(dtype), noise(1, 4, 8, 8, seed=1).to(dtype)
    for timestep in schedule.timesteps:
        there = schedule.inverse_step(latent, prediction, timestep)
        back, _ = schedule.step(there, prediction, timestep)
        torch.testing.assert_close(back, latent, rtol=0, atol=2e-6)


def test_a_predicted_noise_is_refused_where_a_walked_level_is_pure_noise():
    alphas = zero_terminal(make_scheduler().alphas_cumprod)
    assert alphas[-1] == 0
    with pytest.raises(ValueError, match="timestep 999 of this model is pure noise"):
        Schedule(alphas, 1000)
    assert Schedule(alphas, 50).timesteps[0] == 981  # that level is not walked here
    assert Schedule(alphas, 1000, prediction_type="v_prediction").timesteps[0] == 999


def test_a_velocity_tells_the_image_even_from_pure_noise():
    schedule = Schedule(
        zero_terminal(make_scheduler().alphas_cumprod), 1000, 1, prediction_type="v_prediction"
    )
    clean, eps = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    previous, x0 = schedule.step(eps, -clean, 999)
    torch.testing.assert_close(x0, clean)
    torch.testing.assert_close(previous, compose(clean, eps, schedule.alpha(998)))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_denoising_walks_the_way_of_diffusers(prediction_type):
    ours, theirs = both(20, prediction_type)
    latent = noise(1, 4, 4, 4)
    walked = list(denoise(answer, latent, ours, 14))
    for timestep, got in zip(theirs.timesteps[6:].tolist(), walked, strict=True):
        latent = theirs.step(answer(latent, timestep), timestep, latent).prev_sample
        torch.testing.assert_close(got, latent)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_latent_is_composed_of_what_it_is_split_into(prediction_type):
    a = torch.tensor(0.3)
    clean, eps = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    latent = compose(clean, eps, a)
    velocity = a.sqrt() * eps - (1 - a).sqrt() * clean
    prediction = velocity if prediction_type == "v_prediction" else eps
    got = decompose(latent, prediction, a, prediction_type)
    torch.testing.assert_close(got, (clean, eps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_network_that_knows_the_image_denoises_to_it_exactly(prediction_type):
    schedule, _ = both(10, prediction_type)
    clean, eps = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)

    def knows(_latent, timestep):
        a = schedule.alpha(timestep)
        if prediction_type == "epsilon":
            return eps
        return a.sqrt() * eps - (1 - a).sqrt() * clean

    noisy = compose(clean, eps, schedule.alpha(schedule.timesteps[0]))
    *_, last = denoise(knows, noisy, schedule, 10)
    torch.testing.assert_close(last, compose(clean, eps, schedule.alpha(0)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_an_image_comes_back_from_its_inversion(prediction_type):
    schedule, _ = both(200, prediction_type)
    latent = noise(1, 4, 4, 4)
    *_, there = invert(lambda z, _: 0.5 * torch.sin(z), latent, schedule, 140)
    *_, back = denoise(lambda z, _: 0.5 * torch.sin(z), there, schedule, 140)
    assert (back - latent).abs().mean() < 0.1 * (there - latent).abs().mean()


@pytest.mark.parametrize("loop", [invert, denoise])
@pytest.mark.parametrize("mode", [True, False])
def test_the_consumers_gradient_mode_is_left_alone(loop, mode):
    schedule, _ = both(5)
    seen = []

    def watched(latent, timestep):
        seen.append(torch.is_grad_enabled())
        return answer(latent, timestep)

    with torch.set_grad_enabled(mode):
        walk = loop(watched, noise(1, 4, 4, 4).requires_grad_(), schedule, 5)
        for latent in walk:
            assert torch.is_grad_enabled() is mode
            assert not latent.requires_grad
            if len(seen) == 3:
                break
        walk.close()
        assert torch.is_grad_enabled() is mode
    assert not any(seen)


@pytest.mark.parametrize("loop", [invert, denoise])
def test_the_latent_that_is_given_is_not_changed(loop):
    schedule, _ = both(5)
    latent = noise(1, 4, 4, 4)
    before = latent.clone()
    first, second, _ = loop(answer, latent, schedule, 3)
    assert torch.equal(latent, before)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("loop", [invert, denoise])
def test_the_network_is_asked_once_a_step_and_only_when_a_step_is_asked_for(loop):
    schedule, _ = both(5)
    asked = []
    walk = loop(lambda z, t: asked.append(t) or z, noise(1, 4, 4, 4), schedule, 5)
    assert asked == []
    next(walk)
    next(walk)
    assert len(asked) == 2


def test_gradients_flow_through_a_step():
    schedule, _ = both(50)
    latent = noise(1, 4, 4, 4).requires_grad_()
    previous, _ = schedule.step(latent, answer(latent, 681), 681)
    (gradient,) = torch.autograd.grad(previous.sum(), latent)
    assert (gradient != 0).all()
