"""``dragwidget bench ablations``: measure each setting, one at a time, against ground truth."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dragwidget.bench.ablations import (
    BASES,
    SWEEPS,
    Result,
    base_settings,
    make_jobs,
    make_points,
    summarise,
    sweep,
    to_plain,
)
from dragwidget.bench.options import add_executor
from dragwidget.bench.versions import versions
from dragwidget.data.bad_input import bad_input, positive, user_file
from dragwidget.data.settings import Settings
from dragwidget.diffusion.loading import load_model
from dragwidget.session.executors import opened
from dragwidget.storage.atomic import check_writable, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", choices=BASES, default="paper", help="what to sweep around")
    parser.add_argument("--only", metavar="SWEEP,..", help=f"by default all: {','.join(SWEEPS)}")
    parser.add_argument("--n", type=positive, default=24, help="the same tasks at every point")
    parser.add_argument("--seed", type=int, default=950_000, help="of the first task")
    parser.add_argument("--model", default="critters", help="as for `edit`")
    add_executor(parser)
    parser.add_argument(
        "--json", type=user_file, metavar="OUT", help="results; a rerun goes on from it"
    )


def run(args: argparse.Namespace) -> int:
    with bad_input():
        if args.json:
            check_writable(args.json)
        model = load_model(args.model)
        base = base_settings(args.settings, model)
        points = make_points(base, model, args.only.split(",") if args.only else None)
        made_by = {
            "model": args.model,
            "weights": model.fingerprint,
            "base": args.settings,
            "settings": base.to_dict(),
            "versions": versions(),
        }
        results = _finished(args.json, made_by)
    done = {(result.point, *result.task) for result in results}
    jobs = make_jobs(
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
        for found in sweep(jobs, executor):
            results += found
            bar.update(len(found))
            if args.json:
                _write(args.json, made_by, base, model, results)
    sys.stdout.write(table(summarise(points, results, base)) + "\n")
    return 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the summary for a terminal."""
    head = ("completion", "gain", "error, px", "outside", "inside", "failed", "steps")
    lines = [f"{'':<24}{'n':>4}  {head[0]:<20}{head[1]:<21}{head[2]:<20}" + _columns(head[3:])]
    for row in rows:
        name = f"{SWEEPS[row['sweep']].field} {row['value']}"
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


def _write(
    path: Path, made_by: dict[str, Any], base: Settings, model: Any, results: Sequence[Result]
) -> None:
    """All at once, one line for each point and each result."""
    names = {result.point for result in results}
    known = [point for point in make_points(base, model) if point.name in names]
    parts = {
        **{name: json.dumps(value) for name, value in made_by.items()},
        "machine": json.dumps(f"{platform.machine()}, {os.cpu_count()} cores"),
        "points": _lines(summarise(known, results, base)),
        "results": _lines([to_plain(result) for result in results]),
    }
    text = ",\n".join(f"{json.dumps(name)}: {value}" for name, value in parts.items())
    write_whole(path, f"{{\n{text}\n}}\n".encode())


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(_short(row)) for row in rows) + "\n]"


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _finished(path: Path | None, made_by: dict[str, Any]) -> list[Result]:
    """Results of an earlier run on the same base and weights.

    Raises:
        ValueError: the file is of another base, or of other weights or versions; it is kept.
    """
    if path is None or not path.is_file():
        return []
    earlier = json.loads(path.read_text())
    for name, value in json.loads(json.dumps(made_by)).items():
        if earlier.get(name) != value:
            raise ValueError(
                f"{path} holds results of other {name} than this run would make: name another "
                "file, or move it"
            )
    return [Result(**row) for row in earlier["results"]]
