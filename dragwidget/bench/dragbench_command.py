"""``dragwidget bench dragbench``: run drag methods on samples of DragBench's form."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from dragwidget.bench import sample_runs
from dragwidget.bench.methods import REFERENCE
from dragwidget.bench.options import add_executor, add_methods, add_out, fill
from dragwidget.bench.report import csv_table, interval, markdown, shown
from dragwidget.bench.rows import row_file
from dragwidget.bench.sample_runs import BESIDE
from dragwidget.data.bad_input import bad_input, positive, user_file
from dragwidget.data.samples import find_samples
from dragwidget.drag.methods import METHODS
from dragwidget.storage.atomic import write_whole

ROWS = "rows.jsonl"
# Of the table: a metric of the summary, what it is called there, how it is written.
COLUMNS = (
    ("mean_distance", "mean distance, px", ".1f"),
    ("gain", f"over {REFERENCE}'s", "+.1f"),
    ("tracker_distance", "by the tracker, px", ".1f"),
    *((f"dai_{radius}", f"DAI {radius}", ".3f") for radius in sample_runs.RADII),
    ("drag_back", "drag back, dB", ".1f"),
    ("outside_psnr", "outside, dB", ".1f"),
    ("inside_psnr", "to the truth, dB", ".1f"),
    ("lpips", "LPIPS", ".3f"),
    ("passes", "passes", ".0f"),
)
NOTE = """\
Means over samples, with intervals of 95 % by the bootstrap. Mean distance: of the handles from
their targets, found by features; drag back: PSNR inside the mask after the edit was dragged back.
Doing nothing is perfect in drag back, outside and LPIPS: read these beside the mean distance. p: a
permutation test of the sign of the difference, corrected for all methods of the table (Holm)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=user_file,
        metavar="FOLDER",
        help="samples of DragBench's form, or pairs with ground truth, at any depth",
    )
    add_methods(parser)
    parser.add_argument("--model", default="critters", help="as for `edit`")
    parser.add_argument(
        "--features",
        metavar="MODEL",
        help="the model of DIFT that the mean distance is measured by, Stable Diffusion 2.1 on "
        "DragBench; default: the editing model's own features",
    )
    parser.add_argument(
        "--lora-steps", type=int, metavar="N", help="0 for no LoRA; default: as recommended"
    )
    parser.add_argument(
        "--no-drag-back", action="store_true", help="do not drag back, which takes half of the time"
    )
    parser.add_argument(
        "--draw",
        type=positive,
        metavar="N",
        help="first write N samples of the embedded model's domain into FOLDER, to try this on",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N samples")
    add_executor(parser)
    add_out(parser, "folder where rows and tables are written; a rerun continues from the rows")


def run(args: argparse.Namespace) -> int:
    """Run the methods on every sample; print a table, and write it with its rows."""
    methods = args.methods or list(METHODS)
    with bad_input():
        if args.draw:
            sample_runs.draw_samples(args.folder, args.draw)
        samples = find_samples(args.folder)[: args.limit]
    if why := sample_runs.why_no_lpips():
        sys.stderr.write(f"dragwidget: {why}\n")
    with ExitStack() as stack:
        with bad_input():
            rows = stack.enter_context(row_file(args.out and args.out / ROWS, sample_runs.KEY))
            jobs = sample_runs.make_jobs(
                rows,
                samples,
                methods,
                model=args.model,
                features=args.features,
                lora_steps=args.lora_steps,
                drag_back=not args.no_drag_back,
            )
        total = len(samples) * (len(BESIDE) + len(methods))
        left = sum(len(job.variants) for _, job in jobs)
        fill(rows, lambda pool: sample_runs.run_samples(jobs, pool), args.executor, total, left)
    order = [*BESIDE, REFERENCE]
    made = sorted(
        rows.rows.values(),
        key=lambda row: (
            order.index(row["method"]) if row["method"] in order else len(order),
            row["method"],
            row["sample"],
        ),
    )
    summary = sample_runs.summarise(made, REFERENCE)
    text = table(summary) + "\n"
    sys.stdout.write(text)
    if args.out:
        write_whole(args.out / "table.md", text.encode())
        write_whole(args.out / "table.csv", csv_table(summary).encode())
    return 0


def table(summary: Sequence[dict[str, Any]]) -> str:
    """Return the summary in Markdown, without columns of what was not measured."""
    columns = [column for column in COLUMNS if any(one[column[0]] for one in summary)]
    head = ["method", "n", *(name for _, name, _ in columns), "p (Holm)", "s", "errors"]
    lines = [
        [
            one["method"],
            str(one["n"]),
            *(interval(one[metric], form) for metric, _, form in columns),
            shown(one["gain"] and one["gain"]["p"], ".2g"),
            shown(one["seconds"], ".1f"),
            str(one["errors"]),
        ]
        for one in summary
    ]
    return f"{markdown(head, lines)}\n\n{NOTE}"
