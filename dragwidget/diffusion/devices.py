"""What a device has left."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["free_memory", "in_table"]


def free_memory(device: torch.device) -> int | None:
    """Bytes that could be taken on a device; ``None`` where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    return in_table(Path("/proc/meminfo"), "MemAvailable")


def in_table(path: Path, field: str) -> int | None:
    """A field of a table of Linux, in kB there, as bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None
