"""Cycle-SDE inversion: an inversion that denoising undoes exactly, whatever the network predicts.

CycleDiffusion (Wu and De la Torre, arXiv 2210.05559), SDE-Drag (Nie et al., arXiv 2311.01410) and
RegionDrag (Lu et al., ECCV 2024) invert so. The way up adds new noise step by step; at each step
the noise is kept that leads the way down, by the stochastic sampler of DDPM, back to the latent
where the step began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import repeat

import torch
from torch import Tensor

from dragwidget.data.settings import InversionSettings
from dragwidget.drag.noise_path import (
    NoisePath,
    Predict,
    Schedule,
    Time,
    decompose,
    inverted_latents,
)

__all__ = ["CycleSDE", "cycle_sde", "inversion_steps"]


@dataclass(frozen=True, eq=False)
class CycleSDE(Schedule):
    """A schedule whose steps towards the image put in the noise that an inversion kept.

    Attributes:
        noises: noise of the step from each timestep that was inverted, (1, c, h, w).
    """

    noises: Mapping[Time, Tensor] = field(kw_only=True)

    @classmethod
    def of(cls, path: NoisePath, noises: tuple[Tensor, ...]) -> CycleSDE:
        """Return this path with the noise of each of its last steps, the noisiest first."""
        schedule = checked(path)
        known = {each.name: getattr(schedule, each.name) for each in fields(Schedule)}
        return cls(**known, noises=dict(zip(schedule.last(len(noises)), noises, strict=True)))

    def step(self, z: Tensor, prediction: Tensor, timestep: Time) -> tuple[Tensor, Tensor]:
        """Take one step towards the image: return (z at ``previous(timestep)``, predicted x0)."""
        if timestep not in self.noises:
            return super().step(z, prediction, timestep)
        mean, spread, x0 = _towards(self, z, prediction, int(timestep))
        return mean + spread * self.noises[timestep], x0


def cycle_sde(
    predict: Predict, z: Tensor, path: NoisePath, count: int, *, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Invert exactly: yield the latent after each of ``count`` steps towards noise, and its noise.

    Args:
        predict: the network's prediction for (z, timestep); one pass a step.
        z: clean latent, (1, c, h, w).
        path: noise path of DDIM.
        seed: seed of the noise that is added.

    Raises:
        ValueError: the path is no schedule of DDIM, or its clean end has no noise.
    """
    schedule, generator = checked(path), torch.Generator().manual_seed(seed)
    for timestep in reversed(schedule.last(count)):
        with torch.no_grad():
            drawn = torch.randn(z.shape, generator=generator, dtype=torch.float32).to(z)
            kept = schedule.alpha(timestep) / schedule.alpha(schedule.previous(timestep))
            there = kept.sqrt() * z + (1 - kept).sqrt() * drawn
            mean, spread, _ = _towards(schedule, there, predict(there, timestep), timestep)
            # In a run over all timesteps the last step leads nowhere, and needs no noise.
            noise = (z - mean) / spread if spread > 0 else torch.zeros_like(z)
            z = there
        yield z, noise


def inversion_steps(
    predict: Predict, z: Tensor, path: NoisePath, count: int, settings: InversionSettings
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Invert as the settings say: yield each latent towards noise, and its noise if it has one."""
    if settings.method == "cycle_sde":
        return cycle_sde(predict, z, path, count, seed=settings.seed)
    latents = inverted_latents(
        predict, z, path, count, method=settings.method, iterations=settings.iterations
    )
    return zip(latents, repeat(None))


def checked(path: NoisePath) -> Schedule:
    """Return a path that Cycle-SDE can invert.

    Raises:
        ValueError: Cycle-SDE cannot invert it.
    """
    if not isinstance(path, Schedule):
        raise ValueError(
            "InversionSettings.method 'cycle_sde' needs the noise levels of DDIM, which "
            f"{type(path).__name__} does not have: take 'plain', 'lookahead' or 'fixed_point'"
        )
    if not path.alpha(0) < 1:
        raise ValueError(
            "InversionSettings.method 'cycle_sde' needs noise at timestep 0, and this model has "
            "none there: take 'plain', 'lookahead' or 'fixed_point'"
        )
    return path


def _towards(
    schedule: Schedule, z: Tensor, prediction: Tensor, timestep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (mean, standard deviation, predicted x0) of DDPM's step towards the image."""
    here, nearer = schedule.alpha(timestep), schedule.alpha(schedule.previous(timestep))
    x0, eps = decompose(z, prediction, here, schedule.prediction_type)
    variance = (1 - nearer) / (1 - here) * (1 - here / nearer)
    mean = nearer.sqrt() * x0 + (1 - nearer - variance).clamp(min=0).sqrt() * eps
    return mean, variance.sqrt(), x0
