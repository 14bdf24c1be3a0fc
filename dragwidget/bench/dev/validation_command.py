"""``dragwidget bench validation``: is the instrument of ``bench scenes`` right?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from dragwidget.bench.dev.validation import (
    LARGEST_ERROR,
    LARGEST_GAP,
    PICTURES,
    Proof,
    make_jobs,
    prove,
)
from dragwidget.bench.processes import add_jobs, processes
from dragwidget.bench.versions import versions
from dragwidget.data.bad_input import bad_input, user_file
from dragwidget.storage.atomic import check_writable, write_whole

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dragwidget bench validation``."""
    parser.add_argument("--seed", type=int, default=950_000, help="of the first task")
    parser.add_argument("--n", type=int, default=18, help="how many tasks")
    parser.add_argument("--model", default="critters", help="whose autoencoder spoils the images")
    add_jobs(parser)
    parser.add_argument("--json", type=user_file, metavar="OUT", help="every image's numbers")


def run(args: argparse.Namespace) -> int:
    """Prove the instrument on images as they are and after the autoencoder; print a table."""
    with bad_input():
        if args.json:
            check_writable(args.json)
    spoilt = {"drawn": None, "round trip": args.model}
    proofs: dict[str, list[Proof]] = {name: [] for name in spoilt}
    progress = tqdm(total=len(spoilt) * len(PICTURES) * args.n, disable=None)
    with processes(args.jobs) as executor, progress as bar:
        for name, model in spoilt.items():
            for proof in prove(make_jobs(args.seed, args.n, model), executor):
                proofs[name].append(proof)
                bar.update()
    sys.stdout.write(table(proofs) + "\n")
    if args.json:
        plain = {name: [asdict(proof) for proof in some] for name, some in proofs.items()}
        text = json.dumps({"versions": versions(), "proofs": plain}, indent=1)
        write_whole(args.json, text.encode())
    return 0


def table(proofs: dict[str, list[Proof]]) -> str:
    """A line for each way of spoiling and each image, then every proof that did not hold."""
    lines = [
        f"{'images':<12}{'of the drag':<13}{'held':>9}{'share':>8}   "
        f"{'point error, px':<22}   share error",
        f"{'':<45}{'median, 95 %, max':<22}   median, 95 %, max",
    ]
    for name, some in proofs.items():
        for image in PICTURES:
            lines.append(_line(name, image, [one for one in some if one.image == image]))
    lines.append(
        f"held: no dragged point of the whole drag found further than {LARGEST_ERROR} px off, "
        f"else the share within {LARGEST_GAP};\nand taken for a critter. Not held:"
    )
    lines += [
        f"  {name}, {one.image}: {one.kind} {one.seed}, {one.error:.2f} px, "
        f"share {one.share:.3f} of {one.true_share:.3f}{', unreadable' if one.failed else ''}"
        for name, some in proofs.items()
        for one in some
        if not one.held
    ] or ["  none"]
    return "\n".join(lines)


def _line(name: str, image: str, proofs: Sequence[Proof]) -> str:
    held = f"{sum(proof.held for proof in proofs)}/{len(proofs)}"
    share = np.mean([proof.share for proof in proofs])
    errors = _spread([proof.error for proof in proofs], 2)
    gaps = _spread([proof.gap for proof in proofs], 3)
    return f"{name:<12}{image:<13}{held:>9}{share:>8.3f}   {errors:<22}   {gaps}"


def _spread(values: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in np.percentile(values, [50, 95, 100]))
