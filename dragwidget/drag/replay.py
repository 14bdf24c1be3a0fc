"""Passes of one drag that are recorded once and replayed, as CUDA graphs.

A pass of Stable Diffusion's network and its gradient are about 2,000 small kernels. On a fast GPU
launching them one after the other takes longer than they do; a recorded pass is launched as one,
and its gradient as another. The same work on the same memory: nothing of Python runs in a replay,
so whatever a pass depends on beside its latent has to stay as it was when it was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from dragwidget.data.user_warning import warn_user
from dragwidget.drag.evaluation import DragModel, ModelOutput
from dragwidget.drag.noise_path import Time

__all__ = ["CudaRecording", "Recording", "Replays"]

WARM = 2  # passes of a kind before one is recorded: until then kernels are chosen, and caches made
TOLERANCE = 1e-2  # of the largest value: a replay that differs by more is not the pass


class Recording(Protocol):
    """Work on a device that is recorded once and replayed on the same memory."""

    def record(self) -> AbstractContextManager[Any]:
        """Record the work within; where it runs too, as on a CPU, that is no harm."""
        ...

    def replay(self) -> None:
        """Do that work again."""
        ...


class CudaRecording:
    """A CUDA graph with memory of its own.

    Args:
        of: a recording that this one follows, whose memory it shares.
    """

    def __init__(self, of: CudaRecording | None = None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._pool: Any = torch.cuda.graph_pool_handle() if of is None else of._pool

    def record(self) -> AbstractContextManager[Any]:
        """Record the work within; other threads may go on using the GPU meanwhile."""
        return torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local")

    def replay(self) -> None:
        """Launch all of the graph."""
        self._graph.replay()


class Replays:
    """A ``DragModel`` that records its passes, by timestep and shape, and replays them.

    What a replay gives is compared with the pass once. Where a pass cannot be recorded, or differs,
    every pass runs as it would without this; a warning and ``refused`` say why.

    Attributes:
        model: whose passes they are.
        refused: why none is replayed; empty while that is open or done.

    Args:
        recording: makes an empty recording; given another, one that follows it.
    """

    def __init__(
        self, model: DragModel, recording: Callable[..., Recording] = CudaRecording
    ) -> None:
        self.model, self.refused = model, ""
        self._recording = recording
        self._seen: dict[Any, int] = {}
        self._made: dict[Any, _Pass] = {}

    def __call__(
        self, latent: Tensor, timestep: Time, *, blocks: Any = (), predict: bool = True
    ) -> ModelOutput:
        """Run or replay the network once; see ``DragModel``.

        The gradient of a pass that was replayed can be taken until the next one.
        """
        kind = (timestep, latent.shape, latent.dtype, tuple(blocks), predict)
        if not latent.requires_grad or self.refused:
            return self.model(latent, timestep, blocks=blocks, predict=predict)
        if kind not in self._made:
            self._seen[kind] = self._seen.get(kind, 0) + 1
            output = self.model(latent, timestep, blocks=blocks, predict=predict)
            if self._seen[kind] > WARM:
                self._record(kind, latent, output)
            return output
        outputs = _Replayed.apply(latent, self._made[kind])  # type: ignore[no-untyped-call]
        return ModelOutput(outputs[-1] if predict else None, outputs[: len(blocks)])

    def _record(self, kind: Any, latent: Tensor, expected: ModelOutput) -> None:
        timestep, _, _, blocks, predict = kind
        try:
            made = _Pass(
                lambda leaf: self.model(leaf, timestep, blocks=blocks, predict=predict),
                latent, self._recording,
            )  # fmt: skip
            apart = made.apart(latent, expected)
        except Exception as error:  # whatever a device cannot record is a reason not to
            self.refused = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            if apart <= TOLERANCE:
                self._made[kind] = made
                return
            self.refused = f"a replayed pass differs from the pass by {apart:.2g} of its values"
        warn_user(f"passes are not recorded as CUDA graphs: {self.refused}")


class _Pass:
    """A recorded pass and its gradient."""

    def __init__(
        self, run: Callable[[Tensor], ModelOutput], latent: Tensor,
        recording: Callable[..., Recording],
    ) -> None:  # fmt: skip
        self.number = 0  # of the last replay
        self._leaf = latent.detach().clone().requires_grad_()
        self._forward = recording()
        with torch.enable_grad(), self._forward.record():
            self.outputs = _tensors(run(self._leaf))
        self._given = tuple(torch.zeros_like(output) for output in self.outputs)
        self._backward = recording(self._forward)
        with self._backward.record():
            (self._gradient,) = torch.autograd.grad(self.outputs, self._leaf, self._given)

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            self._leaf.copy_(latent)
        self._forward.replay()
        self.number += 1
        return tuple(output.detach().clone() for output in self.outputs)

    def backward(self, number: int, given: tuple[Tensor, ...]) -> Tensor:
        if number != self.number:
            raise RuntimeError("the gradient of a replayed pass was asked for after the next pass")
        for mine, their in zip(self._given, given, strict=True):
            mine.copy_(their)
        self._backward.replay()
        return self._gradient.clone()

    def apart(self, latent: Tensor, expected: ModelOutput) -> float:
        """Return how far a replay is from the pass, as a share of the largest value."""
        wanted = _tensors(expected)
        ones = tuple(torch.ones_like(output) for output in wanted)
        (slope,) = torch.autograd.grad(wanted, latent, ones, retain_graph=True)
        found = (*self.forward(latent), self.backward(self.number, ones))
        with torch.no_grad():
            gaps = [
                (a - b).abs().amax().float() / b.abs().amax().float().clamp(min=1e-30)
                for a, b in zip(found, (*wanted, slope), strict=True)
            ]
            return float(torch.stack(gaps).amax().nan_to_num(torch.inf))


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, made: _Pass) -> tuple[Tensor, ...]:
        outputs = made.forward(latent)
        ctx.made, ctx.number = made, made.number
        return outputs

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        return ctx.made.backward(ctx.number, given), None


def _tensors(output: ModelOutput) -> tuple[Tensor, ...]:
    return output.features if output.prediction is None else (*output.features, output.prediction)
