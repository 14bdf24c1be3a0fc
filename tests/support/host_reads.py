"""What asks the device for a number, told by the operations of the work."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What a GPU must be waited for: results whose value, or whose size, the host wants to know.
READS = {
    "_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "unique_dim",
    "_unique2",
}  # fmt: skip
COPIES = {"tolist", "numpy", "cpu", "__array__"}


class Operations(TorchDispatchMode):
    """Counts the operations of the work within, by name.

    Attributes:
        counted: by name, without namespace and overload.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def reads(self) -> int:
        """How often the host wanted to know a value."""
        return sum(self.counted[name] for name in READS)


class Copies(TorchFunctionMode):
    """Counts what copies tensors to the host as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in COPIES:
            self.counted[name] += 1
        return func(*args, **(kwargs or {}))


def host_reads(work: Any) -> tuple[int, int]:
    """Return how many values, and how many whole copies, the host reads in some work."""
    with Copies() as copies, Operations() as operations:
        work()
    return operations.reads, copies.counted.total()


__all__ = ["Operations", "host_reads"]
