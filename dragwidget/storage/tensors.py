"""Writing safetensors piece by piece: the whole file is never in memory beside its tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.uint8: "U8",
}  # fmt: skip

Tensors = Mapping[str, Tensor]


def digest(content: bytes | bytearray) -> str:
    """SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def size(tensors: Tensors) -> int:
    """Bytes of all of them."""
    return sum(tensor.nbytes for tensor in tensors.values())


def layout(tensors: Tensors) -> dict[str, dict[str, Any]]:
    """Type, shape and place of each tensor, as a header states them, in the order of the file."""
    places, end = {}, 0
    # What is wide first, so that everything lies where its type wants it.
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        places[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    return places


def header_bytes(tensors: Tensors, about: Mapping[str, str] | None = None) -> bytes:
    """All of a safetensors file that comes before the tensors' bytes."""
    header = json.dumps(({"__metadata__": dict(about)} if about else {}) | layout(tensors)).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def data_chunks(tensors: Tensors) -> Iterator[memoryview]:
    """Yield the bytes of each tensor, in the order of the file."""
    for name in layout(tensors):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def write_tensors(
    write: Callable[[Any], object], tensors: Tensors, about: Mapping[str, str] | None = None
) -> None:
    """Pass the bytes of a safetensors file on to ``write``, one tensor after the other.

    Args:
        about: the file's metadata.
    """
    write(header_bytes(tensors, about))
    for chunk in data_chunks(tensors):
        write(chunk)
