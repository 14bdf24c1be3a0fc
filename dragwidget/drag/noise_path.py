"""DDIM (Song et al., arXiv 2010.02502), forwards and backwards, without classifier-free guidance.

House letters: ``z`` latent (1, c, h, w); ``a`` cumulative alpha of the forward process at a
timestep, so that ``z = sqrt(a) x0 + sqrt(1 - a) eps``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Predict", "PredictionType", "Schedule", "decompose", "denoise", "invert"]

PredictionType = Literal["epsilon", "v_prediction"]
Predict = Callable[[Tensor, int], Tensor]
"""What a network says of a latent (B, c, h, w) at a timestep: noise or velocity, same shape."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The timesteps of one DDIM run and the noise levels between them.

    Attributes:
        alphas_cumprod: cumulative alphas of the forward process, (training steps,).
        steps: DDIM steps T; they lie ``stride = training steps // T`` apart ("leading" spacing).
        offset: timestep of the last step; 1 for Stable Diffusion.
        prediction_type: what the network predicts.
    """

    alphas_cumprod: Tensor
    steps: int = 50
    offset: int = 1
    prediction_type: PredictionType = "epsilon"

    @property
    def stride(self) -> int:
        """Training timesteps in one DDIM step, d."""
        return len(self.alphas_cumprod) // self.steps

    @property
    def timesteps(self) -> tuple[int, ...]:
        """All timesteps, noisiest first, (T,)."""
        last = len(self.alphas_cumprod) - 1
        return tuple(min(k * self.stride + self.offset, last) for k in reversed(range(self.steps)))

    def alpha(self, timestep: int) -> Tensor:
        """Cumulative alpha at ``timestep``; before the first one it stays at the first."""
        return self.alphas_cumprod[max(timestep, 0)]

    def step(self, z: Tensor, prediction: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        """One step towards the image: (z at ``timestep - stride``, the predicted x0)."""
        x0, eps = decompose(z, prediction, self.alpha(timestep), self.prediction_type)
        return compose(x0, eps, self.alpha(timestep - self.stride)), x0

    def inverse_step(self, z: Tensor, prediction: Tensor, timestep: int) -> Tensor:
        """One step towards noise: z at ``timestep`` from z at ``timestep - stride``.

        ``prediction`` was made for ``timestep``, where the step ends.
        """
        source = self.alpha(timestep - self.stride)
        return compose(
            *decompose(z, prediction, source, self.prediction_type), self.alpha(timestep)
        )


def compose(x0: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """The latent at noise level ``a``."""
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def decompose(
    z: Tensor, prediction: Tensor, a: Tensor, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """Split a latent at noise level ``a`` into (x0, eps), as the network sees it."""
    if prediction_type == "v_prediction":
        x0 = a.sqrt() * z - (1 - a).sqrt() * prediction
        return x0, a.sqrt() * prediction + (1 - a).sqrt() * z
    return (z - (1 - a).sqrt() * prediction) / a.sqrt(), prediction


def invert(predict: Predict, z: Tensor, schedule: Schedule, count: int) -> Iterator[Tensor]:
    """DDIM inversion: yield the latent after each of the ``count`` steps towards noise.

    Args:
        predict: the network's answer for (z, timestep).
        z: clean latent, (1, c, h, w).
        schedule: its last ``count`` timesteps are walked in ascending order.
        count: steps to invert, 1 to ``schedule.steps``.
    """
    for timestep in reversed(schedule.timesteps[schedule.steps - count :]):
        with torch.no_grad():
            z = schedule.inverse_step(z, predict(z, timestep), timestep)
        yield z


def denoise(predict: Predict, z: Tensor, schedule: Schedule, count: int) -> Iterator[Tensor]:
    """DDIM sampling with eta 0: yield the latent after each of the last ``count`` steps."""
    for timestep in schedule.timesteps[schedule.steps - count :]:
        with torch.no_grad():
            z, _ = schedule.step(z, predict(z, timestep), timestep)
        yield z
