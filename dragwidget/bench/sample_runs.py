"""Run drag methods on samples of images: DragBench's, or pairs with ground truth.

What needs no ground truth is measured for all: mean distance by features, dragging accuracy index,
drag back, what changed outside the mask. Beside the methods: doing nothing, and the image warped
alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dragwidget.bench.matching import Matcher, match_points
from dragwidget.bench.memory import Meter
from dragwidget.bench.methods import BASELINES, Variant, settings_of
from dragwidget.bench.metrics import dragging_accuracy, psnr
from dragwidget.bench.rows import Row, RowFile, digest, versions
from dragwidget.bench.scenes import to_image, to_tensor
from dragwidget.bench.statistics import add_gains, bootstrap, differences
from dragwidget.bench.warp import warp
from dragwidget.data.image_reading import ReadImage, flattened, read_image
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.samples import Sample, SampleFiles
from dragwidget.data.settings import Settings
from dragwidget.demo.tasks import sample_tasks
from dragwidget.session.executors import completed, describe
from dragwidget.session.many import EditResult, run_edit
from dragwidget.session.session import DragSession
from dragwidget.session.workers import shared_model
from dragwidget.storage.atomic import write_whole
from dragwidget.storage.image_files import write_image

BESIDE = BASELINES[:2]
RADII = (1, 5, 10, 20)  # of the dragging accuracy index, pixels
KEY = ("sample", "method")
METRICS = (
    "mean_distance", "tracker_distance", *(f"dai_{radius}" for radius in RADII), "drag_back",
    "outside_psnr", "inside_psnr", "lpips", "passes",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class SampleJob:
    """One sample for some variants, as plain data that another machine can be handed.

    Attributes:
        sample: ``None`` where it cannot be read; ``error`` says why.
        features: the model that points are matched by, and which of its features.
        drag_back: drag each edited image back, too.
    """

    name: str
    sample: Sample | None
    model: str
    variants: tuple[Variant, ...]
    features: tuple[str, Matcher]
    drag_back: bool = True
    error: str = ""


@dataclass(frozen=True)
class SampleRow:
    """One sample by one method.

    Attributes:
        made_by: digest of model, settings, features and versions.
        error: why it failed, in one line; empty where it did not. Then nothing was measured.
        mean_distance: mean distance of the handles from their targets, found by features, image
            pixels.
        tracker_distance: the same by the method's own tracker.
        dai_1: ``dragging_accuracy`` with radius 1, and so on.
        drag_back: PSNR inside the mask against the source after the edited image was dragged back,
            dB. Doing nothing is perfect in it.
        outside_psnr: against the source outside the mask, dB; ``None`` without a mask.
        inside_psnr: against the ground truth inside the mask, dB; ``None`` without ground truth.
        lpips: LPIPS to the source (AlexNet), 0 for the same; ``None`` where it is not installed.
        passes: forward passes of the network for the edit; ``seconds``: by phase;
            ``peak_memory``: as in ``MethodRow``.
    """

    sample: str
    method: str
    made_by: str
    error: str = ""
    mean_distance: float | None = None
    tracker_distance: float | None = None
    dai_1: float | None = None
    dai_5: float | None = None
    dai_10: float | None = None
    dai_20: float | None = None
    drag_back: float | None = None
    outside_psnr: float | None = None
    inside_psnr: float | None = None
    lpips: float | None = None
    steps: int = 0
    ended: str = ""
    passes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int | None = None


def make_jobs(
    rows: RowFile,
    samples: Sequence[SampleFiles],
    methods: Sequence[str],
    *,
    model: str = "critters",
    features: str | None = None,
    lora_steps: int | None = None,
    drag_back: bool = True,
) -> list[tuple[SampleFiles, SampleJob]]:
    """Return a job for each sample that has rows to be made, nothing of it read yet.

    Args:
        features: a model for ``Matcher.dift``; ``None``: the editing model's own features.
        lora_steps: ``None``: what is recommended for each method.

    Raises:
        ValueError: a method that there is not, or that does not fit the model; rows that were made
            by other settings.
    """
    editing = shared_model(model)
    if features is None:
        matched = model, Matcher.of_editing(editing)
    else:
        matched = features, Matcher.dift()
        blocks = shared_model(features).feature_block_count
        if blocks <= max(matched[1].blocks):
            raise ValueError(f"{features} has {blocks} feature blocks, and DIFT takes the third")
    made_by = {
        "weights": editing.fingerprint,
        "features": [shared_model(matched[0]).fingerprint, asdict(matched[1])],
        "drag_back": drag_back,
        "versions": versions(),
    }
    chosen = [(name, None) for name in BESIDE] + [
        (name, settings_of(editing, name, lora_steps)) for name in methods
    ]
    variants = [
        Variant(name, settings, digest({**made_by, "settings": settings and settings.to_dict()}))
        for name, settings in chosen
    ]
    jobs = []
    for files in samples:
        left = tuple(one for one in variants if not rows.has((files.name, one.method), one.made_by))
        if left:
            jobs.append((files, SampleJob(files.name, None, model, left, matched, drag_back)))
    return jobs


def run_samples(
    jobs: Sequence[tuple[SampleFiles, SampleJob]], executor: Executor | None = None
) -> Generator[list[SampleRow], None, None]:
    """Run jobs here or by an executor; yield the rows of each sample as soon as it is done.

    Samples are read here, as workers get free: a worker may be on another machine.
    """
    for outcome in completed(run_job, (_read(*job) for job in jobs), executor):
        if outcome.result is not None:
            yield outcome.result
        else:
            job = outcome.task
            yield [_failed(job, one, job.error or outcome.error) for one in job.variants]


def _read(files: SampleFiles, job: SampleJob) -> SampleJob:
    try:
        return replace(job, sample=files.read())
    except (OSError, ValueError) as error:
        return replace(job, error=describe(error))


def _failed(job: SampleJob, variant: Variant, error: str) -> SampleRow:
    return SampleRow(job.name, variant.method, variant.made_by, error)


def run_job(job: SampleJob) -> list[SampleRow]:
    """Do and measure one sample by each of the job's methods, which share nothing."""
    if job.sample is None:
        raise ValueError(job.error)
    rows = []
    for variant in job.variants:
        try:
            rows.append(_run(job, job.sample, variant))
        except Exception as error:
            rows.append(_failed(job, variant, describe(error)))
    return rows


def _run(job: SampleJob, sample: Sample, variant: Variant) -> SampleRow:
    row = _failed(job, variant, "")
    drawn = sample.instructions
    source = _tensor(sample.image)
    back = drawn.with_pairs([(pair.target, pair.handle) for pair in drawn.pairs])
    if variant.settings is None:
        moved = variant.method != BESIDE[0]
        edited = _rounded(warp(source, drawn)) if moved else source
        returned = _rounded(warp(edited, back)) if moved else source
    else:
        meter = Meter(shared_model(job.model).device)
        with meter.lap("edit"):
            made = _edit(job.model, variant.settings, sample.image, drawn)
        edited = to_tensor(flattened(made.image))
        far = np.linalg.norm(made.handles_xy - drawn.targets_xy, axis=1)
        row = replace(
            row,
            tracker_distance=float(far.mean()),
            steps=made.steps,
            ended=made.ended,
            passes=made.passes,
            seconds=made.seconds,
            peak_memory=meter.laps["edit"].peak,
        )
        if job.drag_back:
            again = _edit(job.model, variant.settings, _read_image(edited), back)
            returned = to_tensor(flattened(again.image))
    name, matcher = job.features
    found = match_points(
        shared_model(name), matcher, sample.image, _read_image(edited), drawn.handles_xy,
        drawn.prompt,
    )  # fmt: skip
    inside = np.ones(source.shape[1:], dtype=bool) if drawn.mask is None else drawn.mask
    dai: dict[str, Any] = {
        f"dai_{radius}": dragging_accuracy(
            source, edited, drawn.handles_xy, drawn.targets_xy, radius
        )
        for radius in RADII
    }
    truth = None if sample.truth is None else _tensor(sample.truth)
    return replace(
        row,
        mean_distance=float(np.linalg.norm(found - drawn.targets_xy, axis=1).mean()),
        drag_back=psnr(returned, source, inside) if job.drag_back else None,
        outside_psnr=psnr(edited, source, ~inside),
        inside_psnr=None if truth is None else psnr(edited, truth, inside),
        lpips=_lpips(source, edited),
        **dai,
    )


def _edit(model: str, settings: Settings, image: ReadImage, drawn: DragInstructions) -> EditResult:
    session = DragSession(shared_model(model))
    session.settings = settings
    session.set_image(image, drawn.prompt)
    session.instructions = drawn
    return run_edit(session)


def _tensor(image: ReadImage) -> Tensor:
    return to_tensor(Image.fromarray(image.pixels))


def _read_image(image: Tensor) -> ReadImage:
    return read_image(to_image(image))


def _rounded(image: Tensor) -> Tensor:
    """Return an image as a file of it holds it."""
    return to_tensor(to_image(image))


def why_no_lpips() -> str:
    """Return why LPIPS is not measured here; empty where it is."""
    if find_spec("lpips") is None:
        return "LPIPS is not measured: pip install lpips"
    try:
        _network()
    except Exception as error:  # it fetches weights, or does not fit this torch
        return f"LPIPS is not measured: {describe(error)}"
    return ""


@lru_cache(maxsize=1)
def _network() -> Any:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False).eval()


def _lpips(source: Tensor, edited: Tensor) -> float | None:
    if why_no_lpips():
        return None
    with torch.no_grad():
        return float(_network()(2 * source[None] - 1, 2 * edited[None] - 1))


def summarise(rows: Sequence[Row], reference: str) -> list[dict[str, Any]]:
    """Return a summary of each method, in the order of their rows.

    Each has ``method``, ``n``, ``errors`` (not in the averages); METRICS, each as a mean with its
    95 % interval, or ``None`` where nothing was measured; ``gain``: the mean difference of the mean
    distance from the reference's on the same samples, as ``bench.methods.summarise`` has it.
    """
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(row["method"], {})[row["sample"]] = row
    found, gains = [], []
    for method, group in groups.items():
        fine = {name: row for name, row in group.items() if not row["error"]}
        summary: dict[str, Any] = {"method": method, "n": len(group), "gain": None}
        summary["errors"] = len(group) - len(fine)
        for metric in METRICS:
            values = [row[metric] for row in fine.values() if row[metric] is not None]
            summary[metric] = bootstrap(values) if values else None
        times = [sum(row["seconds"].values()) for row in fine.values()]
        summary["seconds"] = float(np.mean(times)) if times else None
        other = groups.get(reference, {})
        if method not in (reference, *BESIDE):
            gains.append((summary, differences(fine, other, "mean_distance")))
        found.append(summary)
    add_gains(gains)
    return found


def draw_samples(folder: Path, n: int, seed: int = 970_000, size: int = 128) -> None:
    """Write tasks of the embedded model's domain in DragBench's form, those that are not there.

    Args:
        n: how many, kinds in turn; ``seed``: of the first; ``size``: side of the images, pixels.
    """
    for task in sample_tasks(seed, n, size=size):
        place = folder / task.kind / f"{task.kind}_{task.seed}_{size}"
        if (place / "meta_data.pkl").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        drawn = task.instructions
        points = [list(point) for pair in drawn.pairs for point in (pair.handle, pair.target)]
        mask = None if drawn.mask is None else drawn.mask.astype(np.uint8)
        fields = {"prompt": drawn.prompt, "points": points, "mask": mask}
        write_image(to_image(task.source), place / "original_image.png")
        write_whole(place / "meta_data.pkl", pickle.dumps(fields, protocol=4))
