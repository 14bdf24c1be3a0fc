"""``dragwidget bench ablations``: measure each setting, one at a time, against ground truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from dragwidget.bench import ablations
from dragwidget.bench.options import add_executor, add_json
from dragwidget.bench.report import earlier
from dragwidget.bench.rows import machine, versions
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.diffusion.loading import load_model
from dragwidget.session.executors import opened
from dragwidget.storage.atomic import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", choices=ablations.BASES, default="paper", help="settings to start from"
    )
    parser.add_argument(
        "--only", metavar="SWEEP,..", help=f"by default all: {','.join(ablations.SWEEPS)}"
    )
    parser.add_argument("--n", type=positive, default=24, help="the same tasks at every point")
    parser.add_argument("--seed", type=int, default=950_000, help="seed of the first task")
    parser.add_argument("--model", default="critters", help="as for `edit`")
    add_executor(parser)
    add_json(parser, "results; a rerun continues from it")


def run(args: argparse.Namespace) -> int:
    with bad_input():
        model = load_model(args.model)
        base = ablations.base_settings(args.settings, model)
        points = ablations.make_points(base, model, args.only.split(",") if args.only else None)
        made_by = {
            "model": args.model,
            "weights": model.fingerprint,
            "base": args.settings,
            "settings": base.to_dict(),
            "versions": versions(),
        }
        results = [
            ablations.Result(**row) for row in earlier(args.json, made_by).get("results", [])
        ]
    done = {(result.point, *result.task) for result in results}
    jobs = ablations.make_jobs(
        points,
        args.n,
        seed=args.seed,
        model=args.model,
        done=lambda *one: one in done,
    )
    left = sum(len(job.points) for job in jobs)
    total = args.n * len(points)
    progress = tqdm(total=total, initial=total - left, disable=None)
    with opened(args.executor) as executor, progress as bar:
        for found in ablations.sweep(jobs, executor):
            results += found
            bar.update(len(found))
            names = {result.point for result in results}
            known = [point for point in ablations.make_points(base, model) if point.name in names]
            rows = [_short(row) for row in ablations.summarise(known, results, base)]
            about = {
                "machine": machine(),
                "points": rows,
                "results": list(map(ablations.to_plain, results)),
            }
            write_json(args.json, made_by | about)
    sys.stdout.write(table(ablations.summarise(points, results, base)) + "\n")
    return 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the summary for a terminal."""
    head = ("completion", "gain", "error, px", "outside", "inside", "failed", "steps")
    lines = [f"{'':<24}{'n':>4}  {head[0]:<20}{head[1]:<21}{head[2]:<20}" + _columns(head[3:])]
    for row in rows:
        name = f"{ablations.SWEEPS[row['sweep']].field} {row['value']}"
        star = "*" if row["point"] == "base" else " "
        gain = "" if row["gain"] is None else _interval(row["gain"], "+.2f")
        lines.append(
            f"{name:<23}{star}{row['n']:>4}  {_interval(row['completion'], '.2f'):<20}"
            f"{gain:<21}{_interval(row['error'], '.1f'):<20}"
            + _columns(
                (
                    f"{row['outside_psnr']:.1f}",
                    f"{row['inside_psnr']:.1f}",
                    f"{row['fit_failures']}",
                    f"{row['steps']:.0f}",
                )
            )
        )
    return "\n".join([*lines, "* the base, a point of every sweep; gain: over it, task by task"])


def _columns(words: Sequence[str]) -> str:
    return "".join(f"{word:>8}" for word in words)


def _interval(values: dict[str, float], form: str) -> str:
    return f"{values['mean']:{form}} [{values['low']:{form}}, {values['high']:{form}}]"


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
