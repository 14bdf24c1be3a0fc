"""Tensors in a safetensors file, with a reason by name for every file that is none."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dragwidget.data.quoting import quoted

__all__ = ["Header", "first_line", "read_header", "read_weights"]

_MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it
_LIKE_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        shapes: of all its tensors, by name.
        metadata: what else it says, words only.
    """

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @property
    def numbers(self) -> int:
        """How many numbers all tensors hold."""
        return sum(map(math.prod, self.shapes.values()))


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file.

    Raises:
        ValueError: not a safetensors file (a web page, a pickle, a pointer of Git LFS), or cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = file.read(length if 2 <= length <= _MAX_HEADER else 100)
    if size < 8:
        raise _cut_off(path, size, "at least 8")
    if not text.startswith(b"{"):
        raise _not_safetensors(path, start + text[:100], size)
    if size < 8 + length:
        raise _cut_off(path, size, f"more than {8 + length}")
    try:
        content: dict[str, Any] = json.loads(text)
        metadata = {str(k): str(v) for k, v in (content.pop("__metadata__", None) or {}).items()}
        shapes = {name: tuple(entry["shape"]) for name, entry in content.items()}
        ends = max((int(entry["data_offsets"][1]) for entry in content.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _not_safetensors(path, start + text[:100], size) from error
    if size < 8 + length + ends:
        raise _cut_off(path, size, str(8 + length + ends))
    return Header(shapes, metadata)


def read_weights(path: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Read tensors of a safetensors file, all or those named; memory-mapped.

    Raises:
        ValueError: see ``read_header``; or another fault of the file.
    """
    read_header(path)
    try:
        with safe_open(path, framework="pt") as opened:
            wanted = opened.keys() if names is None else names
            return {name: opened.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path.name} is not a readable safetensors file ({first_line(error)})"
        ) from error


def _not_safetensors(path: Path, start: bytes, size: int) -> ValueError:
    if start.lstrip()[:1] == b"<":
        what = "a web page, perhaps of a login or an error"
    elif start.startswith(b"version https://git-lfs"):
        what = "a pointer of Git LFS: run git lfs pull in its folder"
    elif start.startswith(_LIKE_PICKLES):
        what = "a pickle or a zip archive of another name, and is not opened"
    else:
        what = f"{size} bytes that begin with {quoted(start[:16])}"
    return ValueError(f"{path.name} is not a readable safetensors file, but {what}")


def _cut_off(path: Path, size: int, wanted: str) -> ValueError:
    return ValueError(
        f"{path.name} is not a readable safetensors file: it is cut off, with {size} of {wanted} "
        "bytes; fetch it again"
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, at most 500 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
