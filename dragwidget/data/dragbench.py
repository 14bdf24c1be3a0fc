"""Read samples of DragBench, whose instructions come as a pickle, without running what is in it.

A pickle is a program; here it is read as data, see ``plain_pickle``. A sample is a folder::

    original_image.png
    user_drag.png        the same with the drag painted on it; not read
    meta_data.pkl        {"prompt": str, "points": [[x, y], ...], "mask": (H, W), ...}

Points are ``(x, y)`` in image pixels, handle and target by turns; mask 1 = editable.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import MAX_PIXELS, BoolArray, Size
from dragwidget.data.instructions import MAX_PAIRS, DragInstructions
from dragwidget.data.paths import user_path
from dragwidget.data.plain_pickle import PlainArray, read_plain_pickle

MAX_BYTES = 32 * 2**20  # of a pickle; one of DragBench has a few hundred thousand
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class DragBenchSample(NamedTuple):
    """One sample.

    Attributes:
        image: path of the image to edit.
        instructions: what to drag, in pixels of that image.
    """

    image: Path
    instructions: DragInstructions


def read_dragbench(folder: str | os.PathLike[str]) -> DragBenchSample:
    """Read one sample folder.

    Raises:
        FileNotFoundError: the folder, or a file that it must hold, is missing.
        ValueError: a file is damaged, or ``meta_data.pkl`` holds anything but plain data.
    """
    folder = user_path(folder)
    image, metadata = folder / "original_image.png", folder / "meta_data.pkl"
    for file in (image, metadata):
        if not file.is_file():
            raise FileNotFoundError(f"{folder} is not a DragBench sample: it has no {file.name}")
    try:
        instructions = _instructions(_load(metadata), size=_png_size(image))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not a DragBench sample: {error}") from error
    return DragBenchSample(image, instructions)


def _load(path: Path) -> Any:
    """Return what a pickle of plain data holds."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES} bytes")
    try:
        return read_plain_pickle(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _instructions(fields: Any, size: Size) -> DragInstructions:
    if not isinstance(fields, dict):
        raise ValueError(f"meta_data.pkl must hold a dict, got {type(fields).__name__}")
    missing = {"prompt", "points", "mask"} - fields.keys()
    if missing:
        raise ValueError(f"meta_data.pkl lacks {', '.join(sorted(missing))}")
    points = _unwrap(fields["points"])
    if isinstance(points, list) and len(points) <= 2 * MAX_PAIRS:
        points = [_unwrap(point) for point in points]
    return DragInstructions.from_points(
        points,
        size=size,
        mask=_mask(_unwrap(fields["mask"]), size),
        prompt=fields["prompt"],
    )


def _unwrap(value: Any) -> Any:
    return value.numbers if isinstance(value, PlainArray) else value


def _mask(mask: Any, size: Size) -> npt.NDArray[Any] | None:
    """A mask as an array; of lists only where they are rows of this size, whatever they share."""
    if mask is None or isinstance(mask, np.ndarray):
        return mask
    width, height = size
    rows: dict[int, BoolArray] = {}
    is_mask = isinstance(mask, list | tuple) and len(mask) == height
    for row in mask if is_mask else ():
        if id(row) in rows:  # the same list again: it is looked at once
            continue
        is_mask = isinstance(row, list | tuple) and len(row) == width
        if not is_mask or not all(isinstance(value, int | float) for value in row):
            is_mask = False
            break
        rows[id(row)] = np.asarray(row, dtype=np.float64) > 0
    if not is_mask:
        raise ValueError(
            f"the mask must be an array, or {height} lists of {width} numbers (height, width)"
        )
    return np.stack([rows[id(row)] for row in mask])


def _png_size(path: Path) -> Size:
    """(width, height) of a PNG, from its header: this module stays free of imaging libraries."""
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(_PNG_SIGNATURE):
        raise ValueError(f"{path.name} is not a PNG")
    width, height = struct.unpack(">II", header[16:])
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{path.name} has {width} x {height} pixels, at most {MAX_PIXELS:,} are read"
        )
    return width, height
