"""``dragwidget bench scenes``: drag tasks of the domain, scored against exact ground truth."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from dragwidget.bench.options import add_executor
from dragwidget.bench.scenes import Job, Row, Score, drag_scenes, summarise, to_image
from dragwidget.bench.versions import versions
from dragwidget.data.bad_input import bad_input, positive, user_file
from dragwidget.data.image_writing import output_format
from dragwidget.data.paths import user_path
from dragwidget.data.settings import Settings
from dragwidget.demo.tasks import TASK_KINDS, drag_task
from dragwidget.diffusion.loading import load_model
from dragwidget.session.executors import opened
from dragwidget.storage.atomic import check_writable, write_whole
from dragwidget.storage.image_files import write_image

GRID_COLUMNS = ("source", "autoencoder", "edit", "truth")
GRID_ROWS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=950_000, help="of the first task")
    parser.add_argument("--n", type=positive, default=24, help="how many tasks")
    parser.add_argument("--kinds", nargs="+", choices=TASK_KINDS, help="by default all, in turn")
    parser.add_argument("--model", default="critters", help="as for `edit`")
    parser.add_argument(
        "--settings", metavar="JSON", help="a file, or JSON itself, over what the model recommends"
    )
    parser.add_argument("--paper", action="store_true", help="start from the paper's settings")
    parser.add_argument("--lora-steps", type=int, help="0 for no LoRA")
    add_executor(parser)
    parser.add_argument(
        "--json", type=user_file, metavar="OUT", help="results; a rerun goes on from it"
    )
    parser.add_argument(
        "--grid", type=user_file, metavar="OUT.png", help="images of the first tasks"
    )


def run(args: argparse.Namespace) -> int:
    with bad_input():
        for path in filter(None, (args.json, args.grid)):
            check_writable(path)
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
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        rows = _finished(args.json, made_by)
    open_jobs = [job for job in jobs if (job.kind, job.seed) not in rows]
    images: dict[int, Tensor] = {}
    progress = tqdm(total=len(jobs), initial=len(rows), disable=None)
    with opened(args.executor) as executor, progress as bar:
        for row, image in drag_scenes(open_jobs, executor):
            rows[row.kind, row.seed] = row
            if len(images) < GRID_ROWS:
                images[row.seed] = image
            bar.update()
            bar.set_postfix(share=f"{_share(rows):.2f}")
            if args.json:
                _write(args.json, made_by, rows)
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


def _share(rows: dict[tuple[str, int], Row]) -> float:
    return sum(row.edited.completion for row in rows.values()) / len(rows)


def _write(path: Path, made_by: dict[str, Any], rows: dict[tuple[str, int], Row]) -> None:
    text = json.dumps({**made_by, **summarise(list(rows.values()))}, indent=1)
    write_whole(path, text.encode())


def _finished(path: Path | None, made_by: dict[str, Any]) -> dict[tuple[str, int], Row]:
    """Rows of an earlier run with the same settings; of another one: none, and it is kept."""
    if path is None or not path.is_file():
        return {}
    earlier = json.loads(path.read_text())
    if any(earlier.get(name) != value for name, value in json.loads(json.dumps(made_by)).items()):
        raise ValueError(
            f"{path} holds results of other settings or versions: name another file, or move it"
        )
    return {(row["kind"], row["seed"]): _row(row) for row in earlier["rows"]}


def _row(data: dict[str, Any]) -> Row:
    scores = {name: Score(**data[name]) for name in ("edited", "nothing", "warped", "autoencoder")}
    return Row(**{**data, **scores})
