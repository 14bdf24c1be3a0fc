"""Models whose answer to any latent is known by pen and paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dragwidget.drag import ModelOutput


class RolledImage:
    """The latent (1, 2, 1, 1) says by how many (rows, columns) a fixed image is rolled.

    The image is a smooth one of 6 channels, periodic in the grid, so it can be rolled by
    fractions of a cell and every place of it is told from every other nearby.
    """

    def __init__(self, grid: tuple[int, int] = (32, 32)) -> None:
        self.grid = grid
        self.passes = 0
        self.predictions = 0

    def __call__(
        self, latent: Tensor, _timestep: int, *, blocks: Sequence[int] = (), predict: bool = True
    ) -> ModelOutput:
        self.passes += 1
        self.predictions += predict
        prediction = torch.zeros_like(latent) if predict else None
        return ModelOutput(prediction, tuple(self.image(latent) for _ in blocks))

    def image(self, latent: Tensor) -> Tensor:
        """(1, 6, rows, columns)"""
        rows, columns = self.grid
        row = (torch.arange(rows) - latent[0, 0])[:, :, None] * (2 * torch.pi / rows)
        column = (torch.arange(columns) - latent[0, 1])[:, None] * (2 * torch.pi / columns)
        row, column = row.reshape(rows, 1), column.reshape(1, columns)
        waves = [row, column, row + column, row - 2 * column + 1, 2 * row - column, 2 * row + 1]
        return torch.stack([torch.sin(wave).expand(rows, columns) for wave in waves])[None]


class LatentItself:
    """Features are the latent, and so is the noise that is predicted: everything can move."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.passes = 0
        self.predictions = 0

    def __call__(
        self, latent: Tensor, _timestep: int, *, blocks: Sequence[int] = (), predict: bool = True
    ) -> ModelOutput:
        self.passes += 1
        self.predictions += predict
        features = tuple(latent.to(self.dtype) for _ in blocks)
        return ModelOutput(0.1 * latent if predict else None, features)


def blob(
    centre: tuple[float, float], size: tuple[int, int] = (16, 16), channels: int = 4
) -> Tensor:
    """A latent (1, channels, h, w) with a bright spot at (row, column) and a little noise."""
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in size)
    gap = (rows[:, None] - centre[0]) ** 2 + (columns - centre[1]) ** 2
    spot = torch.exp(-gap / 8)
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, channels, *size), generator=generator) * 0.05 + 2 * spot
