"""Cycle-SDE inversion: exact for any network, and its noises are what the sampler expects."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import make_scheduler, noise

from dragwidget.data.settings import InversionSettings
from dragwidget.drag.cycle_sde import CycleSDE, cycle_sde, inversion_steps
from dragwidget.drag.noise_path import Schedule, denoise, invert

N = 14
KINDS = ["epsilon", "v_prediction"]


def schedule_of(prediction_type="epsilon", steps=20, levels=1000):
    alphas = make_scheduler(prediction_type=prediction_type).alphas_cumprod
    return Schedule(alphas[:levels], steps, 1, prediction_type)


def networks(seed):
    """Any function will do."""
    weights = noise(4, 4, 3, 3, seed=seed) / 6

    def rough(z, t):
        return torch.conv2d(z, weights, padding=1).sin() * 2 + math.cos(t)

    return {"nothing": lambda z, _t: torch.zeros_like(z), "itself": lambda z, _t: z, "rough": rough}


def walked(network, clean, schedule, seed=0, count=N):
    """(latents towards noise, the schedule that leads back)."""
    steps = list(cycle_sde(network, clean, schedule, count, seed=seed))
    noises = tuple(noise for _, noise in reversed(steps))
    return [latent for latent, _ in steps], CycleSDE.of(schedule, noises)


@pytest.mark.parametrize("prediction_type", KINDS)
@pytest.mark.parametrize("network", ["nothing", "itself", "rough"])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_latent_comes_back_whatever_the_network_says(prediction_type, network, seed):
    schedule, clean = schedule_of(prediction_type), noise(1, 4, 8, 8, seed=seed)
    predict = networks(seed)[network]
    latents, path = walked(predict, clean, schedule, seed)
    back = list(denoise(predict, latents[-1], path, N))
    for found, wanted in zip(back, [*latents[-2::-1], clean], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    plain = list(denoise(predict, latents[-1], schedule, N))
    assert (plain[-1] - clean).abs().max() > 0.1


def test_it_takes_one_pass_a_step_where_the_step_ends():
    schedule, seen = schedule_of(), []

    def predict(z, t):
        seen.append((z, t))
        return z

    latents, _ = walked(predict, noise(1, 4, 8, 8), schedule)
    assert [t for _, t in seen] == list(reversed(schedule.last(N)))
    assert all(torch.equal(z, latent) for (z, _), latent in zip(seen, latents, strict=True))


def test_a_network_that_is_right_finds_standard_normal_noises_that_know_nothing_of_each_other():
    """Of data that is 0, the latent tells all of its noise."""
    schedule = schedule_of()
    start = (1 - schedule.alpha(0)).sqrt() * noise(1, 4, 96, 96)

    def right(z, t):
        return z / (1 - schedule.alpha(t)).sqrt()

    latents, path = walked(right, start, schedule, seed=5)
    found = torch.stack([*path.noises.values()]).flatten(1)
    torch.testing.assert_close(found.mean(1), torch.zeros(N), rtol=0, atol=0.03)
    torch.testing.assert_close(found @ found.mT / found.shape[1], torch.eye(N), rtol=0, atol=0.03)
    for t, latent in zip(reversed(schedule.last(N)), latents, strict=True):
        assert float(latent.std()) == pytest.approx(float((1 - schedule.alpha(t)).sqrt()), rel=0.02)


def test_each_latent_is_the_image_at_its_noise_level():
    schedule, clean = schedule_of(), 3 + torch.zeros(1, 4, 64, 64)
    latents, _ = walked(lambda z, _t: z, clean, schedule)
    for t, latent in zip(reversed(schedule.last(N)), latents, strict=True):
        kept = schedule.alpha(t) / schedule.alpha(0)
        assert float(latent.mean()) == pytest.approx(3 * float(kept.sqrt()), abs=0.03)
        assert float(latent.std()) == pytest.approx(float((1 - kept).sqrt()), rel=0.03)


def test_a_seed_gives_the_same_bits_and_another_others():
    schedule, clean, predict = schedule_of(), noise(1, 4, 8, 8), networks(0)["rough"]
    one, same, other = (walked(predict, clean, schedule, seed)[0][-1] for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_without_a_kept_noise_a_step_is_ddims():
    schedule, z = schedule_of(), noise(1, 4, 8, 8)
    _, path = walked(networks(0)["rough"], z, schedule, count=5)
    assert list(path.noises) == list(schedule.last(5))
    for t in schedule.timesteps[:-5]:
        assert all(map(torch.equal, path.step(z, z / 2, t), schedule.step(z, z / 2, t)))
    for t in schedule.last(5):
        (one, clean), (other, same) = path.step(z, z / 2, t), schedule.step(z, z / 2, t)
        assert not torch.allclose(one, other)
        assert torch.equal(clean, same)


def test_a_run_over_every_timestep_comes_back_too():
    """Its last step leads from timestep 0 to 0."""
    schedule, clean = schedule_of(steps=30, levels=30), noise(1, 4, 8, 8)
    predict = networks(0)["rough"]
    latents, path = walked(predict, clean, schedule, count=30)
    *_, back = denoise(predict, latents[-1], path, 30)
    torch.testing.assert_close(back, clean, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["plain", "lookahead", "fixed_point"])
def test_other_methods_keep_no_noise(method):
    schedule, clean, predict = schedule_of(), noise(1, 4, 8, 8), networks(0)["rough"]
    settings = InversionSettings(method=method, iterations=2)
    steps = list(inversion_steps(predict, clean, schedule, N, settings))
    wanted = invert(predict, clean, schedule, N, method=method, iterations=2)
    for (latent, kept), other in zip(steps, wanted, strict=True):
        assert kept is None
        assert torch.equal(latent, other)


class _Flow:
    timesteps = (1.0, 0.5)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (_Flow(), "needs the noise levels of DDIM, which _Flow does not have"),
        (Schedule(torch.linspace(1, 0.1, 50), 10, 1), "needs noise at timestep 0"),
    ],
)
def test_what_it_cannot_invert_is_refused_by_name(path, why):
    with pytest.raises(ValueError, match=rf"InversionSettings\.method 'cycle_sde' {why}"):
        list(cycle_sde(lambda z, _t: z, noise(1, 4, 8, 8), path, 2))
