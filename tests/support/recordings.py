"""A recording on a CPU, as a CUDA graph is one on a GPU: no line of Python runs in a replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from host_reads import READS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Call = tuple[Any, Any, Any, Any]


class CpuRecording:
    """Operations in their order with the memory that each reads and writes.

    Like a GPU's, a replay knows no sizes and values but those of the recording, and what reads a
    value for the host cannot be recorded.
    """

    made = 0

    def __init__(self, of: CpuRecording | None = None) -> None:
        self.calls: list[Call] = []
        self.follows = of
        CpuRecording.made += 1

    @contextmanager
    def record(self) -> Iterator[None]:
        with _Recorder(self.calls):
            yield

    def replay(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, result in self.calls:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result


__all__ = ["CpuRecording"]
