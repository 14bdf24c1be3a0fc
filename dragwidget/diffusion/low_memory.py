"""Less memory for more time: activations made again for the gradient, parts kept off the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["Memory", "check_memory", "checkpointed", "on_device"]

Memory = Literal["normal", "low"]

# What a UNet is made of, between its blocks' inputs and outputs. The blocks themselves are too
# large: a pass may end within the last one, and features are read behind each.
_CHECKPOINTED = ("ResnetBlock2D", "Transformer2DModel")


def check_memory(memory: str) -> Memory:
    """The choice, or ValueError."""
    if memory not in ("normal", "low"):
        raise ValueError(f"memory must be 'normal' or 'low', got {memory!r}")
    return "low" if memory == "low" else "normal"


@contextmanager
def checkpointed(
    unet: nn.Module, again: Callable[[], AbstractContextManager[Any]]
) -> Iterator[None]:
    """While this lasts, a pass of a UNet with a graph keeps only what its layers start from.

    What lies within a layer is computed a second time for the gradient, bit for bit (Chen et al.,
    arXiv 1604.06174).

    Args:
        again: a context for that second time, which may be after this one is over, and on another
            thread: what is switched on for the pass has to be on then, too.
    """
    own: list[tuple[nn.Module, Any]] = []
    try:
        for module in unet.modules():
            if type(module).__name__ in _CHECKPOINTED:
                forward: Any = module.forward
                own.append((module, module.__dict__.get("forward")))
                module.forward = partial(_checkpoint, forward, again)
        yield
    finally:
        for module, forward in own:
            del module.forward
            if forward is not None:
                module.forward = forward


def _checkpoint(
    forward: Callable[..., Any],
    again: Callable[[], AbstractContextManager[Any]],
    *args: Any,
    **kwargs: Any,
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is random in a pass
        context_fn=lambda: (nullcontext(), again()),
        **kwargs,
    )


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """A module that waits on the CPU is on a device while this lasts."""
    home = next(module.parameters()).device
    with ExitStack() as stack:
        if home != device:
            # Not ``module.to``: diffusers would log that it may not suit every model.
            stack.callback(nn.Module.to, module, home)
            nn.Module.to(module, device)
        yield
