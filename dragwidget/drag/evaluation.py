"""One pass of the network at a latent: what the method needs of a model, and keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dragwidget.data.settings import DragSettings
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.noise_path import Schedule

__all__ = ["DragModel", "Evaluation", "ModelOutput", "evaluate"]


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What one pass of the network gives.

    Attributes:
        prediction: noise or velocity, (1, c, h, w) float32; ``None`` if it was not asked for.
        features: the maps of the blocks asked for, in that order, each (1, C_i, h_i, w_i).
    """

    prediction: Tensor | None
    features: tuple[Tensor, ...] = ()


class DragModel(Protocol):
    """All that the method needs of a diffusion model: one pass, differentiable in the latent."""

    def __call__(
        self, latent: Tensor, timestep: int, *, blocks: Sequence[int] = (), predict: bool = True
    ) -> ModelOutput:
        """Run the network on ``latent`` (1, c, h, w) float32 at ``timestep``.

        With ``predict=False`` the pass may end after the last of ``blocks``.
        """
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One pass of the network at a latent, with the graph that the next update needs.

    Attributes:
        latent: the leaf of the graph, (1, c, h, w).
        features: on the feature grid, with gradient.
        previous: the latent one DDIM step nearer to the image, with gradient, or ``None`` where
            no mask asked for it.
        x0: the clean latent as the network guesses it from here, likewise.
    """

    latent: Tensor
    features: FeatureMap
    previous: Tensor | None = None
    x0: Tensor | None = None

    def detach(self) -> Evaluation:
        """The same values without the graph."""
        previous = None if self.previous is None else self.previous.detach()
        x0 = None if self.x0 is None else self.x0.detach()
        return Evaluation(self.latent.detach(), self.features.detach(), previous, x0)


def evaluate(
    model: DragModel,
    latent: Tensor,
    schedule: Schedule,
    timestep: int,
    grid: tuple[int, int],
    settings: DragSettings,
    *,
    previous: bool,
    graph: bool = True,
) -> Evaluation:
    """One pass at ``latent``.

    Args:
        previous: also what lies behind the last feature block.
        graph: keep what a gradient needs, which is most of the memory of a pass.
    """
    leaf = latent.detach().clone().requires_grad_(graph)
    with torch.set_grad_enabled(graph):
        output = model(leaf, timestep, blocks=settings.feature_blocks, predict=previous)
        ahead = x0 = None
        if output.prediction is not None and previous:
            ahead, x0 = schedule.step(leaf, output.prediction, timestep)
    return Evaluation(leaf, FeatureMap(output.features, grid), ahead, x0)
