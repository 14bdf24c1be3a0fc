"""Validate the keypoint evaluator on images whose keypoints are known.

Three images of each task: the target (the whole drag), the source (no drag), and the scene with
parameters half-way between both (the completion that its keypoints have). An autoencoder's round
trip can corrupt them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dragwidget.bench.metrics import completion
from dragwidget.bench.scenes import round_trip
from dragwidget.bench.synthesis import fit_scene
from dragwidget.demo.domain.keypoints import POINTS, keypoints
from dragwidget.demo.domain.parameters import Scenes
from dragwidget.demo.scenes import render
from dragwidget.demo.tasks import TASK_KINDS, DragTask, drag_task
from dragwidget.session.workers import shared_model

IMAGES = ("target", "source", "half")
LARGEST_ERROR = 0.5  # pixels, of the position of a point
LARGEST_GAP = 0.02  # of the completion


@dataclass(frozen=True)
class ValidationJob:
    """One image to measure, as plain data that another process can be handed.

    Attributes:
        kind: of the task; ``seed``: of its scene; ``size``: side of the image, pixels.
        image: of IMAGES.
        model: whose autoencoder corrupts the image, as ``load_model`` takes it; ``None``: none.
    """

    kind: str
    seed: int
    image: str
    model: str | None = None
    size: int = 128


@dataclass(frozen=True)
class ValidationResult:
    """The evaluator's measurements on one image.

    `image`: of IMAGES; `error`: the largest distance of a dragged point found from its ground
    truth, pixels; `completion`, `true_completion`: measured and ground truth; `worst`: the fit's
    residual in the worst window; `failed`: the fit failed.
    """

    kind: str
    seed: int
    image: str
    error: float
    completion: float
    true_completion: float
    worst: float
    failed: bool

    @property
    def gap(self) -> float:
        """Return the absolute error of the completion."""
        return abs(self.completion - self.true_completion)

    @property
    def held(self) -> bool:
        """Return whether the evaluator is within LARGEST_ERROR and LARGEST_GAP.

        On an image of the whole drag the position counts: how much completion an error costs there
        depends on the length of the drag.
        """
        limit_kept = (
            self.error <= LARGEST_ERROR if self.image == "target" else self.gap <= LARGEST_GAP
        )
        return limit_kept and not self.failed


def make_jobs(seed: int, n: int, model: str | None = None, size: int = 128) -> list[ValidationJob]:
    """Return jobs for the three images of n tasks, of all kinds in turn, from `seed` on."""
    return [
        ValidationJob(TASK_KINDS[k % len(TASK_KINDS)], seed + k, image, model, size)
        for k in range(n)
        for image in IMAGES
    ]


def validate(
    jobs: Sequence[ValidationJob], executor: Executor | None = None
) -> Iterator[ValidationResult]:
    """Measure here, or by any executor with ``map``; yield the results in the order of the jobs."""
    yield from map(run_job, jobs) if executor is None else executor.map(run_job, jobs)


def run_job(job: ValidationJob) -> ValidationResult:
    """Measure one image, corrupted first where the job names a model."""
    name = job.model
    through = None if name is None else lambda image: round_trip(shared_model(name), image)
    return measure(drag_task(job.kind, job.seed, job.size), job.image, through)


def measure(
    task: DragTask, image: str, through: Callable[[Tensor], Tensor] | None = None
) -> ValidationResult:
    """Measure one of the IMAGES of a task; `through` corrupts it, (3, H, W) in [0, 1], first."""
    scene = _scene(task, image)
    size = task.source.shape[-1]
    with torch.no_grad():
        drawn = render(scene, size)[0]
    fit = fit_scene(drawn if through is None else through(drawn), task.source_scene, task.seed)
    columns = [POINTS.index(name) for name in task.points]
    found = fit.points.xy[0, columns].numpy()
    true = keypoints(scene, size).xy[0, columns].numpy()
    handles, targets = task.instructions.handles_xy, task.instructions.targets_xy
    return ValidationResult(
        kind=task.kind,
        seed=task.seed,
        image=image,
        error=float(np.linalg.norm(found - true, axis=1).max()),
        completion=completion(handles, targets, found),
        true_completion=completion(handles, targets, true),
        worst=fit.worst,
        failed=fit.failed,
    )


def _scene(task: DragTask, image: str) -> Scenes:
    if image == "half":
        middle = (task.source_scene.vector() + task.target_scene.vector()) / 2
        return task.source_scene.with_vector(middle)
    return task.target_scene if image == "target" else task.source_scene
