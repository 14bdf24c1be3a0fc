"""Log and show the errors of callbacks, which Jupyter would drop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

log = logging.getLogger(__name__)


class Guard:
    """Calls actions under a lock; an error ends the gesture and is shown.

    Args:
        lock: held around every action.
        refresh: paints what an action has changed.
        give_up: cancels what an action has left unfinished.
        tell: shows an error, "Type: message".
        end: sends what is sent once an action.

    Attributes:
        is_busy: whether an action is being called.
    """

    def __init__(
        self,
        lock: threading.RLock,
        refresh: Callable[[], None],
        give_up: Callable[[], object],
        tell: Callable[[str], None],
        end: Callable[[], None],
    ) -> None:
        self.lock = lock
        self.is_busy = False
        self._later: list[Callable[[], object]] = []
        self._end = end
        self._refresh, self._give_up, self._tell = refresh, give_up, tell

    def __call__(self, action: Callable[..., Any], *args: Any) -> None:
        """Call ``action`` and repaint; do not raise."""
        with self.lock:
            was_busy, self.is_busy = self.is_busy, True
            try:
                action(*args)
                self._refresh()
            except Exception as error:
                log.exception("while handling an event of the canvas")
                self._try(self._give_up)
                self._try(self._tell, f"{type(error).__name__}: {error}")
            finally:
                self.is_busy = was_busy
            if not was_busy:
                self._try(self._end)
            ready = [] if was_busy else self._later
            if not was_busy:
                self._later = []
        for call in ready:
            try:
                call()
            except Exception as error:
                log.exception("while handling an event of the canvas")
                self._try(self._tell, f"{type(error).__name__}: {error}")

    def later(self, action: Callable[..., object], *args: Any) -> None:
        """Call ``action`` when the action in progress is over and the lock is free.

        What others do may wait for a thread that wants the lock.
        """
        if self.is_busy:
            self._later.append(partial(action, *args))
        else:
            action(*args)

    @staticmethod
    def _try(action: Callable[..., object], *args: Any) -> None:
        try:
            action(*args)
        except Exception:
            log.exception("while handling an error of the canvas")
