"""What a drag method is given, made by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import DragModel, Evaluation, Passes
from dragwidget.drag.method import Problem
from dragwidget.drag.noise_path import NoisePath
from dragwidget.drag.supervision import GaussianPrior

passes_of = Passes


def problem_of(
    targets: Tensor,
    settings: DragSettings,
    path: NoisePath,
    *,
    source: Evaluation | None = None,
    clean: Tensor | None = None,
    protected: Tensor | None = None,
    prior: GaussianPrior | None = None,
) -> Problem:
    """A task at one timestep: its source has one pass, and its state has the anchors."""

    def only(_: object) -> Evaluation:
        assert source is not None
        return source

    return Problem(
        targets=targets,
        settings=settings,
        path=path,
        source=only,
        anchors=lambda _: (),
        clean=torch.zeros(()) if clean is None else clean,
        protected=protected,
        prior=prior,
    )


__all__ = ["DragModel", "passes_of", "problem_of"]
