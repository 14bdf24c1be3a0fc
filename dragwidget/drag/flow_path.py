"""Rectified flow (Liu et al., arXiv 2209.03003), forwards and backwards, by Euler's method.

A latent lies on the straight line between image and noise, ``z = (1 - sigma) x0 + sigma eps``, and
the network predicts its direction, the velocity ``eps - x0``. Experimental.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dragwidget.drag.noise_path import Time

__all__ = ["FlowPath"]


@dataclass(frozen=True)
class FlowPath:
    """The times of one run on a straight path; a ``NoisePath``.

    Timesteps, noise levels and steps are those of diffusers' ``FlowMatchEulerDiscreteScheduler``,
    bit for bit: a timestep is sigma times ``levels_count``, and the first one is pure noise.

    Attributes:
        steps: Euler steps T, 1 to ``levels_count``.
        shift: how far times are shifted towards noise: s sigma / (1 + (s - 1) sigma), above 0; 3 in
            Stable Diffusion 3, 1 does not shift (Esser et al., arXiv 2403.03206, section 5.3.2).
        levels_count: noise levels of the training, L.

    Raises:
        ValueError: there are fewer noise levels than steps.
    """

    steps: int = 28
    shift: float = 3.0
    levels_count: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.levels_count:
            raise ValueError(
                f"a model with {self.levels_count} noise levels takes 1 to {self.levels_count} "
                f"steps, got {self.steps}: set InversionSettings.steps"
            )

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise levels of all timesteps, noisiest first, and 0 behind them, (T + 1,) float32."""
        levels = np.arange(1, self.levels_count + 1, dtype=np.float32)[[-1, 0]]
        # In single precision, as the scheduler's constructor has them; its run shifts them again.
        highest, lowest = self._shifted(torch.from_numpy(levels) / self.levels_count).tolist()
        count = self.levels_count
        even = np.linspace(highest * count, lowest * count, self.steps) / count
        sigmas = torch.from_numpy(even)
        return torch.cat([self._shifted(sigmas).float(), torch.zeros(1)])

    def _shifted(self, sigmas: Tensor) -> Tensor:
        return self.shift * sigmas / (1 + (self.shift - 1) * sigmas)

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        """All timesteps, noisiest first, (T,): float32 numbers."""
        return tuple((self.sigmas[:-1] * self.levels_count).tolist())

    def last(self, count: int) -> tuple[float, ...]:
        """Return the ``count`` timesteps nearest to the image, noisiest first.

        Raises ValueError where ``count`` is not 0 to ``steps``.
        """
        if not 0 <= count <= self.steps:
            raise ValueError(f"count must be 0 to {self.steps} of {self.steps} steps, got {count}")
        return self.timesteps[self.steps - count :]

    def previous(self, timestep: Time) -> float:
        """Return the timestep of the next step towards the image, 0 after the last one.

        Raises ValueError where ``timestep`` is none of this path's.
        """
        return (*self.timesteps, 0.0)[self._index(timestep) + 1]

    def _index(self, timestep: Time) -> int:
        try:
            return self.timesteps.index(timestep)
        except ValueError:
            raise ValueError(
                f"timestep must be one of the {self.steps} timesteps of this path, "
                f"{self.timesteps[0]} to {self.timesteps[-1]}, got {timestep}"
            ) from None

    def levels(self, timestep: Time) -> tuple[Tensor, Tensor]:
        """Return (signal, noise): 1 - sigma and sigma."""
        if timestep in self.timesteps:
            sigma = self.sigmas[self._index(timestep)]
        else:
            sigma = torch.tensor(timestep / self.levels_count)
        return 1 - sigma, sigma

    def marginal(self, mean: Tensor, variance: Tensor, timestep: Time) -> tuple[Tensor, Tensor]:
        """Return mean and variance at ``timestep`` of clean values that have these."""
        signal, noise = self.levels(timestep)
        return signal * mean, signal**2 * variance + noise**2

    def training_target(
        self, clean: Tensor, noise: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (noised latents, the velocities that the network should predict for them)."""
        sigma = (timesteps / self.levels_count)[:, None, None, None].to(clean)
        return sigma * noise + (1 - sigma) * clean, noise - clean

    def step(self, z: Tensor, prediction: Tensor, timestep: Time) -> tuple[Tensor, Tensor]:
        """Take one step towards the image: return (z at ``previous(timestep)``, predicted x0)."""
        here, nearer = self._step_levels(timestep)
        return z + (nearer - here) * prediction, z - here * prediction

    def inverse_step(self, z: Tensor, prediction: Tensor, timestep: Time) -> Tensor:
        """Return z at ``timestep`` from z at ``previous(timestep)``: the inverse of ``step``."""
        there, here = self._step_levels(timestep)
        return z - (here - there) * prediction

    def _step_levels(self, timestep: Time) -> tuple[Tensor, Tensor]:
        """Return sigma at ``timestep`` and at the next cleaner one."""
        index = self._index(timestep)
        return self.sigmas[index], self.sigmas[index + 1]
