"""Train the embedded model: autoencoder, then text encoder and UNet together, then drags.

`dragwidget demo train --preset cpu --out DIR [--resume] [--stages ..] [--from MODEL]`. Without
`--from` from scratch; with it, the stages named begin from the weights of a finished model, and it
gives what the others would have made. All images are drawn by `dragwidget.demo.scenes`. In DIR:
checkpoints, loss curves, a sample sheet, and `model/`, the model in diffusers' folder format,
written at checkpoints and at the end.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from dragwidget.data.bad_input import bad_input, user_file
from dragwidget.demo.training.architecture import IMAGE_SIZE, PRESETS, Model, Preset, Stage
from dragwidget.demo.training.autoencoder_stage import measure, settle, train_autoencoder
from dragwidget.demo.training.drags_stage import train_drags
from dragwidget.demo.training.loop import Training
from dragwidget.demo.training.unet_stage import train_unet
from dragwidget.diffusion.loading import CRITTERS, EMBEDDED

logger = logging.getLogger(__name__)


STAGES = ("autoencoder", "unet", "drags")


def train(
    preset: Preset,
    out: Path,
    *,
    stages: Sequence[str] = STAGES,
    start: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    size: int = IMAGE_SIZE,
    gradient_workers: int = 0,
    data_workers: int = 0,
) -> Iterator[dict[str, float | str]]:
    """Yield a record every ten steps: `stage`, `step`, `seconds`, `learning_rate`, `loss`.

    Args:
        preset: what to make, and for how long.
        out: folder of checkpoints, curves and the model.
        stages: which stages to train, one or more in a row of "autoencoder", "unet", "drags".
        start: a model's folder, or an embedded model's name. The stages trained begin from its
            weights; those before them are taken as they are. None: new weights, and "autoencoder"
            must be the first stage.
        resume: go on from the checkpoints in `out`; otherwise it must hold none. The other
            arguments must be those of the first run, but for the time budgets.
        device: where to train.
        size: of the images, pixels.
        gradient_workers: processes beside this one that add gradients to the UNet's (CPU only).
            With any, the same seed no longer gives the same bits.
        data_workers: processes that draw stage 3's tasks ahead; what comes out is the same.
    """
    out = Path(out)
    device = torch.device(device)
    check_stages(stages, start)
    check_folder(out, resume)
    out.mkdir(parents=True, exist_ok=True)
    loaded = None
    if start is not None:
        loaded = _load(start)
        # As they are: each release of transformers writes others.
        shutil.copytree(_folder(start) / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    if "autoencoder" in stages:
        autoencoder, training, records = train_autoencoder(
            preset, out, device, size, resume=resume, start=loaded and loaded.vae
        )
        for record in records:
            yield {"stage": "autoencoder", **record}
        _finish_autoencoder(autoencoder, training, preset, device, size)
    elif loaded is not None:
        autoencoder = loaded.vae.float().to(device).eval().requires_grad_(False)
    if "unet" in stages:
        for record in train_unet(
            preset,
            autoencoder,
            out,
            device,
            size,
            resume=resume,
            gradient_workers=gradient_workers,
            start=loaded,
        ):
            yield {"stage": "unet", **record}
    if "drags" in stages:
        # Stage 3 writes where stage 2 did, and begins from what that made also when it is resumed.
        before = out / "before_drags"
        if not before.exists():
            made = out / "model" if start is None or "unet" in stages else start
            _load(made).save_pretrained(out / "before_drags.new")
            (out / "before_drags.new").rename(before)
        for record in train_drags(
            preset, _load(before), out, device, size, resume=resume, data_workers=data_workers
        ):
            yield {"stage": "drags", **record}


def _load(model: str | Path) -> Model:
    """Return the pipeline of a folder, or of an embedded model's name."""
    return StableDiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        _folder(model), variant=EMBEDDED.get(str(model))
    )


def _folder(model: str | Path) -> Path:
    return CRITTERS if str(model) in EMBEDDED else Path(model)


def check_stages(stages: Sequence[str], start: str | Path | None) -> None:
    """Raise ValueError unless these stages can be trained from there."""
    rows = [STAGES[i:j] for i in range(3) for j in range(i + 1, 4)]
    if tuple(stages) not in rows:
        raise ValueError(f"stages must be some in a row of {', '.join(STAGES)}, got {stages}")
    if start is None and stages[0] != STAGES[0]:
        raise ValueError(
            f"training of {stages[0]} goes on with a model: give its folder, or train "
            f"{STAGES[0]} first"
        )


def check_folder(out: Path, resume: bool) -> None:
    """Raise ValueError where a training run would write over another."""
    if not resume and (found := sorted(out.glob("*.checkpoint.pt"))):
        raise ValueError(
            f"{out} holds a training run ({found[0].name}): resume it, or choose another folder"
        )


def _finish_autoencoder(
    model: Model, training: Training, preset: Preset, device: torch.device, size: int
) -> None:
    """Average, settle and freeze the weights; write the metrics to `autoencoder.json`, once."""
    training.average()
    settle(model, preset, device, size)
    if not (training.folder / "autoencoder.json").exists():
        measured = measure(model, device, size, preset.measured)
        training.write_report(**measured, scaling_factor=model.config.scaling_factor)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dragwidget demo train`."""
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument(
        "--out", type=user_file, required=True, help="folder for everything written"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the checkpoints in OUT"
    )
    parser.add_argument("--device", help="cpu, cuda, ..; default: that of the preset's name")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--gradient-workers", type=int, default=0, help="processes that compute gradients"
    )
    parser.add_argument(
        "--data-workers", type=int, default=0, help="processes that draw drags ahead"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    for number, stage in enumerate(STAGES, 1):
        parser.add_argument(
            f"--{stage}-minutes", type=float, help=f"time budget of stage {number}, {stage}"
        )
        parser.add_argument(
            f"--{stage}-rate", type=float, help=f"learning rate of {stage} at its peak"
        )
    parser.add_argument(
        "--from",
        dest="start",
        type=lambda word: word if word in EMBEDDED else user_file(word),
        metavar="MODEL",
        help="folder or name (critters) of a model to start from",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        metavar="STAGE",
        help=f"stages to train, of {', '.join(STAGES)}; default: all, with --from only drags",
    )


def preset_of(args: argparse.Namespace) -> Preset:
    """Return the preset with the changes of the command line."""
    preset, stages = PRESETS[args.preset], dict[str, Any]()
    for name in STAGES:
        stage: Stage = getattr(preset, name)
        if (minutes := getattr(args, f"{name}_minutes")) is not None:
            stage = replace(stage, minutes=minutes)
        if (rate := getattr(args, f"{name}_rate")) is not None:
            stage = replace(stage, learning_rate=rate)
        stages[name] = stage
    return replace(preset, seed=args.seed, **stages)


def stages_of(args: argparse.Namespace) -> Sequence[str]:
    """Return the stages that the command line asks for."""
    return args.stages or (STAGES if args.start is None else ("drags",))


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit status."""
    with bad_input():
        if find_spec("matplotlib") is None:
            raise ValueError("curves are drawn with matplotlib: pip install matplotlib")
        check_stages(stages_of(args), args.start)
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
        gradient_workers=args.gradient_workers,
        data_workers=args.data_workers,
        stages=stages_of(args),
        start=args.start,
    ):
        if time.monotonic() - last > 10:
            last = time.monotonic()
            logger.info(
                "%(stage)s step %(step)d, %(seconds).0f s, rate %(learning_rate).2e, "
                "loss %(loss).4f",
                record,
            )
    return 0
