"""Writing safetensors piece by piece: what is large need not be in memory at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Later", "Sink", "size", "write_tensors"]

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}


class Sink(Protocol):
    """What takes bytes: a file, or whoever only counts or digests them."""

    def write(self, data: Any, /) -> object: ...


class Later:
    """A tensor that is made when it is written.

    Args:
        like: of its type.
        shape: its own.
    """

    def __init__(self, like: Tensor, shape: tuple[int, ...], make: Callable[[], Tensor]) -> None:
        self.dtype, self.shape, self.make = like.dtype, torch.Size(shape), make

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


def size(tensors: Mapping[str, Tensor | Later]) -> int:
    """Bytes of all of them."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_tensors(
    file: Sink, tensors: Mapping[str, Tensor | Later], about: Mapping[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file, one after the other.

    Args:
        about: the file's metadata.
    """
    # What is wide first, so that everything lies where its type wants it.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(about)} if about else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    file.write(len(said).to_bytes(8, "little") + said)
    for name in order:
        tensor = tensors[name]
        made = tensor.make() if isinstance(tensor, Later) else tensor
        assert (made.dtype, made.shape) == (tensor.dtype, tensor.shape)
        flat = made.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)
