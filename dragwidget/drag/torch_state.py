"""The user's PyTorch settings, kept out of what is computed here.

A notebook may work under ``torch.autocast``, with another default dtype or device, or in inference
mode. Each would change a result, and what is cached would pass it on to whoever works without.
``PlainTorch`` sets all of them aside while it lasts, and puts them back. What it leaves alone are
choices that belong to the device: deterministic algorithms, threads, and the precision of float32
products (TF32), which cached stages are told apart by.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

__all__ = ["PlainTorch", "in_plain_torch", "ordinary", "ordinary_weights"]

F = TypeVar("F", bound=Callable[..., Any])

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


class PlainTorch:
    """A context in which PyTorch is, on this thread, as it is when nobody has set anything.

    Autocast and inference mode are off; float32 and the CPU are the defaults. Whether gradients are
    recorded is left alone: what needs them says so itself. The default dtype belongs to the whole
    process: where the user has set another, other threads see float32 too while this lasts.

    An interrupt may strike just where it is left; whoever catches one calls ``end``, too.

    Raises:
        RuntimeError: inside a transform of ``torch.func``, which would differentiate or batch what
            is done here.
    """

    def __init__(self) -> None:
        self.end = _modes()

    def __enter__(self) -> None:
        _refuse_transforms()
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            for device in _AUTOCAST_DEVICES:
                if _autocast_is_on(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if (dtype := torch.get_default_dtype()) != torch.float32:
                stack.callback(torch.set_default_dtype, dtype)
                torch.set_default_dtype(torch.float32)
            if _default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            self._stack = stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def in_plain_torch(function: F) -> F:
    """Let a function, or every step of a generator, run in ``PlainTorch``.

    Between two steps of a generator the user's settings are back: whoever drives it is left alone.
    """
    if not inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def plainly(*args: Any, **kwargs: Any) -> Any:
            plain = PlainTorch()
            try:
                with plain:
                    return function(*args, **kwargs)
            except BaseException:
                plain.end()
                raise

        return cast(F, plainly)

    @functools.wraps(function)
    def stepwise(*args: Any, **kwargs: Any) -> Any:
        return _stepwise(function(*args, **kwargs))

    return cast(F, stepwise)


def _modes() -> Callable[[], None]:
    """Return what puts PyTorch's modes back to what they are now.

    PyTorch's own contexts do it, but an interrupt may strike just where one of them is left: then
    no gradient would be recorded in the rest of the notebook, say, or every tensor saved for one
    would go through a hook of a step that is over.
    """
    recorded, dtype, hooks = torch.is_grad_enabled(), torch.get_default_dtype(), _saving_hooks()
    autocast = {device: _autocast_is_on(device) for device in _AUTOCAST_DEVICES}

    def put_back() -> None:
        torch.set_grad_enabled(recorded)
        torch.set_default_dtype(dtype)
        while (top := _saving_hooks()) is not None and top != hooks:
            torch._C._autograd._pop_saved_tensors_default_hooks()
        for device, is_on in autocast.items():
            if _autocast_is_on(device) != is_on:
                torch.set_autocast_enabled(device, is_on)

    return put_back


def _saving_hooks() -> Any:
    """The innermost hooks on tensors saved for gradients; ``None``: none, or not to be known."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return None if top is None else top(False)


def _stepwise(work: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    resume: Callable[[], Any] = functools.partial(next, work)
    while True:
        plain = PlainTorch()
        try:
            with plain:
                item = resume()
        except StopIteration as done:
            return done.value
        except BaseException:
            plain.end()
            raise
        try:
            resume = functools.partial(work.send, (yield item))
        except GeneratorExit:
            in_plain_torch(work.close)()
            raise
        except BaseException as error:
            resume = functools.partial(work.throw, error)


def ordinary(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy where it was made in inference mode, which autograd refuses."""
    return tensor.clone() if tensor.is_inference() else tensor


def ordinary_weights(network: Any) -> Any:
    """Return the network, its weights and buffers copied where they were made in inference mode."""
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and tensor.is_inference():
                    copied = tensor.detach().clone()
                    if own is module._parameters:
                        copied = nn.Parameter(copied, requires_grad=False)
                    own[name] = made.setdefault(id(tensor), copied)
    return network


def _autocast_is_on(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # PyTorch before 2.4 has a function for each
        names = {"cpu": "is_autocast_cpu_enabled", "cuda": "is_autocast_enabled"}
        return device in names and bool(getattr(torch, names[device])())


def _default_device() -> torch.device:
    """Where a tensor is made if nobody says where, by the innermost ``with torch.device(..)``."""
    return torch.empty(0).device


def _refuse_transforms() -> None:
    peek = getattr(torch._C._functorch, "peek_interpreter_stack", None)
    if peek is not None and peek() is not None:
        raise RuntimeError(
            "this was called inside a transform of torch.func (grad, vmap, ..), which would "
            "transform the edit too: call it outside, and pass the result in"
        )
