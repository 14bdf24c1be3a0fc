"""``Notices``: callbacks in the order in which things happened, never two at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Notices"]


class Notices:
    """Tells, one after the other, what threads have to say.

    One thread at a time tells, for all; a notice that belongs to a thread is told by that thread,
    which waits for its turn. What a callback says is told after that callback.

    Args:
        changed: guards everything; callbacks are called without it.

    Attributes:
        herald: number of the thread that calls back just now, or ``None``.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._notices: deque[tuple[Callable[[], object], int | None]] = deque()
        self.herald: int | None = None

    @property
    def quiet(self) -> bool:
        """Whether everything was told."""
        return self.herald is None and not self._notices

    def add(self, call: Callable[[], object], by: int | None = None) -> None:
        """Remember a callback; it must not raise. With ``changed`` held.

        Args:
            by: number of the thread that has to call it; by default any may.
        """
        self._notices.append((call, by))

    def tell(self, *, mine: bool = False) -> None:
        """Call what is to be called.

        Args:
            mine: return only when everything that belongs to this thread was told.
        """
        me = threading.get_ident()
        while True:
            with self._changed:
                while not (self._notices and self.herald is None and self._free_for(me)):
                    if not (mine and any(by == me for _, by in self._notices)):
                        return  # whoever tells now goes on with it
                    self._changed.wait()
                self.herald = me
                call, _ = self._notices.popleft()
            try:
                call()
            finally:
                with self._changed:
                    self.herald = None
                    self._changed.notify_all()

    def _free_for(self, thread: int) -> bool:
        return self._notices[0][1] in (None, thread)
