"""Ways to clock work in a notebook: a worker thread, or at once; ``ticks`` has one more.

A clock does not know what the work is: it is handed ``drive``, which does what there is to do, and
``go``, which it is told when there is something. Clocks hold ``drive`` weakly, so that a runner
that nobody holds is collected, and its thread with it.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Literal

ClockName = Literal["thread", "play", "sync"]
Drive = Callable[[float | None], None]
"""Does what there is to do, until nothing is left or until a time (``time.monotonic``)."""

log = logging.getLogger(__name__)


def clock_here() -> ClockName:
    """Return the name of the clock that suits the environment.

    Colab shows no update that a thread sends, so the page has to clock the work there. A kernel
    gets a worker thread, which leaves it free to serve clicks. Anything else, Colab without our
    widget too, has nobody who could click: work is done at once.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is None:
        return "sync"
    if in_colab():
        return "play" if "play" in CLOCKS else "sync"
    return "thread"


def in_colab() -> bool:
    """Return whether this process is one of Google Colab's."""
    try:
        return find_spec("google.colab") is not None
    except (ImportError, ValueError):  # its parent is missing, or was put into sys.modules
        return False


class Clock:
    """Decides when the work runs, and on which thread.

    Attributes:
        name: as in ``Runner(clock=...)``.
        runs_in_wait: whether ``wait()`` has to do the work itself, because nobody else would.
    """

    name: ClockName
    runs_in_wait = True

    def context(self) -> contextvars.Context | None:
        """Return the context that work started now runs in; ``None``: the caller's."""
        return None

    def go(self, state: str) -> bool:
        """Check for work, as the state has changed; return whether the caller does it."""
        raise NotImplementedError

    def show(self, state: str) -> None:
        """Start or stop ticking, as the state requires."""

    def close(self, timeout: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        """Release everything; return whether that ended within ``timeout`` seconds."""
        return True


def weakly(drive: Drive) -> Callable[[], Drive | None]:
    """Return a weak reference to ``drive``."""
    return weakref.WeakMethod(drive) if hasattr(drive, "__self__") else lambda: drive


class SyncClock(Clock):
    """Does the work at once, on the thread that asks for it."""

    name = "sync"

    def __init__(self, drive: Drive) -> None:
        del drive  # the caller does what there is to do

    def go(self, state: str) -> bool:
        return state in ("running", "stopping")


class ThreadClock(Clock):
    """Does the work on one daemon thread, which is started by the first work and kept.

    The same thread for all work: torch keeps a pool of threads for every thread that
    ever computed.
    """

    name = "thread"
    runs_in_wait = False

    def __init__(self, drive: Drive) -> None:
        self._drive = weakly(drive)
        # No Event: an interrupt within its methods, on the thread that asks, would jam its lock.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def context(self) -> contextvars.Context | None:
        # what the work prints belongs to the cell that started it; some kernels need it to send
        return contextvars.copy_context()

    def go(self, state: str) -> bool:  # noqa: ARG002 - the worker looks for itself
        with self._lock:
            gone = self._thread is None or not self._thread.is_alive()  # it may have been killed
            if gone and not self._ending:
                self._thread = threading.Thread(target=self._run, name="dragwidget", daemon=True)
                self._thread.start()
        self._wake.put(None)
        return False

    def _run(self) -> None:
        while True:
            self._wake.get()
            with suppress(Empty):  # what was asked for several times is done once
                while True:
                    self._wake.get_nowait()
            last = self._ending  # read before driving: what was asked for before it is still done
            drive = self._drive()
            if drive is None:
                return
            try:
                drive(None)
            except BaseException:  # it is kept by the runner; the thread has to live on
                log.exception("the worker was interrupted")
            del drive  # or the runner could never be collected
            if last:
                return

    def end(self) -> None:
        """Let the thread end when its work is done."""
        self._ending = True
        self._wake.put(None)

    def close(self, timeout: float) -> bool:
        self.end()
        thread = self._thread
        if thread is None:
            return True
        if thread is not threading.current_thread():
            thread.join(max(0.0, timeout))
        return not thread.is_alive()


CLOCKS: dict[str, Callable[[Drive], Clock]] = {"thread": ThreadClock, "sync": SyncClock}
"""Clocks by name. A front end adds its own: the widget's ``"play"`` is clocked by the page."""
