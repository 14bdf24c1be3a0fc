"""Limit the rate of updates; the last one is never lost."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable


class Throttle:
    """Calls ``action`` at once, or ``interval`` seconds after its last call.

    ``settled``, if any, is called after ``settle`` seconds without a request. Both may be called
    on a thread of the throttle's own; they must not raise. Safe from any thread.
    """

    def __init__(
        self,
        action: Callable[[], None],
        interval: float,
        settled: Callable[[], None] | None = None,
        settle: float = 0.5,
    ) -> None:
        self._action = action
        self._interval = interval
        self._settled = settled
        self._settle = settle
        self._lock = threading.Lock()
        self._last = -1e9
        self._timer: threading.Timer | None = None
        self._is_asked = False
        self._is_closed = False

    def ask(self) -> None:
        """Request an update."""
        with self._lock:
            if self._is_closed:
                return
            wait = self._last + self._interval - time.monotonic()
            if wait > 0:
                if not self._is_asked:
                    self._is_asked = True
                    self._start(wait)
                return
            self._is_asked = False
            self._last = time.monotonic()
            self._start(self._settle)
        self._action()

    def flush(self) -> None:
        """Run a waiting update now."""
        with self._lock:
            if not self._is_asked or self._is_closed:
                return
            self._is_asked = False
            self._last = time.monotonic()
            self._start(self._settle)
        self._action()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _start(self, wait: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # The context goes along: one ipykernel finds the page to write to in it.
        run = contextvars.copy_context().run
        self._timer = threading.Timer(wait, run, (self._fire,))
        self._timer.daemon = True
        self._timer.start()

    def _fire(self) -> None:
        with self._lock:
            is_asked, self._is_asked = self._is_asked, False
            if self._is_closed:
                return
            if is_asked:
                self._last = time.monotonic()
                self._start(self._settle)
        if is_asked:
            self._action()
        elif self._settled is not None:
            self._settled()
