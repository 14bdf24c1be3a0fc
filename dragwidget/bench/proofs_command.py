"""``dragwidget bench proofs``: is the instrument of ``bench scenes`` right?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
from torch import Tensor
from tqdm import tqdm

from dragwidget.bench.proofs import PICTURES, Proof, prove
from dragwidget.bench.scenes import round_trip
from dragwidget.diffusion.loading import load_model

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dragwidget bench proofs``."""
    parser.add_argument("--seed", type=int, default=950_000, help="of the first task")
    parser.add_argument("--n", type=int, default=18, help="how many tasks")
    parser.add_argument("--model", default="critters", help="whose autoencoder spoils the pictures")


def run(args: argparse.Namespace) -> int:
    """Prove the instrument on pictures as they are and after the autoencoder; print a table."""
    model = load_model(args.model)

    def through(picture: Tensor) -> Tensor:
        return round_trip(model, picture)

    cases: dict[str, Callable[[Tensor], Tensor] | None] = {"drawn": None, "round trip": through}
    lines = ["picture               point error mean, max    share mean    share error mean, max"]
    with tqdm(total=2 * len(PICTURES) * args.n, disable=None) as bar:
        for name, spoil in cases.items():
            proofs = []
            for proof in prove(args.seed, args.n, through=spoil):
                proofs.append(proof)
                bar.update()
            lines += [_line(name, picture, proofs) for picture in PICTURES]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _line(name: str, picture: str, proofs: list[Proof]) -> str:
    chosen = [proof for proof in proofs if proof.picture == picture]
    errors = np.array([proof.error for proof in chosen])
    shares = np.array([proof.share for proof in chosen])
    gaps = np.abs(shares - np.array([proof.true_share for proof in chosen]))
    return (
        f"{name:<11} {picture:<9} {errors.mean():8.2f}, {errors.max():.2f} px "
        f"{shares.mean():15.3f} {gaps.mean():17.3f}, {gaps.max():.3f}"
    )
