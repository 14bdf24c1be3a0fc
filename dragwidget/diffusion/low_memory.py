"""Less memory for more time: activations made again for the gradient, parts kept off the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dragwidget.diffusion.switches import Around, Switch, Turn

__all__ = ["Memory", "check_memory", "checkpoints", "on_device"]

Memory = Literal["normal", "low"]

# What a UNet is made of, between its blocks' inputs and outputs. The blocks themselves are too
# large: a pass may end within the last one, and features are read behind each. A transformer's
# block is as small as the UNet's parts, and its features are read behind the whole of it.
_CHECKPOINTED = ("ResnetBlock2D", "Transformer2DModel", "JointTransformerBlock")


def check_memory(memory: str) -> Memory:
    """Return the choice; raise ValueError for any other word."""
    if memory not in ("normal", "low"):
        raise ValueError(f"memory must be 'normal' or 'low', got {memory!r}")
    return "low" if memory == "low" else "normal"


def checkpoints(
    network: nn.Module,
    inner: Sequence[Switch],
    again: Callable[[list[Switch], Callable[[], Any]], Any],
) -> list[Switch]:
    """Return what lets a pass of a network with a graph keep only what its layers start from.

    What lies within a layer is computed a second time for the gradient, bit for bit (Chen et al.,
    arXiv 1604.06174).

    Args:
        inner: what is on in the pass and has to be on within a layer that second time, too.
        again: calls its second argument with its first switched on; it may do so after the pass is
            over, and on another thread.
    """

    def keep_inputs(
        within: list[Switch], forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        first = iter([forward])  # it runs inside the pass, where all is on

        def second(*args: Any, **kwargs: Any) -> Any:
            return again(within, partial(forward, *args, **kwargs))

        return checkpoint(
            lambda *args, **kwargs: next(first, second)(*args, **kwargs),
            *args,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is random in a pass
            **kwargs,
        )

    switches: list[Switch] = []
    for layer in network.modules():
        if type(layer).__name__ in _CHECKPOINTED:
            parts = set(layer.modules())
            within = [switch for switch in inner if switch.module in parts]
            switches.append(Around(layer, partial(keep_inputs, within)))
    return switches


def on_device(module: nn.Module, device: torch.device) -> Turn:
    """A context in which a module that waits elsewhere is on a device, for one thread at a time."""
    return Turn(module, device=device)
