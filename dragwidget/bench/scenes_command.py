"""``dragwidget bench scenes``: drag tasks of the domain, scored against exact ground truth."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from dragwidget.bench.options import add_executor, add_json, output_file
from dragwidget.bench.report import earlier
from dragwidget.bench.rows import machine, versions
from dragwidget.bench.scenes import Job, Row, Score, drag_scenes, summarise, to_image
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.data.image_writing import output_format
from dragwidget.data.paths import user_path
from dragwidget.data.settings import Settings
from dragwidget.demo.tasks import TASK_KINDS, drag_task
from dragwidget.diffusion.loading import load_model
from dragwidget.session.executors import opened
from dragwidget.storage.atomic import write_json
from dragwidget.storage.image_files import write_image

GRID_COLUMNS = ("source", "autoencoder", "edit", "truth")
GRID_ROWS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=950_000, help="seed of the first task")
    parser.add_argument("--n", type=positive, default=24, help="number of tasks")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=TASK_KINDS,
        metavar="KIND",
        help=f"{', '.join(TASK_KINDS)}; default: all, in turn",
    )
    parser.add_argument("--model", default="critters", help="as for `edit`")
    parser.add_argument(
        "--settings", metavar="JSON", help="a file, or JSON itself, over what the model recommends"
    )
    parser.add_argument("--paper", action="store_true", help="start from the paper's settings")
    parser.add_argument(
        "--lora-steps", type=int, metavar="N", help="LoRA training steps; 0: no LoRA"
    )
    add_executor(parser)
    add_json(parser, "results; a rerun continues from it")
    parser.add_argument(
        "--grid", type=output_file, metavar="OUT.png", help="images of the first tasks"
    )


def run(args: argparse.Namespace) -> int:
    with bad_input():
        if args.grid:
            output_format(args.grid, (1, 1))
        settings = settings_from(args)
        kinds = args.kinds or TASK_KINDS
        jobs = [
            Job(kinds[k % len(kinds)], args.seed + k, args.model, settings) for k in range(args.n)
        ]
        made_by = {
            "model": args.model,
            "weights": load_model(args.model).fingerprint,
            "settings": settings.to_dict(),
            "versions": versions(),
            "machine": machine(),
        }
        made = map(_row, earlier(args.json, made_by).get("rows", []))
        rows = {(row.kind, row.seed): row for row in made}
    open_jobs = [job for job in jobs if (job.kind, job.seed) not in rows]
    images: dict[int, Tensor] = {}
    progress = tqdm(total=len(jobs), initial=len(rows), disable=None)
    with opened(args.executor) as executor, progress as bar:
        for row, image in drag_scenes(open_jobs, executor):
            rows[row.kind, row.seed] = row
            if len(images) < GRID_ROWS:
                images[row.seed] = image
            bar.update()
            mean = sum(one.edited.completion for one in rows.values()) / len(rows)
            bar.set_postfix(share=f"{mean:.2f}")
            write_json(args.json, made_by | summarise(list(rows.values())))
    sys.stdout.write(table(summarise(list(rows.values()))) + "\n")
    if args.grid:
        write_image(grid(images, rows), args.grid)
    return 0


def settings_from(args: argparse.Namespace) -> Settings:
    """Return the paper's or the model's settings, with what the command line changes."""
    base = Settings() if args.paper else load_model(args.model).recommended
    if args.settings:
        path = user_path(args.settings)
        text = args.settings if args.settings.lstrip().startswith("{") else path.read_text()
        changes = json.loads(text)
        known = base.to_dict()
        base = Settings.from_dict(
            {stage: {**known[stage], **changes.get(stage, {})} for stage in known}
            | {stage: values for stage, values in changes.items() if stage not in known}
        )
    if args.lora_steps is not None:
        base = replace(base, lora=replace(base.lora, steps=args.lora_steps))
    return base


def table(summary: dict[str, Any]) -> str:
    """Return the summary for a terminal."""

    def share(values: dict[str, float]) -> str:
        return f"{values['mean']:5.2f}  [{values['low']:.2f}, {values['high']:.2f}]"

    lines = [f"completion              {share(summary['completion'])}  n = {summary['n']}"]
    for kind, values in summary["by_kind"].items():
        lines.append(f"  {kind:<20}  {share(values)}")
    for name, values in summary["beside"].items():
        done, inside = share(values["completion"]), values["inside_psnr"]
        lines.append(f"  beside: {name:<12}  {done}  inside {inside:.1f} dB")
    source = summary["source_psnr"]
    seconds = (f"{phase} {value:.1f}" for phase, value in summary["seconds"].items())
    lines += [
        f"inside the mask         {summary['inside_psnr']:5.1f} dB (source {source:.1f})",
        f"outside the mask        {summary['outside_psnr']:5.1f} dB",
        f"nearer than the source  {summary['beats_source']:5.2f}",
        f"fit failures            {summary['fit_failures']:5d}",
        f"tracking error          {summary['tracking_error']:5.1f} px",
        f"seconds                 {', '.join(seconds)}",
    ]
    return "\n".join(lines)


def grid(images: dict[int, Tensor], rows: dict[tuple[str, int], Row]) -> Image.Image:
    """One line a task: source with its points, autoencoder, edit, truth."""
    lines = [(row, images[row.seed]) for row in rows.values() if row.seed in images]
    side = lines[0][1].shape[-1]
    sheet = Image.new("RGB", (side * len(GRID_COLUMNS), side * len(lines)), "white")
    for line, (row, four) in enumerate(lines):
        for column, image in enumerate(four):
            tile = to_image(image)
            if column == 0:
                _draw_points(tile, row)
            sheet.paste(tile, (column * side, line * side))
    return sheet


def _draw_points(tile: Image.Image, row: Row) -> None:
    pen = ImageDraw.Draw(tile)
    for pair in drag_task(row.kind, row.seed, tile.width).instructions.pairs:
        (x, y), (u, v) = pair.handle, pair.target
        pen.line([(x, y), (u, v)], fill="white", width=1)
        pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill="red")
        pen.ellipse([u - 2, v - 2, u + 2, v + 2], outline="blue")


def _row(data: dict[str, Any]) -> Row:
    scores = {name: Score(**data[name]) for name in ("edited", "nothing", "warped", "autoencoder")}
    return Row(**{**data, **scores})
