"""``dragwidget bench methods``: compare drag methods against the ground truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dragwidget.bench import methods, report
from dragwidget.bench.methods import BASELINES, REFERENCE
from dragwidget.bench.options import add_executor, add_methods, add_out, fill
from dragwidget.bench.rows import machine, row_file, versions
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.drag.methods import METHODS
from dragwidget.session.workers import shared_model
from dragwidget.storage.atomic import write_json, write_whole

ROWS = "rows.jsonl"
HEAD = (
    "model", "method", "LoRA", "n", "completion", f"gain over {REFERENCE}", "p (Holm)",
    "inside, dB", "outside, dB", "fit failed", "reached", "by the tracker", "of those confirmed",
    "passes", "s", "MB", "errors",
)  # fmt: skip
NOTE = f"""\
Intervals are of 95 %: of means by the bootstrap, of counts exact. Gain: difference of the
completion from {REFERENCE}'s on the same tasks; p: a permutation test of its sign, corrected for
all gains of the table (Holm). Reached: all points are within the stop distance, by the evaluator.
Confirmed: what the tracker says is reached and the evaluator finds there. MB: at most, over what
was held before the edit. Errors are not in the averages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_methods(parser)
    parser.add_argument(
        "--model", nargs="+", default=["critters"], metavar="MODEL",
        help="one or more, as for `edit`; default: critters",
    )  # fmt: skip
    parser.add_argument(
        "--lora-steps", nargs="+", type=_count, default=[0, 80], metavar="N",
        help="LoRA training steps, each in turn; 0 for no LoRA; default: 0 80",
    )  # fmt: skip
    parser.add_argument("--n", type=positive, default=96, help="the same tasks for every method")
    parser.add_argument("--seed", type=int, default=960_000, help="seed of the first task")
    parser.add_argument(
        "--size", type=positive, default=128, help="side of the images, pixels; default: 128"
    )
    add_executor(parser)
    add_out(
        parser, "where rows, tables and the figure are written; a rerun continues from the rows"
    )


def _count(word: str) -> int:
    return 0 if word == "0" else positive(word)


def run(args: argparse.Namespace) -> int:
    """Compare the methods; print a table, and write it with its rows and a figure."""
    chosen = args.methods or list(METHODS)
    with ExitStack() as stack:
        with bad_input():
            rows = stack.enter_context(row_file(args.out and args.out / ROWS, methods.KEY))
            jobs = methods.make_jobs(
                rows,
                args.n,
                methods=chosen,
                models=args.model,
                lora_steps=args.lora_steps,
                seed=args.seed,
                size=args.size,
            )
        if args.out:
            write_json(args.out / "made_by.json", _made_by(args))
        each = len(BASELINES) + len(args.lora_steps) * len(chosen)
        left = sum(len(job.variants) for job in jobs)
        total = args.n * len(args.model) * each
        fill(rows, lambda pool: methods.compare(jobs, pool), args.executor, total, left)
    summary = methods.summarise(sorted(rows.rows.values(), key=_order))
    sys.stdout.write(table(summary) + "\n")
    if args.out:
        _write(args.out, summary)
    return 0


def _made_by(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were made with, for readers; rows hold a digest of it."""
    models = {name: shared_model(name) for name in args.model}
    return {
        "versions": versions(),
        "machine": machine(),
        "models": {name: model.fingerprint for name, model in models.items()},
        "settings": {
            f"{name}, {method}": methods.settings_of(model, method).to_dict()
            for name, model in models.items()
            for method in args.methods or METHODS
        },
    }


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Baselines first, then LoRA by LoRA, the reference first."""
    method = row["method"]
    place = BASELINES.index(method) if method in BASELINES else len(BASELINES)
    return row["model"], place, row["lora_steps"], method != REFERENCE, method, row["seed"]


def table(summary: Sequence[dict[str, Any]]) -> str:
    """Return the summary in Markdown, with a note on what its columns say."""
    rows = [
        (
            Path(one["model"]).name,
            one["method"],
            "" if one["method"] in BASELINES else str(one["lora_steps"]),
            str(one["n"]),
            report.interval(one["completion"]),
            report.interval(one["gain"], "+.2f"),
            report.shown(one["gain"] and one["gain"]["p"], ".2g"),
            report.shown(one["inside_psnr"], ".1f"),
            report.shown(one["outside_psnr"], ".1f"),
            report.share(one["fit_failures"]),
            report.share(one["reached"]),
            report.share(one["tracker_reached"]),
            report.share(one["confirmed"]),
            report.shown(one["passes"], ".0f"),
            report.shown(one["seconds"], ".1f"),
            report.shown(one["peak_memory"] and one["peak_memory"] / 1e6, ".0f"),
            str(one["errors"]),
        )
        for one in summary
    ]
    return f"{report.markdown(HEAD, rows)}\n\n{NOTE}"


def _write(folder: Path, summary: Sequence[dict[str, Any]]) -> None:
    write_whole(folder / "table.md", (table(summary) + "\n").encode())
    write_whole(folder / "table.csv", report.csv_table(summary).encode())
    series = {
        f"{Path(one['model']).name}, {one['method']}, LoRA {one['lora_steps']}": [
            (one["passes"], one["completion"])
        ]
        for one in summary
        if one["method"] not in BASELINES and one["completion"]
    }
    lines = {
        f"{Path(one['model']).name}, {one['method']}": one["completion"]["mean"]
        for one in summary
        if one["method"] in BASELINES and one["completion"]
    }
    axes = ("forward passes of the network, mean", "completion, mean and 95 % interval")
    if why := report.save_figure(folder / "completion.png", series, lines, axes):
        sys.stderr.write(f"dragwidget: {why}\n")
