"""Measure how well a model drags, in a synthetic domain with ground truth.

Each task is drawn, dragged and rendered; the keypoint evaluator (``synthesis``) finds where the
points moved. It is compared with the source image, with the image warped alone, and with the ground
truth after the autoencoder, which is the best that the model can do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dragwidget.bench.metrics import PERFECT, completion, psnr
from dragwidget.bench.statistics import bootstrap
from dragwidget.bench.synthesis import fit_scene
from dragwidget.bench.warp import warp
from dragwidget.data.settings import Settings
from dragwidget.demo.domain.keypoints import POINTS
from dragwidget.demo.scenes import to_image
from dragwidget.demo.tasks import DragTask, drag_task
from dragwidget.diffusion.backbone import Backbone
from dragwidget.session.many import EditResult, run_edit
from dragwidget.session.session import DragSession
from dragwidget.session.source import to_pixels
from dragwidget.session.workers import shared_model

__all__ = ["Job", "Row", "drag_scenes", "edit", "score", "summarise", "to_image"]


@dataclass(frozen=True)
class Job:
    """One task for one model, as plain data that another process can be handed.

    Attributes:
        kind: kind of the task.
        seed: seed of its scene.
        model: the model, as ``load_model`` takes it.
        settings: settings of the edit; ``None``: what the model recommends.
        size: side of the image, pixels.
    """

    kind: str
    seed: int
    model: str = "critters"
    settings: Settings | None = None
    size: int = 128


@dataclass(frozen=True)
class Score:
    """The measurements of one edited image, against the task's ground truth.

    Attributes:
        completion: share of the requested displacement, at most 1; 0 where the fit failed.
        inside_psnr: PSNR against the ground truth inside the mask, dB.
        outside_psnr: PSNR against the source outside the mask, dB.
        fit_residual: root mean square of image minus explanation, in the worst window.
        fit_failed: the keypoint evaluator found no critter in the image.
        error: mean distance of the points from their targets, pixels.
    """

    completion: float
    inside_psnr: float
    outside_psnr: float
    fit_residual: float
    fit_failed: bool
    error: float


@dataclass(frozen=True)
class Row:
    """One task's result.

    Attributes:
        edited: score of the edit.
        nothing: score of the source itself.
        warped: score of the source with its pixels warped by the points alone.
        autoencoder: score of the ground truth after the autoencoder.
        source_psnr: PSNR of the source against the ground truth inside the mask, dB.
        beats_source: the edit is nearer to the ground truth there than the source is.
        tracking_error: mean distance of the tracked handles from where the points really went,
            pixels.
        seconds: wall time by phase.
    """

    kind: str
    seed: int
    edited: Score
    nothing: Score
    warped: Score
    autoencoder: Score
    source_psnr: float
    beats_source: bool
    tracking_error: float
    steps: int
    ended: str
    seconds: dict[str, float]


def edit(task: DragTask, session: DragSession) -> EditResult:
    """Drag a task's source image as a user would."""
    session.set_image(to_image(task.source), task.instructions.prompt)
    session.instructions = task.instructions
    return run_edit(session)


def score(task: DragTask, image: Tensor) -> tuple[Score, npt.NDArray[np.float64]]:
    """Measure an image; return also where the task's points are in it, (N, 2) xy pixels."""
    found = fit_scene(image, task.source_scene, seed=task.seed)
    points = found.points.xy[0, [POINTS.index(name) for name in task.points]].double().numpy()
    drawn = task.instructions
    inside = drawn.mask if drawn.mask is not None else np.ones(task.source.shape[1:], dtype=bool)
    share = completion(drawn.handles_xy, drawn.targets_xy, points)
    result = Score(
        completion=0.0 if found.failed else share,
        inside_psnr=psnr(image, task.target, inside),
        outside_psnr=psnr(image, task.source, ~inside),
        fit_residual=found.worst,
        fit_failed=found.failed,
        error=float(np.linalg.norm(points - drawn.targets_xy, axis=1).mean()),
    )
    return result, points


def do_nothing(task: DragTask) -> Score:
    """Return the score of the source image itself, which needs no evaluator."""
    drawn = task.instructions
    return Score(
        completion=0.0,
        inside_psnr=psnr(task.source, task.target, drawn.mask),
        outside_psnr=PERFECT,
        fit_residual=0.0,
        fit_failed=False,
        error=float(np.linalg.norm(drawn.handles_xy - drawn.targets_xy, axis=1).mean()),
    )


def run_job(job: Job) -> tuple[Row, Tensor]:
    """Edit and score one task; return its row, and the images of it for a grid.

    Returns:
        The row, and (4, 3, H, W): source, reconstruction by the autoencoder, edit, truth.
    """
    task = drag_task(job.kind, job.seed, job.size)
    session = DragSession(shared_model(job.model))
    if job.settings is not None:
        session.settings = job.settings
    made = edit(task, session)
    started = time.perf_counter()
    image = to_tensor(made.image)
    edited, points = score(task, image)
    truth = round_trip(session.model, task.target)
    nothing = do_nothing(task)
    row = Row(
        kind=task.kind,
        seed=task.seed,
        edited=edited,
        nothing=nothing,
        warped=score(task, warp(task.source, task.instructions))[0],
        autoencoder=score(task, truth)[0],
        source_psnr=nothing.inside_psnr,
        beats_source=edited.inside_psnr > nothing.inside_psnr,
        tracking_error=float(np.linalg.norm(made.handles_xy - points, axis=1).mean()),
        steps=made.steps,
        ended=made.ended,
        seconds={**made.seconds, "score": time.perf_counter() - started},
    )
    source = round_trip(session.model, task.source)
    return row, torch.stack([task.source, source, image, task.target])


def drag_scenes(
    jobs: Sequence[Job], executor: Executor | None = None
) -> Iterator[tuple[Row, Tensor]]:
    """Run jobs here, or by any executor with ``map``; yield each as ``run_job``, in their order."""
    yield from map(run_job, jobs) if executor is None else executor.map(run_job, jobs)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return a summary of the rows; see ``dragwidget bench scenes``."""
    kinds = sorted({row.kind for row in rows})
    return {
        "n": len(rows),
        "completion": bootstrap([row.edited.completion for row in rows]),
        "by_kind": {
            kind: bootstrap([row.edited.completion for row in rows if row.kind == kind])
            for kind in kinds
        },
        "outside_psnr": _mean([row.edited.outside_psnr for row in rows]),
        "inside_psnr": _mean([row.edited.inside_psnr for row in rows]),
        "source_psnr": _mean([row.source_psnr for row in rows]),
        "beats_source": _mean([row.beats_source for row in rows]),
        "fit_failures": sum(row.edited.fit_failed for row in rows),
        "tracking_error": _mean([row.tracking_error for row in rows]),
        "seconds": {
            phase: _mean([row.seconds[phase] for row in rows]) for phase in rows[0].seconds
        },
        "beside": {
            name: {
                "completion": bootstrap([getattr(row, name).completion for row in rows]),
                "inside_psnr": _mean([getattr(row, name).inside_psnr for row in rows]),
                "fit_failures": sum(getattr(row, name).fit_failed for row in rows),
            }
            for name in ("nothing", "warped", "autoencoder")
        },
        "rows": [asdict(row) for row in rows],
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def to_tensor(image: Image.Image) -> Tensor:
    """Return a Pillow image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def round_trip(model: Backbone, image: Tensor) -> Tensor:
    """Return an image (3, H, W) after a round trip through the autoencoder."""
    decoded = model.decode(model.encode(np.asarray(to_image(image))))
    return to_tensor(Image.fromarray(to_pixels(decoded)))
