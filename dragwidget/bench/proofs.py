"""Is the instrument right? Pictures whose answer is known, measured as an edit would be.

Three pictures of each task: the true target (the whole drag), the source (nothing), and the one of
the parameters half way (whatever share its true points have). `through` spoils them first, as an
autoencoder's round trip does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dragwidget.bench.metrics import share_done
from dragwidget.bench.synthesis import fit_scene
from dragwidget.demo.scenes import render
from dragwidget.demo.tasks import DragTask, sample_tasks
from dragwidget.demo.world.keypoints import POINTS, keypoints
from dragwidget.demo.world.parameters import Scenes

PICTURES = ("target", "source", "half")


@dataclass(frozen=True)
class Proof:
    """One picture measured.

    `picture`: of PICTURES; `error`: the largest distance of a dragged point found from the same
    point in truth, pixels; `share`, `true_share`: of the drag, found and in truth; `worst`: the
    fit's residual in the worst window; `failed`: it was taken for no critter.
    """

    kind: str
    seed: int
    picture: str
    error: float
    share: float
    true_share: float
    worst: float
    failed: bool


def prove(
    seed: int, n: int, size: int = 128, through: Callable[[Tensor], Tensor] | None = None
) -> Iterator[Proof]:
    """Three proofs for each of n tasks; `through` maps a picture (3, H, W) in [0, 1] to another."""
    for task in sample_tasks(seed, n, size=size):
        for picture in PICTURES:
            yield measure(task, picture, through)


def measure(
    task: DragTask, picture: str, through: Callable[[Tensor], Tensor] | None = None
) -> Proof:
    """Measure one of the PICTURES of a task."""
    scene = _scene(task, picture)
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
        picture=picture,
        error=float(np.linalg.norm(found - true, axis=1).max()),
        share=share_done(handles, targets, found),
        true_share=share_done(handles, targets, true),
        worst=fit.worst,
        failed=fit.failed,
    )


def _scene(task: DragTask, picture: str) -> Scenes:
    if picture == "half":
        middle = (task.source_scene.vector() + task.target_scene.vector()) / 2
        return task.source_scene.with_vector(middle)
    return task.target_scene if picture == "target" else task.source_scene
