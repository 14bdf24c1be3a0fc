"""``dragwidget bench inversion``: measure how near to noise the inversion of images comes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from dragwidget.bench.dev.inversion import InversionResult, critters, measure, summarise
from dragwidget.bench.options import add_json
from dragwidget.bench.rows import versions
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.demo.training.feed import VALIDATION_SEEDS
from dragwidget.diffusion.loading import load_model
from dragwidget.storage.atomic import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="critters", help="as for `edit`")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto")
    parser.add_argument(
        "--seed", type=int, default=VALIDATION_SEEDS.start, help="seed of the first image"
    )
    parser.add_argument("--n", type=positive, default=100, help="number of images")
    parser.add_argument("--steps", type=positive, default=50, help="DDIM steps of the whole path")
    parser.add_argument("--count", type=positive, default=35, help="steps that are inverted")
    add_json(parser, "write the results of every image here")


def run(args: argparse.Namespace) -> int:
    """Invert and render images of the synthetic domain; print a table."""
    with bad_input():
        model = load_model(args.model, device=args.device)
        model.schedule(args.steps).last(args.count)
    images = critters(range(args.seed, args.seed + args.n), model.image_side)
    results = [
        measure(model, image, prompt, steps=args.steps, count=args.count)
        for image, prompt in tqdm(images, total=args.n, disable=None)
    ]
    sys.stdout.write(table(results) + "\n")
    plain = [asdict(result) for result in results]
    write_json(args.json, {"versions": versions(), "results": plain})
    return 0


def table(results: Sequence[InversionResult]) -> str:
    """Return the implied noise by timestep, and the round trips, for a terminal."""
    lines = [f"{'timestep':>8}{'implied noise, std':>20}{'beside each other':>20}"]
    rows = summarise(results)
    for row in [*rows[:-1:5], rows[-1]]:
        lines.append(f"{row.timestep:8.0f}{row.deviation:20.3f}{row.neighbours:20.3f}")
    lines.append(f"{'PSNR, dB':<28}{'mean':>10}{'lowest':>10}")
    for name, values in (
        ("autoencoder", [result.autoencoder_psnr for result in results]),
        ("inverted and rendered", [result.psnr for result in results]),
        ("inversion and render alone", [result.inversion_psnr for result in results]),
    ):
        lines.append(f"{name:<28}{np.mean(values):10.2f}{min(values):10.2f}")
    error = np.sqrt(np.mean([result.latent_error**2 for result in results]))
    lines.append(f"latent rendered back: root mean square error {error:.3f}")
    return "\n".join(lines)
