"""``dragwidget bench validation``: validate the keypoint evaluator of ``bench scenes``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from dragwidget.bench.dev import validation
from dragwidget.bench.options import add_executor, add_json
from dragwidget.bench.rows import versions
from dragwidget.data.bad_input import positive
from dragwidget.session.executors import opened
from dragwidget.storage.atomic import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=950_000, help="seed of the first task")
    parser.add_argument("--n", type=positive, default=18, help="number of tasks")
    parser.add_argument(
        "--model", default="critters", help="model whose autoencoder degrades the images"
    )
    add_executor(parser)
    add_json(parser, "write the results of every image here")


def run(args: argparse.Namespace) -> int:
    """Validate the evaluator on images as drawn and after the autoencoder; print a table."""
    models = {"drawn": None, "round trip": args.model}
    results: dict[str, list[validation.ValidationResult]] = {name: [] for name in models}
    progress = tqdm(total=len(models) * len(validation.IMAGES) * args.n, disable=None)
    with opened(args.executor) as executor, progress as bar:
        for name, model in models.items():
            for result in validation.validate(
                validation.make_jobs(args.seed, args.n, model), executor
            ):
                results[name].append(result)
                bar.update()
    sys.stdout.write(table(results) + "\n")
    plain = {name: [asdict(result) for result in some] for name, some in results.items()}
    write_json(args.json, {"versions": versions(), "results": plain})
    return 0


def table(results: dict[str, list[validation.ValidationResult]]) -> str:
    """Return a line for each corruption and each image, then every result out of tolerance."""
    lines = [
        f"{'images':<12}{'drag':<13}{'held':>9}{'compl.':>8}   "
        f"{'point error, px':<22}   completion error",
        f"{'':<45}{'median, 95 %, max':<22}   median, 95 %, max",
    ]
    for name, some in results.items():
        for image in validation.IMAGES:
            lines.append(_line(name, image, [one for one in some if one.image == image]))
    lines.append(
        f"held: on the whole drag, no dragged point more than {validation.LARGEST_ERROR} px off; "
        f"else, completion within {validation.LARGEST_GAP};\nand the fit did not fail. Not held:"
    )
    lines += [
        f"  {name}, {one.image}: {one.kind} {one.seed}, {one.error:.2f} px, "
        f"completion {one.completion:.3f}, true {one.true_completion:.3f}"
        f"{', fit failed' if one.failed else ''}"
        for name, some in results.items()
        for one in some
        if not one.held
    ] or ["  none"]
    return "\n".join(lines)


def _line(name: str, image: str, results: Sequence[validation.ValidationResult]) -> str:
    held = f"{sum(result.held for result in results)}/{len(results)}"
    share = np.mean([result.completion for result in results])
    errors = _spread([result.error for result in results], 2)
    gaps = _spread([result.gap for result in results], 3)
    return f"{name:<12}{image:<13}{held:>9}{share:>8.3f}   {errors:<22}   {gaps}"


def _spread(values: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in np.percentile(values, [50, 95, 100]))
