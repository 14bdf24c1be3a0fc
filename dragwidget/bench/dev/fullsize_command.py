"""``dragwidget bench fullsize``: a whole edit on a model of the published size, without a hub."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from dragwidget.bench.dev.fullsize import PHASES, PhaseRow, Run, measure
from dragwidget.bench.dev.fullsize_models import FAMILIES, Family, write_folder
from dragwidget.bench.options import add_json, output_folder
from dragwidget.bench.report import shown
from dragwidget.bench.rows import machine, versions
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.data.settings import InversionSettings
from dragwidget.diffusion.loading import choose_device, choose_dtype
from dragwidget.storage.atomic import write_json

_GB = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", choices=list(FAMILIES), default="sd15", help="model family")
    parser.add_argument(
        "--folder",
        type=output_folder,
        metavar="FOLDER",
        help="folder to keep the model in; a model that is already there is measured; default: "
        "a temporary folder",
    )
    parser.add_argument("--size", type=int, help="side of the image, pixels; default: the model's")
    parser.add_argument(
        "--steps",
        type=positive,
        default=3,
        help="steps of LoRA training, of inversion and of the drag",
    )
    parser.add_argument("--batch", type=positive, default=4, help="batch size of LoRA training")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ..")
    parser.add_argument("--dtype", default="auto", help="type of the weights, as for `load_model`")
    parser.add_argument(
        "--memory", choices=("normal", "low"), default="normal", help="as for `load_model`"
    )
    parser.add_argument(
        "--limit-gb",
        type=float,
        metavar="GB",
        help="use at most this much memory of a CUDA device",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    family = FAMILIES[args.family]
    with bad_input():
        device = choose_device(args.device)
        dtype = choose_dtype(args.dtype, device)
        _check(args, device)
    with tempfile.TemporaryDirectory(prefix="dragwidget-") as scratch, _limited(args, device):
        folder = args.folder or Path(scratch) / args.family
        if not (folder / "model_index.json").is_file():
            _write(folder, family)
        how = Run(
            folder=folder,
            device=device,
            dtype=dtype,
            memory=args.memory,
            side=args.size,
            steps=args.steps,
            batch=args.batch,
        )
        with tqdm(total=len(PHASES), disable=None) as bar:

            def begun(name: str) -> None:
                bar.update(PHASES.index(name) - bar.n)
                bar.set_description(name)

            rows, estimate = measure(how, Path(scratch), begun)
            bar.update(len(PHASES) - bar.n)
    sys.stdout.write(table(rows) + "\n")
    on_cuda = device.type == "cuda"
    about = {
        "family": args.family,
        "published": family.published,
        "side": args.size,
        "steps": args.steps,
        "batch": args.batch,
        "memory": args.memory,
        "limit_gb": args.limit_gb,
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if on_cuda else str(device),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions(),
        "weights": estimate.weights,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    write_json(args.json, about)
    return 0


def _check(args: argparse.Namespace, device: torch.device) -> None:
    most = InversionSettings().steps
    if args.steps > most:
        raise ValueError(f"--steps must be 1 to {most}, got {args.steps}")
    if args.size is not None and (args.size < 64 or args.size % 64):
        raise ValueError(f"--size must be a multiple of 64 pixels, got {args.size}")
    if args.limit_gb is None:
        return
    if device.type != "cuda":
        raise ValueError(f"--limit-gb limits CUDA devices alone, and this is {device}")
    total = torch.cuda.get_device_properties(device).total_memory
    if not 0 < args.limit_gb * _GB <= total:
        raise ValueError(
            f"--limit-gb must be above 0 and at most {total / _GB:.1f}, what {device} has, got "
            f"{args.limit_gb}"
        )


@contextmanager
def _limited(args: argparse.Namespace, device: torch.device) -> Iterator[None]:
    """Use no more of the device than was said, while this lasts."""
    if args.limit_gb is None:
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(args.limit_gb * _GB / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _write(folder: Path, family: Family) -> None:
    with tqdm(total=len(family.networks), disable=None) as bar:

        def report(part: str) -> None:
            bar.update(family.networks.index(part) - bar.n)
            bar.set_description(f"writing {part}")

        write_folder(folder, family, report)
        bar.update(len(family.networks) - bar.n)


def table(rows: Sequence[PhaseRow]) -> str:
    """Return the results for a terminal."""
    head = ("seconds", "estimate", "memory, GB", "estimate", "ratio")
    lines = [f"{'':<12}" + _columns(head)]
    for row in rows:
        memory, estimated = (
            None if count is None else count / _GB for count in (row.memory, row.estimated_memory)
        )
        values = (
            shown(row.seconds, ".1f"), shown(row.estimated_seconds, ".1f"), shown(memory),
            shown(estimated), shown(row.ratio),
        )  # fmt: skip
        lines.append(f"{row.phase:<12}" + _columns(values))
    return "\n".join(lines)


def _columns(words: Sequence[str]) -> str:
    return "".join(f"{word:>12}" for word in words)
