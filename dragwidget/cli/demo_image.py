"""``dragwidget demo image``: an image of the embedded model's domain, and what to drag on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from torch import Tensor

from dragwidget.demo.scenes import TRAINING_SEEDS, captions, render, sample_scenes
from dragwidget.demo.tasks import TASK_KINDS, drag_task

SEED = TRAINING_SEEDS + 26  # a fox that the model has not seen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dragwidget demo image``."""
    parser.add_argument("output", metavar="OUT.png", type=Path, help="the image to write")
    parser.add_argument(
        "--seed", type=int, default=SEED, metavar="N", help="another seed, another image"
    )
    parser.add_argument(
        "--task",
        choices=TASK_KINDS,
        help="write instructions for an edit beside the image too, as OUT.json",
    )


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit status."""
    if args.seed < 0:
        raise ValueError(f"a seed is 0 or more, got {args.seed}")
    output: Path = args.output
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} to write {output.name} in")
    if args.task is None:
        scene = sample_scenes([args.seed])
        _to_image(render(scene)[0]).save(output)
        print(f"{output}: {captions(scene)[0]}")
        return 0
    task = drag_task(args.task, args.seed)
    _to_image(task.source).save(output)
    instructions = output.with_suffix(".json")
    instructions.write_text(task.instructions.to_json() + "\n")
    print(f"{output}: {task.instructions.prompt}")
    print(f"{instructions}: to be used as dragwidget edit {output} --instructions {instructions}")
    return 0


def _to_image(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> a Pillow image."""
    return Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
