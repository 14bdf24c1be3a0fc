"""Ablations: change one setting at a time, and edit and score the same tasks.

A *base* is a whole set of settings; a *sweep* goes through values of one of them; a *point* is the
base with one value. Every point sees the same tasks, so points are compared task by task, which
says more than their averages do (``gain``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch

from dragwidget.bench.scenes import do_nothing, edit, score, to_tensor
from dragwidget.bench.statistics import bootstrap
from dragwidget.data.settings import DragSettings, LoRASettings, RenderSettings, Settings
from dragwidget.demo.tasks import TASK_KINDS, drag_task
from dragwidget.diffusion.backbone import Backbone
from dragwidget.session.executors import check_executor
from dragwidget.session.session import DragSession
from dragwidget.session.workers import shared_model

BASES = ("paper", "recommended")


@dataclass(frozen=True)
class Sweep:
    """One setting, and the values it is given.

    Attributes:
        label: of the axis, with the unit.
        stage: of ``Settings``; ``field``: of that stage.
        values: ``None`` for as many feature blocks as the model's decoder has.
    """

    label: str
    stage: str
    field: str
    values: tuple[Any, ...] | None

    def apply(self, base: Settings, value: Any) -> Settings:
        """Return the base with this one value."""
        kept = (value,) if self.field == "feature_blocks" else value
        stage = replace(getattr(base, self.stage), **{self.field: kept})
        return replace(base, **{self.stage: stage})

    def value_in(self, settings: Settings) -> Any:
        """The value that some settings have; of several feature blocks all, which is no point."""
        value = getattr(getattr(settings, self.stage), self.field)
        return value[0] if self.field == "feature_blocks" and len(value) == 1 else value


SWEEPS: dict[str, Sweep] = {
    "strength": Sweep(
        "inversion strength", "inversion", "strength", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ),
    "lora_steps": Sweep("LoRA steps", "lora", "steps", (0, 10, 20, 40, 80)),
    "block": Sweep("decoder block", "drag", "feature_blocks", None),
    "lambda": Sweep("region weight λ", "drag", "region_weight", (0.0, 0.05, 0.1, 0.2, 0.4)),
    "radius": Sweep("motion radius r_m, cells", "drag", "motion_radius", (0, 1, 2, 4)),
    "step": Sweep("step length, cells", "drag", "step_length", (0.5, 1.0, 2.0, 4.0)),
    "rate": Sweep("learning rate", "drag", "learning_rate", (0.005, 0.01, 0.02, 0.04)),
    "prior": Sweep("prior weight", "drag", "prior_weight", (0.0, 1.0, 10.0, 100.0)),
    "start": Sweep("start", "drag", "start", ("inverted", "warped")),
}


@dataclass(frozen=True)
class Point:
    """The base with one value changed, or the base itself.

    Attributes:
        name: such as ``radius=2``; ``base`` for the base, which is a point of every sweep.
    """

    name: str
    settings: Settings


@dataclass(frozen=True)
class Job:
    """One task at several points, as plain data that another process can be handed.

    They share a LoRA, and what else they have in common is made once.
    """

    kind: str
    seed: int
    points: tuple[Point, ...]
    model: str = "critters"
    size: int = 128  # side of the image, pixels


@dataclass(frozen=True)
class Result:
    """One task at one point.

    Attributes:
        point: its name.
        completion: of the drag, at most 1; 0 if the fit failed.
        error: mean distance of the points from their targets, pixels; if the fit failed, that
            before the drag.
        inside_psnr: against the ground truth inside the mask, dB; ``outside_psnr``: against the
            source outside it.
        fit_failed: the keypoint evaluator found no critter in the image.
        seconds: of the edit; less where a part of it was made for an earlier point.
    """

    point: str
    kind: str
    seed: int
    completion: float
    error: float
    inside_psnr: float
    outside_psnr: float
    fit_failed: bool
    steps: int
    ended: str
    seconds: float

    @property
    def task(self) -> tuple[str, int]:
        return self.kind, self.seed


def base_settings(name: str, model: Backbone) -> Settings:
    """Return the base settings of a sweep.

    ``"recommended"`` are the model's own. ``"paper"`` is the paper's method: a drag from the
    inverted latent itself, strength 0.7, only the region loss. From the model's recommendation
    it takes only what belongs to the network and not to the method: which decoder block and which
    self-attention layer correspond to the paper's, and whether the model needs a LoRA at all, as
    one does that was not trained on such images. For Stable Diffusion that leaves the paper's
    own numbers.
    """
    known = model.recommended
    if name == "recommended":
        return known
    if name != "paper":
        raise ValueError(f"base must be one of {', '.join(BASES)}, got {name!r}")
    return Settings(
        lora=LoRASettings(steps=known.lora.steps),
        drag=DragSettings(feature_blocks=known.drag.feature_blocks),
        render=RenderSettings(start_layer=known.render.start_layer),
    )


def make_points(
    base: Settings,
    model: Backbone,
    only: Sequence[str] | Mapping[str, Sequence[Any]] | None = None,
) -> list[Point]:
    """Return the base, and every sweep's points around it.

    Args:
        only: these sweeps, or these with values of your own; ``None``: all.

    Raises:
        ValueError: an unknown sweep, or a value that does not suit the setting or the model.
    """
    only = list(SWEEPS) if only is None else only
    if unknown := [name for name in only if name not in SWEEPS]:
        raise ValueError(f"there is no sweep {unknown[0]!r}; there are {', '.join(SWEEPS)}")
    points = {"base": Point("base", base)}
    for name in only:
        values = only[name] if isinstance(only, Mapping) else SWEEPS[name].values
        if values is None:
            values = tuple(range(1, model.feature_block_count))
        for value in values:
            settings = SWEEPS[name].apply(base, value)
            model.check(settings)
            if settings != base:
                points[f"{name}={value}"] = Point(f"{name}={value}", settings)
    return list(points.values())


def make_jobs(
    points: Sequence[Point],
    n: int,
    *,
    seed: int = 950_000,
    model: str = "critters",
    done: Callable[[str, str, int], bool] = lambda _point, _kind, _seed: False,
) -> list[Job]:
    """Return the same ``n`` tasks at every point, kinds in turn, seeds from ``seed`` on.

    Args:
        done: whether a point (its name) of a task (kind, seed) is not to be run again.
    """
    if n < 1:
        raise ValueError(f"n must be 1 task or more, got {n}")
    by_lora: dict[LoRASettings, list[Point]] = {}
    for point in points:
        by_lora.setdefault(point.settings.lora, []).append(point)
    jobs = []
    for number in range(n):
        kind, own = TASK_KINDS[number % len(TASK_KINDS)], seed + number
        for group in by_lora.values():
            left = tuple(point for point in group if not done(point.name, kind, own))
            if left:
                jobs.append(Job(kind, own, left, model))
    return jobs


def run_job(job: Job) -> list[Result]:
    """Edit and score one task at each of the job's points, on one session."""
    if parent_process() is not None:
        torch.set_num_threads(1)  # a worker among others, who would wait for one another's threads
    task = drag_task(job.kind, job.seed, job.size)
    model = shared_model(job.model)
    session = DragSession(model)
    before = do_nothing(task)
    results = []
    # Those with the same inversion, and then the same render, one after the other.
    order = sorted(job.points, key=lambda p: repr((p.settings.inversion, p.settings.render)))
    for point in order:
        session.settings = point.settings
        made = edit(task, session)
        got, _ = score(task, to_tensor(made.image))
        results.append(
            Result(
                point=point.name,
                kind=job.kind,
                seed=job.seed,
                completion=got.completion,
                error=before.error if got.fit_failed else got.error,
                inside_psnr=got.inside_psnr,
                outside_psnr=got.outside_psnr,
                fit_failed=got.fit_failed,
                steps=made.steps,
                ended=made.ended,
                seconds=sum(made.seconds.values()),
            )
        )
    return results


def sweep(jobs: Sequence[Job], executor: Any = None) -> Iterator[list[Result]]:
    """Run jobs here, or by an executor; yield the results of each job, in their order.

    Args:
        executor: anything whose ``submit(function, job)`` returns a future: an ``Executor`` of
            ``concurrent.futures``, a Dask ``Client``, the ``executor`` of an ipyparallel view.
    """
    if executor is None:
        yield from map(run_job, jobs)
        return
    check_executor(executor)
    futures = [executor.submit(run_job, job) for job in jobs]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:  # those that have not begun, where one failed or nobody looks on
            future.cancel()


def summarise(
    points: Sequence[Point], results: Sequence[Result], base: Settings
) -> list[dict[str, Any]]:
    """Return a summary of every point, sweep by sweep; the base is a point of each.

    Each has ``sweep``, ``value``, ``point``, ``n``; ``completion`` and ``error`` with their 95 %
    intervals; ``gain``, the mean difference of the completion from the base's on the same tasks,
    likewise; ``inside_gain``, the same of the PSNR inside the mask, which counts failed fits too;
    mean ``outside_psnr``, ``inside_psnr``, ``steps``, ``seconds``; ``fit_failures``.
    """
    by_point: dict[str, dict[tuple[str, int], Result]] = {}
    for result in results:
        by_point.setdefault(result.point, {})[result.task] = result
    rows = []
    for name, one in SWEEPS.items():
        around = [point for point in points if point.name.startswith(f"{name}=")]
        if not around:
            continue
        values = {point.name: one.value_in(point.settings) for point in around}
        values["base"] = one.value_in(base)
        order = sorted(values, key=lambda key: (isinstance(values[key], str), values[key]))
        for key in order:
            if key in by_point:
                found = _summary(by_point[key], by_point.get("base", {}))
                rows.append({"sweep": name, "value": values[key], "point": key, **found})
    return rows


def _summary(
    here: Mapping[tuple[str, int], Result], base: Mapping[tuple[str, int], Result]
) -> dict[str, Any]:
    results = list(here.values())

    def gain(name: str) -> dict[str, float] | None:
        gains = [
            getattr(result, name) - getattr(base[task], name)
            for task, result in here.items()
            if task in base
        ]
        return bootstrap(gains) if gains else None

    def mean(name: str) -> float:
        return float(np.mean([getattr(result, name) for result in results]))

    return {
        "n": len(results),
        "completion": bootstrap([result.completion for result in results]),
        "gain": gain("completion"),
        "error": bootstrap([result.error for result in results]),
        "outside_psnr": mean("outside_psnr"),
        "inside_psnr": mean("inside_psnr"),
        "inside_gain": gain("inside_psnr"),
        "fit_failures": sum(result.fit_failed for result in results),
        "steps": mean("steps"),
        "seconds": mean("seconds"),
    }


def to_plain(result: Result) -> dict[str, Any]:
    """Return a result as plain data for JSON, rounded to 4 digits."""
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(result).items()
    }
