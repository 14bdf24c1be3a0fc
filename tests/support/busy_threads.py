"""Two threads that change places as often as Python lets them, so that a race shows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

SWITCH_SECONDS = 1e-6


def run_at_once(*actions: Callable[[int], object], times: int = 100) -> None:
    """Call each action with 1 to ``times`` on a thread of its own; raise what one raises."""
    together, before = Barrier(len(actions)), sys.getswitchinterval()

    def repeated(action: Callable[[int], object]) -> None:
        together.wait(60)
        for number in range(1, times + 1):
            action(number)

    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with ThreadPoolExecutor(len(actions)) as pool:
            for done in [pool.submit(repeated, action) for action in actions]:
                done.result()
    finally:
        sys.setswitchinterval(before)
