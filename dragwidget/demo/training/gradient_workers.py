"""Gradient workers: processes that add gradients of their own batches, however slow their cores.

A worker computes on weights that may be a step or two old, and the main process never waits for
it: a core that is half taken by other work still helps. A run with gradient workers is not
reproducible to the bit, because when a gradient arrives depends on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn

_SPAWN = multiprocessing.get_context("spawn")


class SharedGradients:
    """Holds the weights for the workers and the sum of their gradients, in shared memory."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        size = sum(p.numel() for p in parameters)
        self.weights = torch.zeros(size).share_memory_()  # type: ignore[no-untyped-call]
        self.sum = torch.zeros(size).share_memory_()  # type: ignore[no-untyped-call]
        # ^ of gradients, times their batch's size
        images = torch.zeros((), dtype=torch.int64)  # in `sum`
        self.count = images.share_memory_()  # type: ignore[no-untyped-call]
        self.lock = _SPAWN.Lock()

    @torch.no_grad()
    def publish(self, parameters: Sequence[nn.Parameter]) -> None:
        """Publish the newest weights (main process)."""
        torch.cat([p.reshape(-1) for p in parameters], out=self.weights)

    @torch.no_grad()
    def fetch(self, parameters: Sequence[nn.Parameter]) -> None:
        """Copy the newest weights (worker)."""
        for p, values in _split(self.weights, parameters):
            p.copy_(values)

    @torch.no_grad()
    def give(self, parameters: Sequence[nn.Parameter], count: int) -> None:
        """Add the mean gradient over `count` images (worker)."""
        with self.lock:
            for p, total in _split(self.sum, parameters):
                total.add_(_gradient(p), alpha=count)
            self.count += count

    @torch.no_grad()
    def merge(self, parameters: Sequence[nn.Parameter], count: int) -> int:
        """Turn `grad`, a mean over `count` images, into the mean over all images (main process).

        Returns the number of all images.
        """
        with self.lock:
            all_of_them = count + int(self.count)
            if all_of_them > count:
                for p, total in _split(self.sum, parameters):
                    _gradient(p).mul_(count).add_(total).div_(all_of_them)
                self.sum.zero_()
                self.count.zero_()
        return all_of_them


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _split(
    flat: Tensor, parameters: Sequence[nn.Parameter]
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    pieces = torch.split(flat, [p.numel() for p in parameters])
    for p, piece in zip(parameters, pieces, strict=True):
        yield p, piece.view(p.shape)


@contextmanager
def run_gradient_workers(count: int, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run `work(index, *arguments)` in `count` processes until the block is left."""
    processes = [
        _SPAWN.Process(target=_run_worker, args=(_pinned_to(), work, i, *arguments))
        for i in range(count)
    ]
    for process in processes:
        process.daemon = True
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _pinned_to() -> set[int]:
    """Return the cores this process may use; empty where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _run_worker(taken: set[int], work: Callable[..., None], index: int, *arguments: Any) -> None:
    """Run `work` off the cores that the main process is pinned to, where there are others."""
    free = set(range(os.cpu_count() or 1)) - taken
    if taken and free:
        os.sched_setaffinity(0, free)
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(10)  # what else runs on its core goes first
    work(index, *arguments)
