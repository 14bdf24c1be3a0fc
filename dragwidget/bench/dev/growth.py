"""How the cost of a drag grows: with the image, the pairs and the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from dragwidget.bench.dev.rounds import Case, measure
from dragwidget.bench.dev.speed import Task, our_step
from dragwidget.bench.memory import Meter
from dragwidget.session.edit import Edit

SIDES = (0.5, 0.75, 1.0, 1.5, 2.0)  # of an image, in shares of the one that is asked for
PAIRS = (1, 2, 5, 10, 20, 50)
STEPS = (1, 5, 10)


@dataclass(frozen=True)
class Growth:
    """What a drag of ours costs at one size of the task.

    Attributes:
        by: what grows: ``side`` of the image, ``pairs`` of points (one drag step each), or
            ``steps`` of a drag.
        peak: bytes over the weights, at most.
    """

    by: str
    value: int
    seconds: float
    cpu_seconds: float
    peak: int | None


def growth_cases(task: Task) -> list[Case]:
    """Return cases whose laps are named by what grows and its size."""
    multiple = task.model.image_multiple
    sides = sorted({max(1, round(task.side * f / multiple)) * multiple for f in SIDES})
    at = partial(our_step, model=task.ours)
    cases: list[Case] = []
    for side in sides:
        other = replace(task, side=side)
        cases.append(partial(at, lap=f"side {side}", task=other, instructions=other.instructions()))
    for pairs in PAIRS:
        drawn = task.instructions(pairs=pairs)
        cases.append(partial(at, lap=f"pairs {pairs}", task=task, instructions=drawn))
    return [*cases, partial(_drag_on, task=task)]


def _drag_on(meter: Meter, task: Task) -> None:
    """Laps of a drag's first steps, each in the next longer one."""
    edit, drawn = Edit(task.inversion(task.ours)), task.instructions()

    def first(steps: tuple[int, ...]) -> None:
        with meter.lap(f"steps {steps[-1]}"):
            done = steps[-2] if len(steps) > 1 else 0
            if done:
                first(steps[:-1])
            for _ in range(steps[-1] - done):
                edit.advance(drawn, task.settings.drag)

    first(STEPS)


def growth(
    task: Task, rounds: int, device: torch.device, tick: Callable[[], object] = lambda: None
) -> list[Growth]:
    """Measure how the cost of a drag grows with the image, the pairs and the steps."""
    laps = measure(growth_cases(task), rounds, device, tick)
    found = []
    for name, lap in laps.items():
        by, value = name.split()
        found.append(Growth(by, int(value), lap.seconds, lap.cpu_seconds, lap.peak))
    order = ("side", "pairs", "steps")
    return sorted(found, key=lambda one: (order.index(one.by), one.value))
