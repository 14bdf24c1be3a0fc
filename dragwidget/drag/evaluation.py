"""One forward pass at a latent: what the method needs of a model, and keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dragwidget.data.settings import DragSettings
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.noise_path import NoisePath, Time

__all__ = ["DragModel", "Evaluation", "ModelOutput", "Passes"]


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """The output of one forward pass.

    Attributes:
        prediction: noise or velocity, (1, c, h, w) float32; ``None`` if it was not asked for.
        features: the maps of the blocks asked for, in that order, each (1, C_i, h_i, w_i).
        states: the inputs of the self-attention layers asked for, likewise, each (B, tokens, d).
    """

    prediction: Tensor | None
    features: tuple[Tensor, ...] = ()
    states: tuple[Tensor, ...] = ()


class DragModel(Protocol):
    """What the method needs of a diffusion model: a forward pass, differentiable in the latent."""

    def __call__(
        self, latent: Tensor, timestep: Time, *, blocks: Sequence[int] = (), predict: bool = True
    ) -> ModelOutput:
        """Run the network on ``latent`` (1, c, h, w) float32 at ``timestep``.

        With ``predict=False`` the pass may end after the last of ``blocks``.
        """
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One forward pass at a latent, with the graph that the next update needs.

    Attributes:
        latent: the leaf of the graph, (1, c, h, w).
        features: on the feature grid, with gradient.
        previous: the latent one DDIM step nearer to the image, with gradient, or ``None`` where
            no mask asked for it.
        x0: the predicted clean latent, likewise.
    """

    latent: Tensor
    features: FeatureMap
    previous: Tensor | None = None
    x0: Tensor | None = None

    def detach(self) -> Evaluation:
        """Return the same values without the graph."""
        previous = None if self.previous is None else self.previous.detach()
        x0 = None if self.x0 is None else self.x0.detach()
        return Evaluation(self.latent.detach(), self.features.detach(), previous, x0)


class Passes:
    """Forward passes of one drag: the last one with its graph serves the next step.

    Attributes:
        model: the network with its prompt.
        path: its noise path.
        grid: (rows, columns) of the feature grid.
        settings: whose ``feature_blocks`` are read.

    Args:
        before: called with the latent before every pass; it may raise to stop the work.
        replays: the same model, where passes with a gradient are recorded and replayed.
    """

    def __init__(
        self,
        model: DragModel,
        path: NoisePath,
        grid: tuple[int, int],
        settings: DragSettings,
        before: Callable[[Tensor], None] = lambda _: None,
        replays: DragModel | None = None,
    ) -> None:
        self.model, self.path, self.grid, self.settings = model, path, grid, settings
        self._before, self._with_graph = before, replays or model
        self._live: tuple[Tensor, Time, Evaluation] | None = None

    def at(
        self, latent: Tensor, timestep: Time, *, previous: bool = False, graph: bool = True
    ) -> Evaluation:
        """Return the pass at a latent: the one whose graph is kept, or a new one.

        Args:
            previous: also what lies behind the last feature block.
            graph: keep what a gradient needs, which is most of the memory of a pass; at most one
                graph is kept at a time.
        """
        if (live := self.live(latent, timestep, previous=previous)) is not None:
            return live
        if graph:
            self._live = None
        self._before(latent)
        leaf = latent.detach().clone().requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            model = self._with_graph if graph else self.model
            output = model(leaf, timestep, blocks=self.settings.feature_blocks, predict=previous)
            ahead = x0 = None
            if output.prediction is not None and previous:
                ahead, x0 = self.path.step(leaf, output.prediction, timestep)
        evaluation = Evaluation(leaf, FeatureMap(output.features, self.grid), ahead, x0)
        if graph:
            self._live = (latent, timestep, evaluation)
        return evaluation

    def take(self, latent: Tensor, timestep: Time, *, previous: bool = False) -> Evaluation:
        """Return the pass at a latent with its graph, and forget it."""
        evaluation = self.at(latent, timestep, previous=previous)
        self._live = None
        return evaluation

    def live(self, latent: Tensor, timestep: Time, *, previous: bool) -> Evaluation | None:
        """Return the pass whose graph is kept, if it is at this latent."""
        if self._live is None or self._live[0] is not latent or self._live[1] != timestep:
            return None
        evaluation = self._live[2]
        return evaluation if evaluation.previous is not None or not previous else None

    def release(self) -> None:
        """Free the graph."""
        self._live = None
