"""What a device has left, which numbers it has hardware for, and how precise it was told to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "calculates_fast", "first_parameter", "float32_precision", "free_memory", "in_table",
    "placed_like",
]  # fmt: skip


def calculates_fast(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a device has instructions for a type of numbers; without, it is emulated.

    On the CPU a convolution in emulated bfloat16 or float16 takes 50 to 100 times the time that it
    takes in float32.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return True
    if device.type == "cuda":  # float16 is fast on all; bfloat16 since compute capability 8
        return dtype == torch.float16 or torch.cuda.get_device_capability(device)[0] >= 8
    return device.type != "cpu" or _cpu_has(dtype)


def _cpu_has(dtype: torch.dtype) -> bool:
    """Whether oneDNN, which makes torch's convolutions on the CPU, has kernels for it here."""
    word = "bf16" if dtype == torch.bfloat16 else "fp16"
    try:
        return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{word}_supported")())
    except (AttributeError, RuntimeError):  # torch was built without it, or is older
        return False


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a device, bytes; ``None`` if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    return in_table(Path("/proc/meminfo"), "MemAvailable")


def float32_precision() -> tuple[str, ...]:
    """Return how float32 matrix products and convolutions are computed; TF32 changes every result.

    The user's choice, which nothing here changes.
    """
    backends = torch.backends
    return (
        _switch(backends.cuda.matmul, "ieee"),
        _switch(backends.mkldnn, "ieee"),
        _switch(backends.cudnn, "none"),
    )


def _switch(backend: Any, default: str) -> str:
    """PyTorch's newer switch, or its older one; what the newer one calls "none" is its default."""
    if hasattr(backend, "fp32_precision"):
        precision = str(backend.fp32_precision)
        return default if precision == "none" else precision
    return str(getattr(backend, "allow_tf32", default))


def in_table(path: Path, field: str) -> int | None:
    """Return a field of a table of Linux, in kB there, as bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def first_parameter(network: nn.Module) -> Tensor:
    """Return a weight that stands for where a network is, and of what type."""
    return next(network.parameters())


def placed_like(network: nn.Module, tensor: Tensor) -> Tensor:
    """Return a tensor where a network is, in its number format."""
    parameter = first_parameter(network)
    return tensor.to(parameter.device, parameter.dtype)
