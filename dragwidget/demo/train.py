"""Train the embedded model from scratch: autoencoder, text encoder and UNet together, then drags.

`dragwidget demo train --preset cpu --out DIR [--resume]`; `--from MODEL` goes on with a finished
model, by drags alone. All images are drawn by `dragwidget.demo.scenes`. In DIR: checkpoints, loss
curves, a sample sheet, and `model/`, the model in diffusers' folder format, written at checkpoints
and at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from dragwidget.data.bad_input import BadInputError, bad_input, user_file
from dragwidget.demo.training.architecture import IMAGE_SIZE, PRESETS, Model, Preset
from dragwidget.demo.training.autoencoder_stage import measure, settle, train_autoencoder
from dragwidget.demo.training.drags_stage import train_drags
from dragwidget.demo.training.loop import Training
from dragwidget.demo.training.unet_stage import train_unet

logger = logging.getLogger(__name__)


def train(
    preset: Preset,
    out: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    size: int = IMAGE_SIZE,
    only_autoencoder: bool = False,
    gradient_workers: int = 0,
    data_workers: int = 0,
    finished: Path | None = None,
) -> Iterator[dict[str, float | str]]:
    """Yield a record every ten steps: `stage`, `step`, `seconds`, `learning_rate`, `loss`.

    Args:
        preset: what to make, and for how long.
        out: folder of checkpoints, curves and the model.
        resume: go on from the checkpoints in `out`; otherwise it must hold none.
        device: where to train.
        size: of the images, pixels.
        only_autoencoder: stop before the UNet.
        gradient_workers: processes beside this one that add gradients to the UNet's (CPU only).
            With any, the same seed no longer gives the same bits.
        data_workers: processes that draw stage 3's tasks ahead; what comes out is the same.
        finished: a model's folder whose first two stages are taken as they are.
    """
    out = Path(out)
    device = torch.device(device)
    check_folder(out, resume)
    out.mkdir(parents=True, exist_ok=True)
    if finished is None:
        yield from _first_stages(
            preset,
            out,
            device,
            size,
            resume,
            only_autoencoder=only_autoencoder,
            gradient_workers=gradient_workers,
        )
        if only_autoencoder:
            return
    # Stage 3 writes where stage 2 did, and begins from what that made also when it is resumed.
    before = out / "before_drags"
    if not before.exists():
        shutil.copytree(finished or out / "model", out / "before_drags.new", dirs_exist_ok=True)
        (out / "before_drags.new").rename(before)
    pipeline = StableDiffusionPipeline.from_pretrained(before)  # type: ignore[no-untyped-call]
    for record in train_drags(
        preset, pipeline, out, device, size, resume=resume, data_workers=data_workers
    ):
        yield {"stage": "drags", **record}


def check_folder(out: Path, resume: bool) -> None:
    """Raise ValueError where a training run would write over another."""
    if not resume and (found := sorted(out.glob("*.checkpoint.pt"))):
        raise ValueError(
            f"{out} holds a training run ({found[0].name}): resume it, or choose another folder"
        )


def _first_stages(
    preset: Preset,
    out: Path,
    device: torch.device,
    size: int,
    resume: bool,
    *,
    only_autoencoder: bool,
    gradient_workers: int,
) -> Iterator[dict[str, float | str]]:
    autoencoder, training, records = train_autoencoder(preset, out, device, size, resume=resume)
    for record in records:
        yield {"stage": "autoencoder", **record}
    _finish_autoencoder(autoencoder, training, preset, device, size)
    if only_autoencoder:
        return
    for record in train_unet(
        preset, autoencoder, out, device, size, resume=resume, gradient_workers=gradient_workers
    ):
        yield {"stage": "unet", **record}


def _finish_autoencoder(
    model: Model, training: Training, preset: Preset, device: torch.device, size: int
) -> None:
    """Average, settle and freeze the weights; write the metrics to `autoencoder.json`, once."""
    training.average()
    settle(model, device, size)
    report = training.folder / "autoencoder.json"
    if not report.exists():
        numbers = {
            **measure(model, device, size, preset.measured),
            "steps": training.step,
            "minutes": round(training.seconds / 60, 1),
            "loss": training.curve[-1]["loss"] if training.curve else None,
            "scaling_factor": model.config.scaling_factor,
        }
        report.write_text(json.dumps(numbers, indent=2) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dragwidget demo train`."""
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument(
        "--out", type=user_file, required=True, help="folder for everything written"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in OUT")
    parser.add_argument("--device", help="cpu, cuda, ..; by default what the preset is named for")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--gradient-workers", type=int, default=0, help="processes that add gradients"
    )
    parser.add_argument(
        "--data-workers", type=int, default=0, help="processes that draw drags ahead"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autoencoder-minutes", type=float, help="time budget of stage 1")
    parser.add_argument("--unet-minutes", type=float, help="time budget of stage 2")
    parser.add_argument("--drags-minutes", type=float, help="time budget of stage 3")
    parser.add_argument("--drags-rate", type=float, help="learning rate of stage 3 at its peak")
    parser.add_argument(
        "--from",
        dest="finished",
        type=user_file,
        metavar="MODEL",
        help="folder of a model whose stages 1 and 2 are done: only stage 3 is trained",
    )
    parser.add_argument("--only-autoencoder", action="store_true", help="stop before stage 2")


def preset_of(args: argparse.Namespace) -> Preset:
    """Return the preset with the changes of the command line."""
    preset = replace(PRESETS[args.preset], seed=args.seed)
    if args.autoencoder_minutes is not None:
        stage = replace(preset.autoencoder, minutes=args.autoencoder_minutes)
        preset = replace(preset, autoencoder=stage)
    if args.unet_minutes is not None:
        preset = replace(preset, unet=replace(preset.unet, minutes=args.unet_minutes))
    if args.drags_minutes is not None:
        preset = replace(preset, drags=replace(preset.drags, minutes=args.drags_minutes))
    if args.drags_rate is not None:
        preset = replace(preset, drags=replace(preset.drags, learning_rate=args.drags_rate))
    return preset


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit status."""
    with bad_input():
        if find_spec("matplotlib") is None:
            raise ValueError("curves are drawn with matplotlib: pip install 'dragwidget[training]'")
        check_folder(args.out, args.resume)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if args.preset == "gpu" else "cpu")
    logger.info("training to %s on %s", args.out, device)
    last = time.monotonic() - 60
    for record in train(
        preset_of(args),
        args.out,
        resume=args.resume,
        device=device,
        only_autoencoder=args.only_autoencoder,
        gradient_workers=args.gradient_workers,
        data_workers=args.data_workers,
        finished=args.finished,
    ):
        if time.monotonic() - last > 10:
            last = time.monotonic()
            logger.info(
                "%(stage)s step %(step)d, %(seconds).0f s, rate %(learning_rate).2e, "
                "loss %(loss).4f",
                record,
            )
    return 0


def main() -> int:
    """Run `python -m dragwidget.demo.train`."""
    parser = argparse.ArgumentParser(prog="dragwidget demo train", description=__doc__)
    add_arguments(parser)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return run(parser.parse_args())
    except BadInputError as error:
        logger.error("%s", error)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
