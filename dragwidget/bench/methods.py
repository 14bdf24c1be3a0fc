"""Compare drag methods on tasks with ground truth, with and without a LoRA.

Every method sees the same tasks, so that methods are compared task by task. Beside them: doing
nothing, the image warped alone, and the ground truth after the autoencoder, which is the best that
the model can do.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dragwidget.bench.memory import Meter
from dragwidget.bench.rows import Row, RowFile, digest, versions
from dragwidget.bench.scenes import Score, do_nothing, edit, round_trip, score, to_image, to_tensor
from dragwidget.bench.statistics import add_gains, bootstrap, differences, exact_interval
from dragwidget.bench.warp import warp
from dragwidget.data.presets import METHOD_SETTINGS, with_method
from dragwidget.data.settings import Settings
from dragwidget.demo.tasks import TASK_KINDS, DragTask, drag_task
from dragwidget.diffusion.backbone import Backbone
from dragwidget.drag.methods import METHODS, method_named
from dragwidget.session.executors import completed, describe
from dragwidget.session.session import DragSession
from dragwidget.session.workers import passes, shared_model

REFERENCE = "dragdiffusion"  # what the others are compared with
BASELINES = ("nothing", "pixel warp", "autoencoder")
KEY = ("model", "method", "lora_steps", "kind", "seed")


@dataclass(frozen=True)
class Variant:
    """A method with its settings; ``None``: one of BASELINES, which has none.

    ``made_by``: digest of all that its rows depend on.
    """

    method: str
    settings: Settings | None
    made_by: str


@dataclass(frozen=True)
class Job:
    """One task for some variants on one model, as plain data that another process can be handed.

    They share a LoRA, and what else they have in common is made once.
    """

    kind: str
    seed: int
    model: str
    lora_steps: int
    variants: tuple[Variant, ...]
    size: int = 128  # side of the image, pixels


@dataclass(frozen=True)
class MethodRow:
    """One task by one method.

    Attributes:
        lora_steps: 0 for no LoRA, as for the baselines.
        made_by: digest of model, settings and versions.
        error: why the edit failed, in one line; empty where it did not. Then nothing was measured.
        completion: share of the requested displacement, at most 1; 0 where the fit failed.
        distance: mean distance of the points from their targets by the evaluator, pixels;
            ``tracker_distance``: by the method's own tracker.
        reached: all points are within ``DragSettings.stop_distance`` of their targets by the
            evaluator; ``tracker_reached``: by the tracker.
        inside_psnr: against the ground truth inside the mask, dB; ``outside_psnr``: against the
            source outside it.
        fit_failed: the keypoint evaluator found no critter in the image.
        passes: forward passes of the network, those of the LoRA's training included.
        seconds: wall time by phase: lora, prepare (inversion), drag, render.
        peak_memory: at most, over what was held before the edit, bytes: what torch allocated on
            a GPU, or all of the process on Linux; ``None`` where the system does not say.
    """

    model: str
    method: str
    lora_steps: int
    kind: str
    seed: int
    made_by: str
    error: str = ""
    completion: float | None = None
    distance: float | None = None
    tracker_distance: float | None = None
    reached: bool | None = None
    tracker_reached: bool | None = None
    inside_psnr: float | None = None
    outside_psnr: float | None = None
    fit_failed: bool | None = None
    steps: int = 0
    ended: str = ""
    passes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int | None = None


def settings_of(model: Backbone, method: str, lora_steps: int | None = None) -> Settings:
    """Return the settings of a method on a model: the model's own for its own method.

    For another one they are its authors', with what belongs to the network from the model's.

    Raises:
        ValueError: there is no such method, or it does not fit the model.
    """
    method_named(method)
    settings = model.recommended
    if method in METHOD_SETTINGS:
        settings = with_method(settings, method)
    else:
        settings = replace(settings, drag=replace(settings.drag, method=method))
    if lora_steps is not None:
        settings = replace(settings, lora=replace(settings.lora, steps=lora_steps))
    return model.check(settings)


def make_jobs(
    rows: RowFile,
    n: int,
    *,
    methods: Sequence[str] | None = None,
    models: Sequence[str] = ("critters",),
    lora_steps: Sequence[int] = (0, 80),
    seed: int = 960_000,
    size: int = 128,
) -> list[Job]:
    """Return the same ``n`` tasks for every method, without those whose rows are there.

    Args:
        methods: names of METHODS; ``None``: all.
        seed: seed of the first task.

    Raises:
        ValueError: no task; a method that there is not, or that does not fit a model; rows that
            were made by other settings.
    """
    if n < 1:
        raise ValueError(f"n must be 1 task or more, got {n}")
    groups = []
    for name in models:
        model = shared_model(name)
        made_by = {"weights": model.fingerprint, "versions": versions(), "size": size}
        plainly = tuple(Variant(b, None, digest(made_by)) for b in BASELINES)
        groups.append((name, 0, plainly))
        for count in lora_steps:
            chosen = [(m, settings_of(model, m, count)) for m in methods or list(METHODS)]
            groups.append((name, count, tuple(
                Variant(method, settings, digest({**made_by, "settings": settings.to_dict()}))
                for method, settings in chosen
            )))  # fmt: skip
    jobs = []
    for name, count, variants in groups:  # one model after the other: a worker holds few
        for number in range(n):
            kind, own = TASK_KINDS[number % len(TASK_KINDS)], seed + number
            left = tuple(
                one for one in variants
                if not rows.has((name, one.method, count, kind, own), one.made_by)
            )  # fmt: skip
            if left:
                jobs.append(Job(kind, own, name, count, left, size))
    return jobs


def compare(
    jobs: Sequence[Job], executor: Executor | None = None
) -> Generator[list[MethodRow], None, None]:
    """Run jobs here or by an executor; yield the rows of each as soon as it is done."""
    for outcome in completed(run_job, jobs, executor):
        if outcome.result is not None:
            yield outcome.result
        else:
            yield [_failed(outcome.task, one, outcome.error) for one in outcome.task.variants]


def run_job(job: Job) -> list[MethodRow]:
    """Do and score one task by each of the job's methods, on one session."""
    task = drag_task(job.kind, job.seed, job.size)
    model = shared_model(job.model)
    session = DragSession(model)
    session.set_image(to_image(task.source), task.instructions.prompt)
    lora: dict[str, Any] = {}
    rows = []
    for variant in job.variants:
        try:
            if variant.settings is None:
                rows.append(_baseline(job, variant, task, model))
                continue
            meter = Meter(model.device)
            session.settings = variant.settings
            if not lora:
                before = passes()
                with meter.lap("lora"):
                    session.train_lora()
                lap = meter.laps["lora"]
                lora = {"passes": passes() - before, "seconds": lap.seconds, "peak": lap.peak}
            with meter.lap("edit"):
                made = edit(task, session)
            peaks = [lora["peak"], meter.laps["edit"].peak]
            image = to_tensor(made.image)
            scored, points = score(task, image)
            limit = _stop_pixels(session)
            targets = task.instructions.targets_xy
            tracked = np.linalg.norm(made.handles_xy - targets, axis=1)
            found = np.linalg.norm(points - targets, axis=1)
            rows.append(
                replace(
                    _measured(job, variant, scored),
                    reached=bool((found <= limit).all()) and not scored.fit_failed,
                    tracker_distance=float(tracked.mean()),
                    tracker_reached=bool((tracked <= limit).all()),
                    steps=made.steps,
                    ended=made.ended,
                    passes=made.passes + lora["passes"],
                    seconds={"lora": lora["seconds"], **made.seconds},
                    peak_memory=None if None in peaks else max(peaks),
                )
            )
        except Exception as error:
            rows.append(_failed(job, variant, describe(error)))
    return rows


def _baseline(job: Job, variant: Variant, task: DragTask, model: Backbone) -> MethodRow:
    if variant.method == "nothing":
        return _measured(job, variant, do_nothing(task))
    if variant.method == "pixel warp":
        image = warp(task.source, task.instructions)
    else:
        image = round_trip(model, task.target)
    return _measured(job, variant, score(task, image)[0])


def _measured(job: Job, variant: Variant, scored: Score) -> MethodRow:
    return replace(
        _failed(job, variant, ""),
        completion=scored.completion,
        distance=scored.error,
        inside_psnr=scored.inside_psnr,
        outside_psnr=scored.outside_psnr,
        fit_failed=scored.fit_failed,
    )


def _failed(job: Job, variant: Variant, error: str) -> MethodRow:
    return MethodRow(
        job.model, variant.method, job.lora_steps, job.kind, job.seed, variant.made_by, error
    )


def _stop_pixels(session: DragSession) -> float:
    """The distance at which a handle has reached its target, image pixels."""
    image, drag = session.request.image, session.settings.drag
    width, height = image.fitted_size
    rows, _ = drag.grid(height, width)
    return drag.stop_distance * image.size[1] / rows


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a summary of each model, LoRA and method, in the order of their rows.

    Each has ``model``, ``method``, ``lora_steps``, ``n``, ``errors`` (not in the averages);
    ``completion`` with its 95 % interval; ``gain``: the mean difference of the completion from
    REFERENCE's on the same tasks, with its ``p``, as ``add_gains`` has them; ``fit_failures``,
    ``reached``, ``tracker_reached`` and ``confirmed``, what of the last the evaluator confirms:
    counts with exact intervals; mean ``inside_psnr``, ``outside_psnr``, ``passes``, ``seconds``;
    the largest ``peak_memory``. ``None`` stands where nothing was measured.
    """
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], Row]] = {}
    for row in rows:
        group = groups.setdefault((row["model"], row["lora_steps"], row["method"]), {})
        group[row["kind"], row["seed"]] = row
    found, gains = [], []
    for (model, count, method), group in groups.items():
        fine = {task: row for task, row in group.items() if not row["error"]}
        summary = {"model": model, "method": method, "lora_steps": count, **_summary(fine)}
        summary["n"], summary["errors"] = len(group), len(group) - len(fine)
        reference = groups.get((model, count, REFERENCE), {})
        if method not in (REFERENCE, *BASELINES):
            gains.append((summary, differences(fine, reference, "completion")))
        found.append(summary)
    add_gains(gains)
    return found


def _summary(fine: dict[tuple[Any, ...], Row]) -> dict[str, Any]:
    rows = list(fine.values())

    def mean(values: list[Any]) -> float | None:
        there = [value for value in values if value is not None]
        return float(np.mean(there)) if there else None

    def count(values: list[Any]) -> dict[str, Any] | None:
        there = [bool(value) for value in values if value is not None]
        if not there:
            return None
        low, high = exact_interval(sum(there), len(there))
        return {"count": sum(there), "n": len(there), "low": low, "high": high}

    peaks = [row["peak_memory"] for row in rows if row["peak_memory"] is not None]
    return {
        "completion": bootstrap([row["completion"] for row in rows]) if rows else None,
        "gain": None,
        "inside_psnr": mean([row["inside_psnr"] for row in rows]),
        "outside_psnr": mean([row["outside_psnr"] for row in rows]),
        "fit_failures": count([row["fit_failed"] for row in rows]),
        "reached": count([row["reached"] for row in rows]),
        "tracker_reached": count([row["tracker_reached"] for row in rows]),
        "confirmed": count([row["reached"] for row in rows if row["tracker_reached"]]),
        "passes": mean([row["passes"] for row in rows]),
        "seconds": mean([sum(row["seconds"].values()) for row in rows]),
        "peak_memory": max(peaks, default=None),
    }
