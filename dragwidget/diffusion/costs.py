"""What a piece of work on a network would cost, found without doing it.

The work is run on a meta copy of the model whose tensors have shapes and no content (PyTorch's meta
device). Every operation passes by two counters: one for its floating point operations, one for the
bytes that are alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["META", "Cost", "FusedAttention", "bytes_of", "cost_of", "without_weights"]

META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """Of a piece of work.

    Attributes:
        flops: floating point operations; a multiplication with its addition counts as two.
        peak: bytes alive at most at one time, weights not counted.
        left: bytes alive when it is done.
    """

    flops: float
    peak: int
    left: int


def without_weights(network: Any) -> Any:
    """Return a network of the same shape and number format on the meta device."""
    with META:
        made = type(network).from_config(network.config)
    return torch.nn.Module.to(made, dtype=next(network.parameters()).dtype)


def cost_of(networks: Iterable[torch.nn.Module], work: Callable[[], object]) -> Cost:
    """Return the cost of work on the meta device. What the work returns is alive at its end."""
    with FusedAttention(), _Counter(networks) as counter:
        result = work()
        left = counter.now
        del result
    return Cost(counter.flops, counter.peak, left)


def bytes_of(module: torch.nn.Module) -> int:
    """Return the size of a network's weights and buffers, bytes."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


class FusedAttention(TorchFunctionMode):
    """Attention as devices compute it, in one piece: its matrix is never held.

    On the meta device PyTorch would spell it out.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _fused(*args, **kwargs)
        return func(*args, **kwargs)


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    attention = torch.ops.aten._scaled_dot_product_flash_attention
    out: Tensor = attention(query, key, value)[0]
    return out


# What an operation without side effects returns and its flops, by the shapes of its arguments.
# PyTorch computes both in Python, which takes most of the time of a pass, and a pass repeats most
# of its operations.
_results: dict[Any, Any] = {}
_MAX_RESULTS = 20_000
_pure: dict[Any, bool] = {}


def _run(func: Any, args: Any, kwargs: Any) -> tuple[Any, float]:
    """Result and flops of an operation on meta tensors, remembered by the arguments' shapes."""
    if func not in _pure:
        schema = func._schema
        aliases = (*schema.arguments, *schema.returns)
        _pure[func] = not any(each.alias_info for each in aliases)
    if not _pure[func]:
        return _compute(func, args, kwargs)
    key = (func, _shape_of(args), _shape_of(tuple(kwargs.items())))
    try:
        known = _results.get(key)
    except TypeError:  # an argument that is neither a tensor nor a plain value
        return _compute(func, args, kwargs)
    if known is not None:
        kind, layouts, flops = known
        made = [layout and _empty(*layout) for layout in layouts]
        return (kind(made) if kind in (tuple, list) else made[0]), flops
    out, flops = _compute(func, args, kwargs)
    leaves = out if isinstance(out, tuple | list) else (out,)
    if all(leaf is None or _on_meta(leaf) for leaf in leaves):
        if len(_results) >= _MAX_RESULTS:
            _results.clear()
        _results[key] = (type(out), [_layout(leaf) for leaf in leaves], flops)
    return out, flops


def _compute(func: Any, args: Any, kwargs: Any) -> tuple[Any, float]:
    out = func(*args, **kwargs)
    count = flop_registry.get(func.overloadpacket)
    return out, count(*args, **kwargs, out_val=out) if count else 0.0


def _on_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.device == META


def _empty(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype, device=META)


def _layout(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _shape_of(value: Any) -> Any:
    """Return all of an argument that a result's shape depends on."""
    if isinstance(value, Tensor):
        # An expanded tensor's result may be expanded, so its strides count.
        return (tuple(value.shape), value.stride(), value.dtype, value.device.type)
    if isinstance(value, tuple | list):
        return tuple(map(_shape_of, value))
    return (type(value), value)  # 1, 1.0 and True are equal


class _Counter(TorchDispatchMode):
    """Counts operations, and the bytes of every tensor for as long as it lives."""

    def __init__(self, networks: Iterable[torch.nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0
        self.now = self.peak = 0
        # Weights are not counted, nor are views of them.
        weights = (w for network in networks for w in (*network.parameters(), *network.buffers()))
        self._known = weakref.WeakSet(w.untyped_storage() for w in weights)
        self._watched: dict[weakref.ref[Any], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, flops = _run(func, args, kwargs)
        self.flops += flops
        for tensor in tree_leaves(out) if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.device == META:
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self._watched[weakref.ref(storage, self._freed)] = size

    def _freed(self, storage: weakref.ref[Any]) -> None:
        self.now -= self._watched.pop(storage)
