"""Interrupts at every traced line of a piece of work, and all that a network holds."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.diffusion.switches import lock_of

# Lines of this code are interrupted at their first time and their last, others at the first alone.
OURS = ("/dragwidget/", "/contextlib.py", "/grad_mode.py", "/torch/utils/hooks.py")

Line = tuple[CodeType, int]


class Tracer:
    """Sees every line of Python that runs inside; raises KeyboardInterrupt at one of them.

    Args:
        at: a line and how many times it has been reached then; ``None`` only counts.

    Attributes:
        count: how often each line was reached.
    """

    def __init__(self, at: tuple[Line, int] | None = None) -> None:
        self.at = at
        self.raised = False
        self.count: Counter[Line] = Counter()

    def __enter__(self) -> Tracer:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        del event, arg
        if self.at is not None and frame.f_code is not self.at[0][0]:
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        del arg
        if event == "line":
            line = frame.f_code, frame.f_lineno
            self.count[line] += 1
            if self.at == (line, self.count[line]):
                self.raised = True
                raise KeyboardInterrupt  # which ends the tracing, too
        return self._line


def lines_of(work: Callable[[], object]) -> list[tuple[Line, int]]:
    """Where to interrupt a piece of work: each line it runs, at its first time and its last."""
    with Tracer() as tracer:
        work()
    found = []
    for (code, line), count in tracer.count.items():
        times = {1, count} if any(part in code.co_filename for part in OURS) else {1}
        found.extend(((code, line), time) for time in sorted(times))
    return found


def interrupted(work: Callable[[], object], at: tuple[Line, int]) -> bool:
    """Do the work; whether it was interrupted there."""
    try:
        with Tracer(at) as tracer:
            work()
    except KeyboardInterrupt:
        pass
    return tracer.raised


def name_of(at: tuple[Line, int]) -> str:
    """Where that is, to be read."""
    (code, line), time = at
    return f"{code.co_filename}:{line} in {code.co_name}, time {time}"


def inventory(model: StableDiffusion) -> dict[str, Any]:
    """Everything that a pass could leave behind, in the networks of a model and in PyTorch."""
    # Of torch 2.7 and later.
    top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    found: dict[str, Any] = {
        "torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                  torch.get_default_dtype(), torch.is_autocast_enabled("cpu"),
                  top_hooks and top_hooks(False)),
    }  # fmt: skip
    for name in ("unet", "vae", "text_encoder"):
        network: nn.Module = getattr(model, name)
        for path, module in network.named_modules():
            own = vars(module)
            plain = {key: id(value) for key, value in own.items() if not key.startswith("_")}
            hooks = {
                key: [(str(k), id(v)) for k, v in value.items()]
                for key, value in own.items()
                if key.endswith("hooks") and value
            }
            found[f"{name}.{path}"] = (plain, hooks, [*map(id, module._modules.values())])
        for path, w in (*network.named_parameters(), *network.named_buffers()):
            found[f"{name}.{path} (weight)"] = (
                w.data_ptr(), w.dtype, w.device, w.requires_grad, w.grad is None, w._version,
            )  # fmt: skip
        found[f"lock of {name}"] = is_free(lock_of(network))
    return found


def is_free(lock: Any) -> bool:
    """Whether another thread could take a lock, which this one might take again."""
    free: list[bool] = []

    def take() -> None:
        free.append(lock.acquire(blocking=False))
        if free[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return free[0]


def weights_of(model: StableDiffusion) -> bytes:
    """A digest of the bytes of all weights."""
    digest = hashlib.sha256()
    for network in (model.unet, model.vae, model.text_encoder):
        for weight in network.parameters():
            digest.update(weight.detach().numpy().tobytes())
    return digest.digest()
