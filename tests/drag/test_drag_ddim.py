"""DDIM forwards and backwards, against diffusers' schedulers and closed forms."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from tiny_models import make_scheduler, noise

from dragwidget.drag import Schedule, denoise, invert
from dragwidget.drag.noise_path import compose, decompose

PREDICTIONS = ["epsilon", "v_prediction"]
STEPS = [1, 2, 7, 10, 50, 333]


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
@pytest.mark.parametrize("steps", [*STEPS, 1000])
def test_timesteps_are_those_of_diffusers(steps, offset):
    ours, theirs = both(steps, offset=offset)
    # of 1000 steps diffusers' first, 1000, lies past its own table
    assert list(ours.timesteps) == [min(t, 999) for t in theirs.timesteps.tolist()]


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


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("steps", STEPS)
def test_every_inverse_step_is_the_one_of_diffusers(steps, prediction_type):
    ours, theirs = both(steps, prediction_type, DDIMInverseScheduler)
    latent, prediction = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    assert sorted(ours.timesteps) == theirs.timesteps.tolist()
    for timestep in ours.timesteps:
        got = ours.inverse_step(latent, prediction, timestep)
        torch.testing.assert_close(got, theirs.step(prediction, timestep, latent).prev_sample)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_inversion_walks_the_way_of_diffusers(prediction_type):
    ours, theirs = both(20, prediction_type, DDIMInverseScheduler)
    latent = noise(1, 4, 4, 4)
    walked = list(invert(answer, latent, ours, 14))
    assert len(walked) == 14
    for timestep, got in zip(theirs.timesteps[:14].tolist(), walked, strict=True):
        latent = theirs.step(answer(latent, timestep), timestep, latent).prev_sample
        torch.testing.assert_close(got, latent)


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


def test_one_step_back_undoes_one_step_there():
    schedule, _ = both(50)
    latent, eps = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    there = schedule.inverse_step(latent, eps, 681)
    torch.testing.assert_close(schedule.step(there, eps, 681)[0], latent, rtol=1e-4, atol=1e-5)


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
