"""Where an inversion step evaluates the network: against closed forms, and on any noise path."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_scheduler, noise

from dragwidget.drag import Schedule, denoise, invert
from dragwidget.drag.noise_path import compose, decompose

METHODS = ["plain", "lookahead", "fixed_point"]
N = 14


def schedule_of(prediction_type="epsilon", steps=20):
    alphas = make_scheduler(prediction_type=prediction_type).alphas_cumprod
    return Schedule(alphas, steps, 1, prediction_type)


class Smooth:
    """Stands for a network that predicts noise; counts its passes."""

    def __init__(self, schedule):
        self.schedule, self.passes = schedule, []

    def noise(self, z, t):
        return 0.7 * torch.sin(z + t / 300)

    def __call__(self, z, t):
        self.passes.append(t)
        eps = self.noise(z, t)
        if self.schedule.prediction_type == "epsilon":
            return eps
        a = self.schedule.alpha(t)
        clean, _ = decompose(z, eps, a, "epsilon")
        return a.sqrt() * eps - (1 - a).sqrt() * clean


def lost(method, prediction_type="epsilon", **options):
    """How far denoising an inverted latent ends from it, on average."""
    schedule = schedule_of(prediction_type)
    network, clean = Smooth(schedule), noise(1, 4, 8, 8)
    *_, there = invert(network, clean, schedule, N, method=method, **options)
    *_, back = denoise(network, there, schedule, N)
    return float((back - clean).abs().mean())


@pytest.mark.parametrize(
    ("method", "iterations", "passes"),
    [
        ("plain", 1, N), ("lookahead", 1, N + 1),
        ("fixed_point", 1, 2 * N), ("fixed_point", 3, 4 * N),
    ],
)  # fmt: skip
def test_an_inversion_takes_so_many_passes(method, iterations, passes):
    schedule = schedule_of()
    network = Smooth(schedule)
    list(invert(network, noise(1, 4, 8, 8), schedule, N, method=method, iterations=iterations))
    assert len(network.passes) == passes
    assert network.passes[-1] == schedule.last(N)[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_knows_the_noise_is_inverted_exactly(method):
    schedule = schedule_of()
    clean, eps = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    start = compose(clean, eps, schedule.alpha(0))
    steps = list(invert(lambda *_: eps, start, schedule, N, method=method))
    for t, latent in zip(reversed(schedule.last(N)), steps, strict=True):
        wanted = compose(clean, eps, schedule.alpha(t))
        torch.testing.assert_close(latent, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_look_ahead_evaluates_where_the_last_predicted_noise_leads(prediction_type):
    """The noise and not the velocity, which is of one timestep alone."""
    schedule = schedule_of(prediction_type)
    network, z = Smooth(schedule), noise(1, 4, 8, 8)
    steps = iter(invert(network, z, schedule, N, method="lookahead"))
    first = schedule.last(1)[0]
    guess = schedule.inverse_step(z, network(z, first), first)
    for t, after in zip(
        reversed(schedule.last(N)), (*reversed(schedule.last(N)[:-1]), None), strict=True
    ):
        prediction = network(guess, t)
        z = schedule.inverse_step(z, prediction, t)
        torch.testing.assert_close(next(steps), z, rtol=1e-4, atol=1e-4)
        if after is not None:
            here, there = schedule.alpha(t), schedule.alpha(after)
            eps = network.noise(guess, t)
            clean = (z - (1 - here).sqrt() * eps) / here.sqrt()
            guess = there.sqrt() * clean + (1 - there).sqrt() * eps


def test_velocity_has_the_fixed_points_of_the_noise_that_it_stands_for():
    found = [
        list(invert(Smooth(schedule), noise(1, 4, 8, 8), schedule, N, method="fixed_point",
                    iterations=20))
        for schedule in map(schedule_of, ("epsilon", "v_prediction"))
    ]  # fmt: skip
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_more_iterations_and_look_ahead_lose_less(prediction_type):
    plain = lost("plain", prediction_type)
    fixed = [lost("fixed_point", prediction_type, iterations=k) for k in (1, 2, 4, 8)]
    assert lost("lookahead", prediction_type) < 0.3 * plain
    assert fixed[0] < 0.3 * plain
    assert fixed == sorted(fixed, reverse=True)
    assert fixed[-1] < 0.01 * plain


class Straight:
    """A straight path between image (t = 0) and noise (t = 1)."""

    timesteps = tuple(k / 10 for k in range(10, 0, -1))

    def last(self, count):
        return self.timesteps[-count:]

    def previous(self, t):
        return (*self.timesteps, 0.0)[self.timesteps.index(t) + 1]

    def levels(self, t):
        return torch.tensor(1 - t), torch.tensor(t)

    def step(self, z, prediction, t):
        return z - (t - self.previous(t)) * prediction, z - t * prediction

    def inverse_step(self, z, prediction, t):
        return z + (t - self.previous(t)) * prediction


def test_look_ahead_works_on_a_flow_path():
    clean, path = noise(1, 4, 8, 8), Straight()

    def velocity(z, t):
        return 0.5 * torch.sin(z + 2 * t)

    def error(method):
        *_, there = invert(velocity, clean, path, 7, method=method)
        *_, back = denoise(velocity, there, path, 7)
        return (back - clean).abs().mean()

    assert error("lookahead") < 0.5 * error("plain")
