"""Progress, cancellation, and the cache of the expensive stages of an edit.

A stage is cached under the key of everything that it depends on. When one of them changes, it is
*outdated* and recomputed on demand; when the change is undone, the cached stage is used again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Key = tuple[tuple[str, Hashable], ...]
"""The key of a stage: (name, value) pairs; users read the names."""

Phase = Literal["lora", "inversion", "generation", "drag", "reference", "render"]


@dataclass(frozen=True)
class Progress:
    """Progress of work: ``index`` of ``total`` steps of a phase are done."""

    phase: Phase
    index: int
    total: int
    loss: float | None = None


class Cancelled(Exception):  # noqa: N818 - what happened, not a fault
    """The work was cancelled; the session is unchanged, and finished steps are kept."""


class Monitor:
    """Runs work that reports its progress; another thread can cancel it.

    Attributes:
        progress: called with every ``Progress``, on the thread that works.
    """

    def __init__(self, progress: Callable[[Progress], None] | None = None) -> None:
        self.progress = progress
        self._is_cancelled = False  # no Event: an interrupt within its methods would jam its lock

    def start(self) -> None:
        """Clear the cancellation of earlier work."""
        self._is_cancelled = False

    def cancel(self) -> None:
        """Make the work raise ``Cancelled`` before its next forward pass."""
        self._is_cancelled = True

    def check(self) -> None:
        """Raise ``Cancelled`` if the work was cancelled."""
        if self._is_cancelled:
            raise Cancelled("cancelled")

    def report(self, progress: Progress) -> None:
        """Report progress; raise ``Cancelled`` if the work was cancelled."""
        if self.progress is not None:
            self.progress(progress)
        if self._is_cancelled:
            raise Cancelled(f"cancelled in {progress.phase}, {progress.index} of {progress.total}")

    def run(self, work: Generator[Progress, None, T]) -> T:
        """Run work to its end, reporting its progress; return its result."""
        while True:
            try:
                progress = next(work)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            self.report(progress)


@dataclass(frozen=True)
class StageStatus:
    """The state of a stage.

    Attributes:
        state: ``ready``: up to date; ``outdated``: made, but something has changed since;
            ``missing``: never made; ``off``: not requested by the settings.
        why: the reason, a sentence.
    """

    state: Literal["ready", "outdated", "missing", "off"]
    why: str = ""


class KeyedCache(Generic[T]):
    """Cache of the versions of a stage, by key.

    Args:
        limit: how many versions to keep; the oldest is evicted first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made: dict[Key, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._made.values()))  # another thread may put one there meanwhile

    def get(self, key: Key) -> T | None:
        """Return the version with exactly this key, or ``None``."""
        return self._made.get(key)

    def put(self, key: Key, value: T) -> T:
        """Cache a version and return it."""
        self._made[key] = value
        while len(self._made) > self._limit:
            del self._made[next(iter(self._made))]
        return value

    def status(self, key: Key) -> StageStatus:
        """Return whether this key is cached; if not, what has changed since the nearest one.

        Of equally near versions the newest counts.
        """
        if key in self._made:
            return StageStatus("ready")
        if not self._made:
            return StageStatus("missing", "not made yet")
        changed = min((_changed(then, key) for then in reversed(list(self._made))), key=len)
        return StageStatus("outdated", f"{' and '.join(changed)} changed since it was made")


def _changed(then: Key, now: Key) -> list[str]:
    """Return the names whose values differ."""
    old, new = dict(then), dict(now)
    return [name for name in {**new, **old} if new.get(name) != old.get(name)]
