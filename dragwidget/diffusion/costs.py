"""What a piece of work on a network would cost, found without doing it.

The work is run on a twin of the model whose tensors have shapes and no content (PyTorch's meta
device). Every operation passes by two counters: one for its floating point operations, one for the
bytes that are alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.model import DiffusionModel

__all__ = ["Cost", "bytes_of", "cost_of", "twin"]

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


class _Twin(DiffusionModel):
    """A model of meta tensors."""

    @property
    def device(self) -> torch.device:
        return META

    @property
    def waiting_device(self) -> torch.device:
        return META

    @contextmanager
    def _again(self, lora: LoRA | None) -> Iterator[None]:
        with super()._again(lora), _FusedAttention():
            yield


def twin(model: DiffusionModel) -> DiffusionModel:
    """A model of the same shape on the meta device; its text encoder is the model's own."""
    networks = []
    for network in (model.unet, model.vae):
        with META:
            made = type(network).from_config(network.config)
        networks.append(torch.nn.Module.to(made, dtype=next(network.parameters()).dtype))
    return _Twin(**{**model.parts, "unet": networks[0], "vae": networks[1]})


def cost_of(model: DiffusionModel, work: Callable[[], object]) -> Cost:
    """Of work with a twin. What the work returns is alive when it is done."""
    with _FusedAttention(), _Counter((model.unet, model.vae)) as counter:
        result = work()
        left = counter.now
        del result
    return Cost(counter.flops, counter.peak, left)


def bytes_of(module: torch.nn.Module) -> int:
    """Of a network's weights and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


class _FusedAttention(TorchFunctionMode):
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
        out = func(*args, **kwargs)
        if count := flop_registry.get(func.overloadpacket):
            self.flops += count(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
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
