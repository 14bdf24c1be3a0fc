"""Drag instructions as JSON text: one versioned object, its mask as run lengths.

Knows the form only; ``DragInstructions`` checks what the values mean. Reading is safe on text from
anyone: bounded in time and memory, and a ValueError is all that it raises.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dragwidget.data.frames import MAX_PIXELS, XY, BoolArray, Size
from dragwidget.data.quoting import quoted

MAX_LENGTH = 64 * 2**20  # characters

_FORMAT = "dragwidget.data.instructions"
_VERSION = 1
_FIELDS = {"size", "prompt", "points", "mask_runs"}


def write_json(
    *, points: list[tuple[XY, XY]], size: Size, mask: BoolArray | None, prompt: str
) -> str:
    """One JSON object, in ASCII. points: (handle, target) pairs. mask: (H, W) or ``None``."""
    return json.dumps(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "size": size,
            "prompt": prompt,
            "points": points,
            "mask_runs": None if mask is None else to_runs(mask),
        }
    )


def read_json(text: str | bytes) -> dict[str, Any]:
    """What ``write_json`` was given, as keyword arguments; points and prompt yet to be checked."""
    fields = _parse(text)
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
        raise ValueError(f'not drag instructions: wanted an object with "format": "{_FORMAT}"')
    version = fields.pop("version", None)
    if version != _VERSION:
        raise ValueError(
            f"these drag instructions are of version {quoted(version)}, and this dragwidget "
            f"reads version {_VERSION}: upgrade dragwidget"
        )
    if fields.keys() != _FIELDS:
        raise ValueError(
            f"not drag instructions: missing {sorted(_FIELDS - fields.keys())}, "
            f"unknown {quoted(sorted(fields.keys() - _FIELDS))}"
        )
    fields["size"] = size = _size(fields["size"])
    runs = fields.pop("mask_runs")
    fields["mask"] = None if runs is None else from_runs(runs, size)
    return fields


def _size(value: Any) -> Size:
    if not _whole_numbers(value) or len(value) != 2 or min(value) < 1:
        raise ValueError(f"size must be two whole numbers, at least 1, got {quoted(value)}")
    width, height = value
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"an image of size {quoted(value)} is too large: at most {MAX_PIXELS:,} pixels are read"
        )
    return width, height


def _parse(text: str | bytes) -> Any:
    if len(text) > MAX_LENGTH:
        raise ValueError(f"not drag instructions: {len(text):,} characters of JSON are too many")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number that JSON knows")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("not drag instructions: lists or objects nested too deeply") from error
    except ValueError as error:
        # Python's own words on a number of more than 4300 digits are for programmers.
        what = "a number of too many digits" if "set_int_max_str_digits" in str(error) else error
        raise ValueError(f"not drag instructions: {what}") from error


def to_runs(mask: BoolArray) -> list[int]:
    """Run lengths of a mask, row by row: False first (perhaps 0 long), then True, and by turns."""
    flat = np.concatenate(([False], mask.ravel()))
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    runs: list[int] = np.diff(starts, prepend=0, append=mask.size).tolist()
    return runs


def from_runs(runs: Any, size: Size) -> BoolArray:
    """The mask (H, W) of those run lengths; size is (width, height).

    Raises ValueError where the runs are not those of such a mask, before it is allocated.
    """
    width, height = size
    if not _whole_numbers(runs) or min(runs, default=0) < 0:
        raise ValueError(f"mask_runs must be whole numbers, none negative, got {quoted(runs)}")
    if sum(runs) != width * height:
        raise ValueError(
            f"mask_runs must sum to {width} x {height} = {width * height} pixels, "
            f"got {quoted(sum(runs))}"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(height, width)


def _whole_numbers(values: Any) -> bool:
    # ``type``, because isinstance takes True for an int
    return isinstance(values, list) and all(type(value) is int for value in values)
