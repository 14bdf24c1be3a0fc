"""The expensive stages of an edit, each kept with what made it.

A stage is made once and used until something that made it changes. Then it is *stale*: made anew
when it is next needed, and there again when the change is taken back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Cancelled", "Key", "Monitor", "Progress", "Shelf", "StageStatus"]

T = TypeVar("T")
Key = tuple[tuple[str, Hashable], ...]
"""What made a stage: (name, value) pairs; the names are read by people."""

Phase = Literal["lora", "inversion", "generation", "drag", "reference", "render"]


@dataclass(frozen=True)
class Progress:
    """How far a piece of work has come: ``index`` of ``total`` steps of a phase are done."""

    phase: Phase
    index: int
    total: int
    loss: float | None = None


class Cancelled(Exception):  # noqa: N818 - what happened, not a fault
    """The work was cancelled; the session is as it was before, steps that were done are kept."""


class Monitor:
    """Runs work that reports its progress, and stops it when asked from another thread.

    Attributes:
        progress: called with every ``Progress``, on the thread that works.
    """

    def __init__(self, progress: Callable[[Progress], None] | None = None) -> None:
        self.progress = progress
        self._cancel = threading.Event()

    def start(self) -> None:
        """Forget a cancellation that was meant for earlier work."""
        self._cancel.clear()

    def cancel(self) -> None:
        """Let the work raise ``Cancelled`` before its next pass of the network."""
        self._cancel.set()

    def check(self) -> None:
        """Raise ``Cancelled`` where that was asked for."""
        if self._cancel.is_set():
            raise Cancelled("cancelled")

    def report(self, progress: Progress) -> None:
        """Pass on how far the work has come; raise ``Cancelled`` where that was asked for."""
        if self.progress is not None:
            self.progress(progress)
        if self._cancel.is_set():
            raise Cancelled(f"cancelled in {progress.phase}, {progress.index} of {progress.total}")

    def run(self, work: Generator[Progress, None, T]) -> T:
        """Run work to its end, reporting; return its result."""
        while True:
            try:
                progress = next(work)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            self.report(progress)


@dataclass(frozen=True)
class StageStatus:
    """Whether a stage can be used as it is.

    Attributes:
        state: ``fresh`` is up to date; ``stale`` was made, but something has changed since;
            ``missing`` was never made; ``off`` is not wanted by the settings.
        why: a sentence for people.
    """

    state: Literal["fresh", "stale", "missing", "off"]
    why: str = ""


class Shelf(Generic[T]):
    """Where a stage is kept, each version with the key of what made it.

    Args:
        limit: how many versions to keep; the one made longest ago goes first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made: dict[Key, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._made.values()))  # another thread may put one there meanwhile

    def get(self, key: Key) -> T | None:
        """The version that was made by exactly this, if it is kept."""
        return self._made.get(key)

    def put(self, key: Key, value: T) -> T:
        self._made[key] = value
        while len(self._made) > self._limit:
            del self._made[next(iter(self._made))]
        return value

    def status(self, key: Key) -> StageStatus:
        """Whether there is a version made by this; if not, what has changed since the nearest one.

        Of versions from which equally much has changed, the one made last counts.
        """
        if key in self._made:
            return StageStatus("fresh")
        if not self._made:
            return StageStatus("missing", "not made yet")
        changed = min((_changed(then, key) for then in reversed(list(self._made))), key=len)
        return StageStatus("stale", f"{' and '.join(changed)} changed since it was made")


def _changed(then: Key, now: Key) -> list[str]:
    """The names of what is not the same in both."""
    old, new = dict(then), dict(now)
    return [name for name in {**new, **old} if new.get(name) != old.get(name)]
