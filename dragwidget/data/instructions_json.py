"""Drag instructions as JSON text: one versioned object, its mask as run lengths.

Knows the form only; ``DragInstructions`` checks what the values mean. Reading is safe on text from
anyone: bounded in time and memory, and a ValueError is all that it raises.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import MAX_PIXELS, XY, BoolArray, Size
from dragwidget.data.limits import parse_json
from dragwidget.data.quoting import quoted

MAX_LENGTH = 64 * 2**20  # characters

_FORMAT = "dragwidget.instructions"
_VERSION = 1
_FIELDS = {"size", "prompt", "points", "mask_runs"}
_RUNS = re.compile(rb'"mask_runs"\s*:\s*\[([0-9, ]*)\]')  # in a string its quotes are escaped


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
    fields, runs = _parse(text)
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
    listed = fields.pop("mask_runs")
    runs = listed if runs is None else runs
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


def _parse(text: str | bytes) -> tuple[Any, npt.NDArray[np.int64] | None]:
    """The fields; and the run lengths apart, as Python's own numbers take nine times their text."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"not drag instructions: {len(text):,} characters of JSON are too many")
    data = text.encode(errors="replace") if isinstance(text, str) else bytes(text)
    found = _RUNS.search(data)
    runs = _numbers(found[1]) if found else None
    if found and runs is not None:
        data = data[: found.start(1) - 1] + b"null" + data[found.end(1) + 1 :]
    return parse_json(data, "not drag instructions"), runs


def _numbers(text: bytes) -> npt.NDArray[np.int64] | None:
    """Whole numbers with commas, and perhaps a blank, between them; ``None``: it is not that."""
    blanks = text.count(b" ") != text.count(b", ") or b" ," in text
    if not text or blanks or b",," in text or text.startswith(b",") or text[-1:] in b", ":
        return None
    return np.fromstring(text, dtype=np.int64, sep=",")


def to_runs(mask: BoolArray) -> list[int]:
    """Run lengths of a mask, row by row: False first (perhaps 0 long), then True, and by turns."""
    flat = np.concatenate(([False], mask.ravel()))
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    runs: list[int] = np.diff(starts, prepend=0, append=mask.size).tolist()
    return runs


def from_runs(runs: list[int] | npt.NDArray[np.int64], size: Size) -> BoolArray:
    """Return the mask (H, W) of those run lengths; size is (width, height).

    Raises ValueError where the runs are not those of such a mask, before it is allocated.
    """
    width, height = size
    if isinstance(runs, np.ndarray):
        whole = runs.min(initial=0) >= 0 and runs.max(initial=0) <= width * height
    else:
        whole = _whole_numbers(runs) and min(runs, default=0) >= 0
    if not whole:
        raise ValueError(
            f"mask_runs must be whole numbers, none negative, none above {width * height}, "
            f"got {quoted(runs[:100].tolist() if isinstance(runs, np.ndarray) else runs)}"
        )
    if (total := int(sum(runs) if isinstance(runs, list) else runs.sum())) != width * height:
        raise ValueError(
            f"mask_runs must sum to {width} x {height} = {width * height} pixels, "
            f"got {quoted(total)}"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(height, width)


def _whole_numbers(values: Any) -> bool:
    # ``type``, because isinstance takes True for an int
    return isinstance(values, list) and all(type(value) is int for value in values)
