"""``dragwidget bench speed``: how long each part of an edit takes, beside the baseline."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from tqdm import tqdm

from dragwidget.bench.dev.growth import Growth, growth, growth_cases
from dragwidget.bench.dev.networks import SIZES, make_network
from dragwidget.bench.dev.rounds import Row, run_part
from dragwidget.bench.dev.speed import PARTS, WHOLE, Task
from dragwidget.bench.options import add_json
from dragwidget.bench.rows import machine, versions
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.data.settings import InversionSettings, LoRASettings, Settings
from dragwidget.diffusion.devices import calculates_fast
from dragwidget.diffusion.loading import choose_device, choose_dtype
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.storage.atomic import write_json

# Of the drag. So small that no handle arrives: every step that is asked for is taken and timed.
LEARNING_RATE = 1e-6

GROWTH = "growth"
LOW = (torch.bfloat16, torch.float16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    every = ",".join((*PARTS, GROWTH))
    parser.add_argument("--size", choices=list(SIZES), default="critters", help="network")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ..")
    parser.add_argument(
        "--dtype",
        default="auto",
        metavar="TYPE,..",
        help="types of our weights: `step` takes all, the other parts the first; default: float32, "
        "bfloat16 where the device has instructions for it and, on CUDA, float16. The baseline "
        "is in float32; its step on CUDA also in float16, by autocast.",
    )
    parser.add_argument("--side", type=int, help="side of the image, pixels")
    parser.add_argument(
        "--parts", metavar="PART,..", help=f"parts, of {every}; default: all but {GROWTH}"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="timed rounds, after a warm-up")
    parser.add_argument("--inverted", type=int, default=35, help="inverted steps, of 50")
    parser.add_argument("--drag-steps", type=positive, default=10, help="drag steps in `edit`")
    parser.add_argument("--lora-steps", type=int, default=10, help="LoRA steps of the part edit")
    parser.add_argument("--batch", type=int, default=4, help="batch size of LoRA training")
    parser.add_argument(
        "--memory",
        choices=("normal", "low"),
        default="normal",
        help="memory option of our model, as for `load_model`",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    with bad_input():
        parts = _parts(args.parts)
        device = choose_device(args.device)
        dtypes = _dtypes(args.dtype, device)
        size = SIZES[args.size]
        side = size.side if args.side is None else args.side
        base = Settings(
            inversion=InversionSettings(strength=_share(args.inverted)),
            lora=LoRASettings(steps=args.lora_steps, batch_size=args.batch),
            drag=replace(Settings().drag, steps=args.drag_steps, learning_rate=LEARNING_RATE),
        )
        if side < size.multiple or side % size.multiple:
            raise ValueError(
                f"--side must be a multiple of {size.multiple} pixels here, got {side}"
            )
    model = make_network(size, args.size, device, whole=any(part in WHOLE for part in parts))
    mine = dtypes if "step" in parts else dtypes[:1]
    task = Task.of(model, mine, side, _for(model, base), args.memory)
    rows, grown = _measure(task, parts, args.rounds, device)
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    sys.stdout.write(f"{table(rows, grown)}\non {on}, {torch.get_num_threads()} threads\n")
    about = {
        "size": args.size,
        "weights": sum(weight.numel() for weight in model.unet.parameters()),
        "side": side,
        "memory": args.memory,
        "dtypes": [str(dtype).removeprefix("torch.") for dtype in dtypes],
        "reference": "baseline, float32",
        "ratio": "ours / reference",
        "rounds": args.rounds,
        "settings": task.settings.to_dict(),
        "device": on,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
        "growth": [asdict(one) for one in grown],
    }
    write_json(args.json, about)
    return 0


def _measure(
    task: Task, parts: Sequence[str], rounds: int, device: torch.device
) -> tuple[list[Row], list[Growth]]:
    made = [PARTS[part](task) for part in parts if part != GROWTH]
    cases = sum(len(part.cases) for part in made)
    cases += len(growth_cases(task)) if GROWTH in parts else 0
    rows: list[Row] = []
    grown: list[Growth] = []
    with tqdm(total=cases * (rounds + 1), disable=None) as bar:
        for part in made:
            bar.set_description(part.name)
            rows += run_part(part, rounds, device, bar.update)
        if GROWTH in parts:
            bar.set_description(GROWTH)
            grown = growth(task, rounds, device, bar.update)
    return rows, grown


def _parts(words: str | None) -> list[str]:
    """Return the parts that are asked for, each once."""
    if words is None:
        return list(PARTS)
    parts = list(dict.fromkeys(word.strip() for word in words.split(",")))
    for part in parts:
        if part not in (*PARTS, GROWTH):
            raise ValueError(
                f"--parts: there is no part {part!r}; name some of {', '.join((*PARTS, GROWTH))}"
            )
    return parts


def _dtypes(words: str, device: torch.device) -> list[torch.dtype]:
    if words != "auto":
        named = (word.strip() for word in words.split(","))
        return list(dict.fromkeys(choose_dtype(word, device) for word in named))
    low = LOW if device.type == "cuda" else LOW[:1]
    return [torch.float32, *(dtype for dtype in low if calculates_fast(device, dtype))]


def _share(inverted: int) -> float:
    steps = InversionSettings().steps
    if not 1 <= inverted <= steps:
        raise ValueError(f"--inverted must be 1 to {steps} steps, got {inverted}")
    return inverted / steps


def _for(model: StableDiffusion, settings: Settings) -> Settings:
    """Return the paper's settings at the places that this network has for them."""
    own = model.recommended
    fitted = replace(
        settings,
        drag=replace(settings.drag, feature_blocks=own.drag.feature_blocks),
        render=replace(settings.render, start_layer=own.render.start_layer),
    )
    model.check(fitted)
    return fitted


def table(rows: Sequence[Row], grown: Sequence[Growth]) -> str:
    """Return the results for a terminal."""
    head = (
        "ratio",
        "range",
        "ours, s",
        "base, s",
        "cpu ratio",
        "peak, MB",
        "base, MB",
        "peak ratio",
    )
    lines = []
    if rows:
        lines.append(f"{'':<48}" + _columns(head))
    for row in rows:
        ratios = [_number(ratio, ".2f") for ratio in (row.ratio, row.cpu_ratio, row.peak_ratio)]
        seconds = _number(row.seconds, ".3f"), _number(row.reference_seconds, ".3f")
        peaks = _megabytes(row.peak), _megabytes(row.reference_peak)
        span = "-".join(_number(end, ".2f") for end in row.ratio_range)
        values = (ratios[0], span, *seconds, ratios[1], *peaks, ratios[2])
        lines.append(f"{row.part:<9}{row.variant:<39}" + _columns(values))
        if row.in_units is not None:
            unit = _number(row.reference_in_units, ".2f")
            lines.append(f"{'':<11}of one step: {row.in_units:.2f}, the baseline {unit}")
    if rows:
        lines.append("ratio: ours / baseline for the same instructions, range: of the rounds;")
        lines.append("peak: over the weights, weight gradients count")
    if grown:
        lines.append(f"{'growth':<48}" + _columns(("", "", "ours, s", "", "cpu, s", "peak, MB")))
    for one in grown:
        took, cpu = _number(one.seconds, ".3f"), _number(one.cpu_seconds, ".3f")
        cells = ("", "", took, "", cpu, _megabytes(one.peak))
        lines.append(f"{one.by:<9}{one.value:<39}" + _columns(cells))
    return "\n".join(lines)


def _columns(words: Sequence[str]) -> str:
    return "".join(f"{word:>11}" for word in words)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _megabytes(count: int | None) -> str:
    return _number(None if count is None else count / 1e6, ".0f")
