"""The plain denoising of a latent: what becomes of it without a drag, timestep by timestep.

A method that leaves the timestep where it began compares with what the undragged latent is *there*.
Only latents stay, and the few cells of the feature maps that handles lie on.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dragwidget.drag.evaluation import Evaluation, Passes
from dragwidget.drag.features import FeatureMap, FeaturePatch
from dragwidget.drag.noise_path import Time
from dragwidget.drag.supervision import Anchor

__all__ = ["PlainTrajectory"]


class PlainTrajectory:
    """One latent on its plain way to the image, walked as far as it is asked for.

    Every pass is one that could carry a gradient, though none is taken: other kernels round
    otherwise, and a difference to the dragged latent that is rounding alone has a sign too.

    Args:
        passes: passes of the network; the graph that it holds is lost where a pass is taken here.
        latent: where it begins, (1, c, h, w).
        timestep: timestep of that latent.
    """

    def __init__(self, passes: Passes, latent: Tensor, timestep: Time) -> None:
        self._passes, self._last = passes, timestep
        self._latents: dict[Time, Tensor] = {timestep: latent}
        self._steps: dict[Time, Evaluation] = {}
        self._patches: dict[tuple[Time, int, tuple[float, ...]], FeaturePatch] = {}

    def at(self, timestep: Time) -> Evaluation:
        """Return the pass at a timestep, without its graph and features."""
        if timestep not in self._steps:
            self._visit(timestep)
        return self._steps[timestep]

    def features(self, timestep: Time) -> FeatureMap:
        """Return the features at a timestep; they are computed each time."""
        return self._visit(timestep)

    def anchors(
        self, timestep: Time, positions: Sequence[Tensor], radius: int
    ) -> tuple[Anchor, ...]:
        """Return what lies at ``positions``, each (row, column), at a timestep.

        Args:
            radius: cells around each that are kept.
        """
        keys = [(timestep, radius, tuple(position.tolist())) for position in positions]
        missing = {
            key: position
            for key, position in zip(keys, positions, strict=True)
            if key not in self._patches
        }
        if missing:
            features = self._visit(timestep)
            for key, position in missing.items():
                self._patches[key] = features.around(position, radius)
        return tuple(
            Anchor(self._patches[key], position)
            for key, position in zip(keys, positions, strict=True)
        )

    def _visit(self, timestep: Time) -> FeatureMap:
        """Walk to a timestep; return the features there."""
        while timestep not in self._latents:
            ahead = self.at(self._last).previous
            assert ahead is not None
            self._last = self._passes.path.previous(self._last)
            self._latents[self._last] = ahead
        seen = self._passes.at(self._latents[timestep], timestep, previous=True).detach()
        bare = FeatureMap((), seen.features.grid)
        self._steps[timestep] = Evaluation(seen.latent, bare, seen.previous, seen.x0)
        return seen.features
