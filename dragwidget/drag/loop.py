"""The drag loop over any method, a generator of steps; and one step as the user sees it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dragwidget.data.instructions import DragInstructions, from_grid, on_grid
from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import DragModel, Passes
from dragwidget.drag.method import DragState, Ended, Problem, StepReport
from dragwidget.drag.methods import method_named
from dragwidget.drag.noise_path import NoisePath, Time
from dragwidget.drag.supervision import GaussianPrior
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.drag.tracking import distances
from dragwidget.drag.trajectory import PlainTrajectory

__all__ = ["DragStep", "describe", "drag", "protected_cells"]


@dataclass(frozen=True, eq=False)
class DragStep:
    """One step of a drag, as the user sees it.

    Attributes:
        index: steps since the start of the drag, 1 for the first.
        loss: the loss that this step minimised, before it.
        loss_terms: its parts by name: ``motion``, ``region``, ``prior``, each with its weight.
        handles_xy: handles after the step, (N, 2), (x, y) image pixels.
        targets_xy: (N, 2), image pixels.
        distances: from handle to target, (N,), image pixels.
        reached: which handles have reached their targets, (N,) bool.
        stored: the latent after the step, or what reads it from a file.
    """

    index: int
    loss: float
    loss_terms: Mapping[str, float]
    handles_xy: npt.NDArray[np.float64]
    targets_xy: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float64]
    reached: npt.NDArray[np.bool_]
    stored: Tensor | Callable[[], Tensor] = field(repr=False)

    @property
    def latent(self) -> Tensor:
        """After the step, (1, c, h, w) float32."""
        return self.stored if isinstance(self.stored, Tensor) else self.stored()


def describe(
    state: DragState,
    task: Problem,
    report: StepReport,
    size: tuple[int, int],
    grid: tuple[int, int],
) -> DragStep:
    """Return the user's view of a state, in pixels of an image of ``size`` (width, height)."""
    handles_xy = from_grid(state.handles.numpy(), size, grid)
    targets_xy = from_grid(task.targets.numpy(), size, grid)
    arrived = distances(state.handles, task.targets) < task.settings.stop_distance
    return DragStep(
        index=state.index,
        loss=sum(report.loss_terms.values()),
        loss_terms=dict(report.loss_terms),
        handles_xy=handles_xy,
        targets_xy=targets_xy,
        distances=np.linalg.norm(targets_xy - handles_xy, axis=-1),
        reached=arrived.numpy(),
        stored=state.latent,
    )


@in_plain_torch
def drag(
    model: DragModel,
    latent: Tensor,
    instructions: DragInstructions,
    path: NoisePath,
    timestep: Time,
    settings: DragSettings,
    *,
    grid: tuple[int, int] | None = None,
    prior: GaussianPrior | None = None,
    clean: Tensor | None = None,
) -> Generator[DragStep, None, Ended]:
    """Drag a latent from its start, one ``DragStep`` at a time; return why it ended.

    Args:
        model: the network with its prompt.
        latent: at ``timestep``, (1, c, h, w); it is not changed.
        instructions: in image pixels.
        path: the model's noise path.
        timestep: noise level of the latent; 681 for the paper's defaults.
        grid: (rows, columns) of the feature grid; by default ``settings.feature_scale`` times the
            image's size.
        prior: needed with ``settings.prior_weight > 0``.
        clean: the image's clean latent, (1, c, h, w); needed with ``settings.start == "warped"``.

    Raises:
        ValueError: an argument that the settings need is missing; the method is unknown; the
            timestep is not on the path.
        ArithmeticError: a loss, its gradient or a feature is not finite; nothing was changed.
    """
    if settings.prior_weight > 0 and prior is None:
        raise ValueError("prior_weight > 0 needs a prior: pass GaussianPrior.of(clean latent, ...)")
    if settings.start == "warped" and clean is None:
        raise ValueError('start="warped" needs the clean latent of the image: pass clean')
    method = method_named(settings.method)
    path.previous(timestep)  # refuses what is no timestep of it
    width, height = instructions.size
    grid = grid or settings.grid(height, width)
    cells = on_grid(instructions, grid, (latent.shape[2], latent.shape[3]))
    passes = Passes(model, path, grid, settings)

    plain = PlainTrajectory(passes, latent, timestep)
    handles = torch.from_numpy(cells.handles_rc)
    task = Problem(
        targets=torch.from_numpy(cells.targets_rc),
        settings=settings,
        path=path,
        source=plain.at,
        anchors=lambda t: plain.anchors(t, tuple(handles.float()), settings.motion_radius),
        clean=torch.zeros_like(latent) if clean is None else clean,
        protected=None if cells.mask is None else protected_cells(cells.mask, latent),
        prior=prior,
    )
    if task.has_region_loss:  # the pass that the first step takes its gradient from serves both
        plain.at(timestep)
    state = method.begin(passes, latent, handles, timestep)
    for _ in range(settings.steps):
        if reason := method.ended(state, task):
            return reason
        state, report = method.advance(passes, state, task)
        yield describe(state, task, report, instructions.size, grid)
    return method.ended(state, task) or Ended.STEP_LIMIT


def protected_cells(mask: npt.NDArray[np.bool_], latent: Tensor) -> Tensor:
    """Return 1 in the protected region, (h, w), in the latent's dtype; the mask is (h, w)."""
    return torch.from_numpy(~mask).to(latent)
