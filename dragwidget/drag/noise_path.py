"""DDIM (Song et al., arXiv 2010.02502), forwards and backwards, without classifier-free guidance.

House letters: ``z`` latent (1, c, h, w); ``a`` cumulative alpha of the forward process at a
timestep, so that ``z = sqrt(a) x0 + sqrt(1 - a) eps``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from dragwidget.drag.torch_state import in_plain_torch

__all__ = [
    "InversionMethod",
    "NoisePath",
    "Predict",
    "PredictionType",
    "Schedule",
    "Spacing",
    "Time",
    "decompose",
    "denoise",
    "invert",
    "inverted_latents",
]

Time = int | float
"""A place on a noise path: a training timestep of DDIM, or a time in [0, 1] on a flow path."""

PredictionType = Literal["epsilon", "v_prediction"]
Spacing = Literal["leading", "linspace", "trailing"]
"""How the timesteps of a run lie over those of the training; see ``Schedule``."""
Predict = Callable[[Tensor, Time], Tensor]
"""A network's prediction for a latent (B, c, h, w) at a timestep: noise or velocity, same shape."""


class NoisePath(Protocol):
    """A path of latents between noise and image; the only place that knows noise levels.

    Every ``z`` is a latent (B, c, h, w), every prediction the network's output for one at a
    timestep (noise or velocity, as the path requires).
    """

    @property
    def timesteps(self) -> Sequence[Time]:
        """The timesteps of one sampling run, noisiest first, (T,)."""
        ...

    def last(self, count: int) -> Sequence[Time]:
        """Return the last ``count`` timesteps, noisiest first; ValueError where there are fewer."""
        ...

    def previous(self, timestep: Time) -> Time:
        """Return the next cleaner timestep; ValueError where ``timestep`` is none of the path's."""
        ...

    def levels(self, t: Time) -> tuple[Tensor, Tensor]:
        """Return scalars (signal, noise) at ``t``: z = signal x clean + noise x normal noise."""
        ...

    def marginal(self, mean: Tensor, variance: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Return mean and variance at ``t`` of clean values that have these."""
        ...

    def step(self, z: Tensor, prediction: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Take one step towards the image: return (next cleaner z, predicted clean z)."""
        ...

    def inverse_step(self, z: Tensor, prediction: Tensor, t: Time) -> Tensor:
        """Return z at ``t`` from z at the next cleaner timestep: the exact inverse of ``step``."""
        ...

    def training_target(self, clean: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (noised latents, the network's target for them); ``t`` is (B,)."""
        ...


@dataclass(frozen=True, eq=False)
class Schedule:
    """The timesteps of one DDIM run and the noise levels between them.

    The ``T`` timesteps lie evenly over all ``L`` training timesteps, by one of three spacings
    (Lin et al., arXiv 2305.08891, table 2):

    - ``"leading"``: counted from the clean end, the k-th from 0 is ``floor(k L / T) + offset``.
      Where T divides L, these are diffusers' timesteps of this spacing. Where it does not, those
      would crowd at the clean end (501 steps of 1000 would start at half the noise); here T steps
      always cover the whole range, so that N of T steps lead to the share N / T of it, less one
      step. With T = L, where the last one would lie past the end, all of 0 .. L - 1 are walked.
    - ``"trailing"``: counted from the noisy end, the k-th from 0 is ``round(L - k L / T) - 1``, as
      in diffusers. A run begins at pure noise, L - 1: models distilled for a few steps need that.
    - ``"linspace"``: from L - 1 to 0, both included, rounded, as in diffusers. The last step, from
      0, changes nothing.

    Attributes:
        alphas_cumprod: cumulative alphas of the forward process, (L,), each in [0, 1].
        steps: DDIM steps T, 1 to L.
        offset: timestep of the last step with ``"leading"``; 1 for Stable Diffusion.
        prediction_type: what the network predicts.
        spacing: where the timesteps lie.

    Raises:
        ValueError: there are fewer noise levels than steps; a level that is walked is pure noise
            (zero terminal signal-to-noise ratio), where a predicted noise determines no image.
    """

    alphas_cumprod: Tensor
    steps: int = 50
    offset: int = 1
    prediction_type: PredictionType = "epsilon"
    spacing: Spacing = "leading"

    def __post_init__(self) -> None:
        levels = len(self.alphas_cumprod)
        if self.spacing not in get_args(Spacing):
            raise ValueError(f"spacing must be one of {get_args(Spacing)}, got {self.spacing!r}")
        if not 1 <= self.steps <= levels:
            raise ValueError(
                f"a model with {levels} noise levels takes 1 to {levels} DDIM steps, "
                f"got {self.steps}: set InversionSettings.steps"
            )
        if not 0 <= self.offset < levels:
            raise ValueError(
                f"steps_offset must be 0 to {levels - 1} with {levels} noise levels, "
                f"got {self.offset}"
            )
        if not bool(((self.alphas_cumprod >= 0) & (self.alphas_cumprod <= 1)).all()):
            raise ValueError("alphas_cumprod must lie in [0, 1], got values outside")
        if self.prediction_type == "epsilon" and not self.alpha(self.timesteps[0]) > 0:
            raise ValueError(
                f"timestep {self.timesteps[0]} of this model is pure noise (zero terminal "
                "signal-to-noise ratio), where a predicted noise (epsilon) determines no image: "
                "such a model predicts the velocity (prediction_type 'v_prediction')"
            )

    @cached_property
    def timesteps(self) -> tuple[int, ...]:
        """All timesteps, noisiest first, (T,), no two the same."""
        levels, steps = len(self.alphas_cumprod), self.steps
        # In numpy, as diffusers does, so that halves and errors are rounded alike.
        if self.spacing == "linspace":
            return tuple(np.linspace(0, levels - 1, steps).round()[::-1].astype(int).tolist())
        if self.spacing == "trailing":
            # An error of rounding would make the range one longer for some numbers of steps.
            found = np.round(np.arange(levels, 0, -levels / steps))[:steps].astype(int) - 1
            return tuple(found.tolist())
        return tuple(
            min(k * levels // steps + self.offset, levels - steps + k)
            for k in reversed(range(steps))
        )

    def last(self, count: int) -> tuple[int, ...]:
        """Return the ``count`` timesteps nearest to the image, noisiest first.

        Raises ValueError where ``count`` is not 0 to ``steps``.
        """
        if not 0 <= count <= self.steps:
            raise ValueError(
                f"count must be 0 to {self.steps} of {self.steps} DDIM steps, got {count}"
            )
        return self.timesteps[self.steps - count :]

    def previous(self, timestep: Time) -> int:
        """Return the timestep of the next step towards the image, 0 after the last one.

        Raises ValueError where ``timestep`` is none of this schedule's.
        """
        try:
            return (*self.timesteps, 0)[self.timesteps.index(timestep) + 1]
        except ValueError:
            raise ValueError(
                f"timestep must be one of the {self.steps} timesteps of this schedule, "
                f"{self.timesteps[0]} to {self.timesteps[-1]}, got {timestep}"
            ) from None

    def alpha(self, timestep: int) -> Tensor:
        """Return the cumulative alpha at ``timestep``."""
        return self.alphas_cumprod[timestep]

    def levels(self, timestep: Time) -> tuple[Tensor, Tensor]:
        """Return (signal, noise): the square roots of a and 1 - a, a the cumulative alpha."""
        a = self.alpha(int(timestep))
        return a.sqrt(), (1 - a).sqrt()

    def marginal(self, mean: Tensor, variance: Tensor, timestep: Time) -> tuple[Tensor, Tensor]:
        """Return mean and variance at ``timestep`` of clean values that have these."""
        a = self.alpha(int(timestep))
        return a.sqrt() * mean, a * variance + (1 - a)

    def training_target(
        self, clean: Tensor, noise: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (noised latents, the network's target for them: noise or velocity)."""
        a = self.alphas_cumprod[timesteps][:, None, None, None].to(clean)
        noised = compose(clean, noise, a)
        if self.prediction_type == "v_prediction":
            return noised, a.sqrt() * noise - (1 - a).sqrt() * clean
        return noised, noise

    def step(self, z: Tensor, prediction: Tensor, timestep: Time) -> tuple[Tensor, Tensor]:
        """Take one step towards the image: return (z at ``previous(timestep)``, predicted x0)."""
        timestep = int(timestep)
        nearer = self.alpha(self.previous(timestep))
        x0, eps = decompose(z, prediction, self.alpha(timestep), self.prediction_type)
        return compose(x0, eps, nearer), x0

    def inverse_step(self, z: Tensor, prediction: Tensor, timestep: Time) -> Tensor:
        """Take one step towards noise: return z at ``timestep``, from ``previous(timestep)``.

        The inverse of ``step`` with the same ``prediction``, which was made for ``timestep``, where
        this step ends.
        """
        timestep = int(timestep)
        here = self.alpha(self.previous(timestep))
        there = self.alpha(timestep)
        if self.prediction_type == "v_prediction":
            # step is a rotation by the difference of two angles, shortened: z c + v s; solved for z
            c = (here * there).sqrt() + ((1 - here) * (1 - there)).sqrt()
            s = ((1 - here) * there).sqrt() - (here * (1 - there)).sqrt()
            return (z - s * prediction) / c
        return compose(*decompose(z, prediction, here, self.prediction_type), there)


def compose(x0: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """Return the latent at noise level ``a``."""
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def decompose(
    z: Tensor, prediction: Tensor, a: Tensor, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """Split a latent at noise level ``a`` into (x0, eps), as the network sees it."""
    if prediction_type == "v_prediction":
        x0 = a.sqrt() * z - (1 - a).sqrt() * prediction
        return x0, a.sqrt() * prediction + (1 - a).sqrt() * z
    return (z - (1 - a).sqrt() * prediction) / a.sqrt(), prediction


InversionMethod = Literal["plain", "lookahead", "fixed_point"]
"""Where an inversion step evaluates the network; see ``inverted_latents``."""


def inverted_latents(
    predict: Predict,
    z: Tensor,
    schedule: NoisePath,
    count: int,
    *,
    method: InversionMethod = "plain",
    iterations: int = 1,
) -> Iterator[Tensor]:
    """Invert by DDIM: yield the latent after each of the ``count`` steps towards noise.

    Args:
        predict: the network's prediction for (z, timestep).
        z: clean latent, (1, c, h, w).
        schedule: its last ``count`` timesteps are walked in ascending order.
        count: steps to invert, 1 to ``schedule.steps``.
        method: where a step from z to t evaluates the network, which should be at z_t. ``"plain"``:
            at z. ``"lookahead"``: at a guess of z_t, from the noise that the step before predicted;
            one pass more than plain. ``"fixed_point"``: at z, and then again at the result.
        iterations: iterations of the fixed point; each takes a pass.
    """
    noise: Tensor | None = None
    for timestep in reversed(schedule.last(count)):
        with torch.no_grad():
            if method == "lookahead" and noise is not None:
                ahead = _renoised(z, noise, schedule, schedule.previous(timestep), timestep)
            else:
                ahead = schedule.inverse_step(z, predict(z, timestep), timestep)
            if method == "lookahead":
                prediction = predict(ahead, timestep)
                noise = _noise_of(ahead, prediction, schedule, timestep)
                ahead = schedule.inverse_step(z, prediction, timestep)
            elif method == "fixed_point":
                for _ in range(iterations):
                    ahead = schedule.inverse_step(z, predict(ahead, timestep), timestep)
            z = ahead
        yield z


def _noise_of(z: Tensor, prediction: Tensor, schedule: NoisePath, t: Time) -> Tensor:
    """Return the noise in z at ``t`` by a prediction: unlike a velocity, it holds elsewhere too."""
    signal, noise = schedule.levels(t)
    _, clean = schedule.step(z, prediction, t)
    return (z - signal * clean) / noise


def _renoised(z: Tensor, noise: Tensor, schedule: NoisePath, here: Time, there: Time) -> Tensor:
    """Return z at ``there`` from z at ``here``, if this is the noise in it."""
    (signal, level), (signal_there, level_there) = schedule.levels(here), schedule.levels(there)
    return signal_there * (z - level * noise) / signal + level_there * noise


@in_plain_torch
def denoise(predict: Predict, z: Tensor, schedule: NoisePath, count: int) -> Iterator[Tensor]:
    """Sample by DDIM with eta 0: yield the latent after each of the last ``count`` steps."""
    for timestep in schedule.last(count):
        with torch.no_grad():
            z, _ = schedule.step(z, predict(z, timestep), timestep)
        yield z


# The other is for callers that are in plain torch already.
invert = in_plain_torch(inverted_latents)
