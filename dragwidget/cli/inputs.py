"""Parse the request of an edit: instructions, settings and output files.

Everything that can be wrong is found here, before anything slow starts. Loads no torch.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragwidget.data.dragbench import read_dragbench
from dragwidget.data.frames import Size
from dragwidget.data.image_reading import ReadImage, read_mask
from dragwidget.data.image_writing import output_format
from dragwidget.data.instructions import DragInstructions, PointPair
from dragwidget.data.paths import user_path
from dragwidget.data.settings import Settings
from dragwidget.storage.atomic import check_writable

Changes = Mapping[str, Mapping[str, Any]]
"""Settings that differ from the model's recommendation, by stage and field."""


def as_options(message: str) -> str:
    """Return a message with its keyword arguments of Python, ``name="value"``, as options."""
    return re.sub(
        r"""\b(\w+)=(["'])(.*?)\2""",
        lambda found: f"--{found[1].replace('_', '-')} {found[3]}",
        message,
    )


def parse_pair(word: str) -> PointPair:
    """Parse ``X,Y:X,Y``, handle and target, in image pixels."""
    try:
        handle, target = (tuple(map(float, point.split(","))) for point in word.split(":"))
        return PointPair(handle, target)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"a pair must be X,Y:X,Y, handle and target in pixels, like 60,70:80,70, got {word!r}"
        ) from error


def parse_style(file: str, weight: str) -> tuple[Path, float]:
    """Parse a LoRA file and its weight."""
    with suppress(ValueError):
        number = float(weight)
        if math.isfinite(number):
            return user_path(file), number
    raise ValueError(
        f"--style takes a LoRA file here and its weight, a number, got {file!r} and {weight!r}"
    )


def read_instructions(
    size: Size,
    *,
    pairs: list[PointPair] | None = None,
    mask: Path | None = None,
    prompt: str | None = None,
    file: Path | None = None,
) -> DragInstructions:
    """Return the instructions for an image of ``size`` (width, height).

    Args:
        file: JSON of instructions, or the folder of a DragBench sample; the other arguments
            override it.
    """
    changes: dict[str, Any] = {}
    if pairs is not None:
        changes["pairs"] = tuple(pairs)
    if mask is not None:
        changes["mask"] = read_mask(mask)
    if prompt is not None:
        changes["prompt"] = prompt
    if file is not None:
        return _read_instructions_file(file, size).replace(**changes)
    if pairs is None:
        raise ValueError("nothing to drag: give --pair X,Y:X,Y at least once, or --instructions")
    return DragInstructions(size=size, **changes)


def _read_instructions_file(file: Path, size: Size) -> DragInstructions:
    if file.is_dir():
        instructions = read_dragbench(file).instructions
    else:
        try:
            instructions = DragInstructions.from_json(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    if instructions.size != size:
        raise ValueError(
            f"{file} is for an image of {instructions.size[0]} x {instructions.size[1]}, this one "
            f"is {size[0]} x {size[1]} (width x height)"
        )
    return instructions


def read_changes(path: Path) -> Changes:
    """Read settings from a JSON file, ``{"drag": {"steps": 40}}``, or from the log of an edit."""
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    changes = data.get("settings", data) if isinstance(data, dict) else data
    if not isinstance(changes, dict) or not all(isinstance(v, dict) for v in changes.values()):
        raise ValueError(
            f'{path} holds no settings: give an object such as {{"drag": {{"steps": 40}}}}'
        )
    try:
        Settings.from_dict(changes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return changes


def with_changes(settings: Settings, *changes: Changes) -> Settings:
    """Return settings with some fields changed, later changes last."""
    stages = settings.to_dict()
    for change in changes:
        for stage, values in change.items():
            stages[stage].update(values)
    return Settings.from_dict(stages)


@dataclass(frozen=True)
class Files:
    """The image that is edited, and what is written."""

    source: Path
    image: Path
    log: Path | None
    animation: Path | None


def files_of(args: argparse.Namespace, source: ReadImage) -> Files:
    """Return the output files of an edit; ValueError if one cannot or must not be written."""
    image = args.output or args.image.with_name(f"{args.image.stem}.dragged.png")
    files = Files(args.image, image, args.log, args.animation)
    taken = [path for path in (args.image, args.mask, args.instructions, args.settings) if path]
    for path in (files.image, files.log, files.animation):
        if path is None:
            continue
        if any(_same(path, other) for other in taken):
            raise ValueError(
                f"{path} would be overwritten: it is an input or another output; use another name"
            )
        check_writable(path)
        taken.append(path)
    height, width = source.pixels.shape[:2]
    output_format(image, (width, height), transparent=source.metadata.alpha is not None)
    if files.animation and files.animation.suffix.lower() != ".gif":
        raise ValueError(f"the animation is a GIF: name it like {files.animation.stem}.gif")
    return files


def _same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()
