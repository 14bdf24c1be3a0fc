"""Does memory grow while one edit goes on and on? Rounds of all that a user does, and readings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from dragwidget.bench.memory import held_memory
from dragwidget.data.frames import XY
from dragwidget.data.instructions import DragInstructions
from dragwidget.session.session import DragSession


@dataclass(frozen=True)
class Reading:
    """What is held after so many rounds.

    Attributes:
        held: bytes, counted as ``bench.memory`` does.
        history: bytes of them that the steps taken explain; they are kept, as one can go back.
        seconds: since the first round.
    """

    rounds: int
    held: int
    history: int
    seconds: float


def drawn(base: DragInstructions, number: int) -> DragInstructions:
    """Return what is drawn in a round: the first target goes round its handle, which moves as well.

    The handle is drawn again every fifth round, on the current image.
    """
    width, height = base.size
    angle = number * 2.4  # radians, so that no two rounds are alike
    reach = 0.14 * min(base.size)
    at = base.pairs[0].handle

    def inside(x: float, y: float) -> XY:
        return min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)

    handle = inside(at[0] + (number // 5) % 7, at[1] + (number // 35) % 7)
    target = inside(handle[0] + reach * math.cos(angle), handle[1] + reach * math.sin(angle))
    return base.with_pairs([(handle, target), *base.pairs[1:]])


def round_of_session(session: DragSession, base: DragInstructions, steps: int, number: int) -> None:
    """Move a point, drag, render, and go back."""
    session.instructions = drawn(base, number)
    session.step(steps)
    session.render()
    # Not always to the start: handles are drawn on later images, too.
    session.rewind(min(number % 3, len(session.history)))


def history_bytes(session: DragSession) -> int:
    """Return the size of the tensors of all steps, bytes."""
    return sum(
        tensor.nbytes
        for edit in session.edits
        for node in edit.history.nodes[1:]
        for tensor in (node.latent, node.moments.first, node.moments.second)
    )


def soak(
    session: DragSession,
    one_round: Callable[[int], None],
    rounds: int,
    every: int,
    device: torch.device,
    tick: Callable[[], object] = lambda: None,
) -> Iterator[Reading]:
    """Do so many rounds; a reading after each ``every`` of them, and after the last.

    Args:
        tick: called after each round.

    Raises:
        RuntimeError: the system does not say how much memory is held.
    """
    start = time.monotonic()
    for number in range(1, rounds + 1):
        one_round(number)
        tick()
        if number % every == 0 or number == rounds:
            held = held_memory(device)
            if held is None:
                raise RuntimeError(f"this system does not say how much memory is held on {device}")
            yield Reading(number, held, history_bytes(session), time.monotonic() - start)
