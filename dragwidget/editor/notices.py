"""``Notices``: dispatch callbacks in the order of their events, never two at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Notices:
    """Dispatches callbacks of several threads, one after the other.

    One thread at a time dispatches, for all; a notice that belongs to a thread is dispatched by
    that thread, which waits for its turn. What a callback adds is dispatched after it.

    Args:
        lock: guards everything; callbacks are called without it.
        changed: of that lock.

    Attributes:
        dispatching_thread: number of the thread that calls a callback now, or ``None``.
    """

    def __init__(self, lock: threading.RLock, changed: threading.Condition) -> None:
        self._lock, self._changed = lock, changed
        self._notices: deque[tuple[Callable[[], object], int | None]] = deque()
        self.dispatching_thread: int | None = None

    @property
    def quiet(self) -> bool:
        """Whether every callback was called."""
        return self.dispatching_thread is None and not self._notices

    def add(self, call: Callable[[], object], by: int | None = None) -> None:
        """Queue a callback, which must not raise. Call this with the lock held.

        Args:
            by: number of the thread that has to call it; by default any may.
        """
        self._notices.append((call, by))

    def tell(self, *, mine: bool = False) -> None:
        """Call the queued callbacks.

        Args:
            mine: return only when every callback of this thread was called.
        """
        me = threading.get_ident()
        while True:
            with self._lock:
                while not (self._notices and self._free_for(me)):
                    if not (mine and any(by == me for _, by in self._notices)):
                        return  # the dispatching thread goes on with it
                    self._changed.wait()
                self.dispatching_thread = me
                call, _ = self._notices.popleft()
            try:
                call()
            finally:
                with self._lock:
                    self.dispatching_thread = None
                    self._changed.notify_all()

    def _free_for(self, thread: int) -> bool:
        return self.dispatching_thread is None and self._notices[0][1] in (None, thread)
