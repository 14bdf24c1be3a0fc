"""``dragwidget demo image``: write an image of the embedded model's domain, with a drag task."""

from __future__ import annotations

import argparse
from pathlib import Path

from dragwidget.data.bad_input import bad_input, user_file
from dragwidget.data.image_writing import output_format
from dragwidget.demo.scenes import TRAINING_SEEDS, captions, render, sample_scenes, to_image
from dragwidget.demo.tasks import TASK_KINDS, drag_task
from dragwidget.storage.atomic import check_writable, write_whole
from dragwidget.storage.image_files import write_image

SEED = TRAINING_SEEDS + 26  # a fox that the model has not seen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT.png", type=user_file, help="the image to write")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="seed of the image")
    parser.add_argument(
        "--task",
        choices=TASK_KINDS,
        metavar="KIND",
        help="also write instructions for an edit, as OUT.json: " + ", ".join(TASK_KINDS),
    )


def run(args: argparse.Namespace) -> int:
    output: Path = args.output
    instructions = output.with_suffix(".json")
    with bad_input():
        if args.seed < 0:
            raise ValueError(f"--seed must be 0 or more, got {args.seed}")
        output_format(output, (128, 128))
        for path in [output] if args.task is None else [output, instructions]:
            check_writable(path)
    if args.task is None:
        scene = sample_scenes([args.seed])
        write_image(to_image(render(scene)[0]), output)
        print(f"{output}: {captions(scene)[0]}")
        return 0
    task = drag_task(args.task, args.seed)
    write_image(to_image(task.source), output)
    write_whole(instructions, f"{task.instructions.to_json()}\n".encode())
    print(f"{output}: {task.instructions.prompt}")
    print(f"{instructions}: to be used as dragwidget edit {output} --instructions {instructions}")
    return 0
