"""Is the instrument right? Images whose answer is known, measured as an edit would be.

Three images of each task: the true target (the whole drag), the source (nothing), and the one of
the parameters half way (whatever share its true points have). They can be spoilt first, as an
autoencoder's round trip does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dragwidget.bench.metrics import completion
from dragwidget.bench.scenes import round_trip, shared_model
from dragwidget.bench.synthesis import fit_scene
from dragwidget.demo.domain.keypoints import POINTS, keypoints
from dragwidget.demo.domain.parameters import Scenes
from dragwidget.demo.scenes import render
from dragwidget.demo.tasks import TASK_KINDS, DragTask, drag_task

__all__ = [
    "LARGEST_ERROR",
    "LARGEST_GAP",
    "PICTURES",
    "Proof",
    "ProofJob",
    "make_jobs",
    "measure",
    "prove",
]

PICTURES = ("target", "source", "half")
LARGEST_ERROR = 0.5  # pixels: what the instrument may be wrong by in where a point is,
LARGEST_GAP = 0.02  # and in the share of the drag


@dataclass(frozen=True)
class ProofJob:
    """One image to measure, as plain data that another process can be handed.

    Attributes:
        kind: of the task; ``seed``: of its scene; ``size``: side of the image, pixels.
        image: of PICTURES.
        model: whose autoencoder spoils the image, as ``load_model`` takes it; ``None``: none.
    """

    kind: str
    seed: int
    image: str
    model: str | None = None
    size: int = 128


@dataclass(frozen=True)
class Proof:
    """One image measured.

    `image`: of PICTURES; `error`: the largest distance of a dragged point found from the same
    point in truth, pixels; `share`, `true_share`: of the drag, found and in truth; `worst`: the
    fit's residual in the worst window; `failed`: it was taken for no critter.
    """

    kind: str
    seed: int
    image: str
    error: float
    share: float
    true_share: float
    worst: float
    failed: bool

    @property
    def gap(self) -> float:
        """How far the share found is from the true one."""
        return abs(self.share - self.true_share)

    @property
    def held(self) -> bool:
        """Whether the instrument was right, within LARGEST_ERROR and LARGEST_GAP.

        On an image of the whole drag the point's place is what is asked for: how large a share an
        error makes there depends on how long the drag was.
        """
        limit_kept = (
            self.error <= LARGEST_ERROR if self.image == "target" else self.gap <= LARGEST_GAP
        )
        return limit_kept and not self.failed


def make_jobs(seed: int, n: int, model: str | None = None, size: int = 128) -> list[ProofJob]:
    """The three images of each of n tasks, of all kinds in turn, from `seed` on."""
    return [
        ProofJob(TASK_KINDS[k % len(TASK_KINDS)], seed + k, image, model, size)
        for k in range(n)
        for image in PICTURES
    ]


def prove(jobs: Sequence[ProofJob], executor: Executor | None = None) -> Iterator[Proof]:
    """Measure here, or by any executor with ``map``; yield the proofs in the jobs' order."""
    yield from map(run_job, jobs) if executor is None else executor.map(run_job, jobs)


def run_job(job: ProofJob) -> Proof:
    """Measure one image, spoilt first where the job names a model."""
    name = job.model
    through = None if name is None else lambda image: round_trip(shared_model(name), image)
    return measure(drag_task(job.kind, job.seed, job.size), job.image, through)


def measure(task: DragTask, image: str, through: Callable[[Tensor], Tensor] | None = None) -> Proof:
    """Measure one of the PICTURES of a task; `through` spoils it, (3, H, W) in [0, 1], first."""
    scene = _scene(task, image)
    size = task.source.shape[-1]
    with torch.no_grad():
        drawn = render(scene, size)[0]
    fit = fit_scene(drawn if through is None else through(drawn), task.source_scene, task.seed)
    columns = [POINTS.index(name) for name in task.points]
    found = fit.points.xy[0, columns].numpy()
    true = keypoints(scene, size).xy[0, columns].numpy()
    handles, targets = task.instructions.handles_xy, task.instructions.targets_xy
    return Proof(
        kind=task.kind,
        seed=task.seed,
        image=image,
        error=float(np.linalg.norm(found - true, axis=1).max()),
        share=completion(handles, targets, found),
        true_share=completion(handles, targets, true),
        worst=fit.worst,
        failed=fit.failed,
    )


def _scene(task: DragTask, image: str) -> Scenes:
    if image == "half":
        middle = (task.source_scene.vector() + task.target_scene.vector()) / 2
        return task.source_scene.with_vector(middle)
    return task.target_scene if image == "target" else task.source_scene
