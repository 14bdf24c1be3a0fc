"""What the tests of the runner share."""

from __future__ import annotations

import gc
import threading

import pytest

import dragwidget.ui.widget.ticks  # noqa: F401 - it adds the clock "play"
from dragwidget.editor import Runner
from dragwidget.ui import drawing

SOON = 30  # seconds; reached only by what would otherwise hang
CLOCKS = ["thread", "play", "sync"]


@pytest.fixture
def make_runner(monkeypatch):
    """Runners that are closed when the test is over; no thread may be left then."""
    monkeypatch.setattr(drawing, "CLOSE_SECONDS", 0.0)  # no page is there, so none is waited for
    before, runners = set(threading.enumerate()), []

    def make(clock=None, **callbacks):
        runners.append(Runner(clock, **callbacks))
        return runners[-1]

    yield make
    for runner in runners:
        assert runner.close(SOON)
    runners.clear()
    for thread in set(threading.enumerate()) - before:
        gc.collect()  # it ends when its runner is gone
        thread.join(SOON)
        assert not thread.is_alive()


class Gate:
    """Lets a generator through item by item, as the test says."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def pass_through(self):
        self.entered.release()
        assert self.open.acquire(timeout=SOON)

    def wait_until_entered(self):
        assert self.entered.acquire(timeout=SOON)


def counting(n, result=None, seen=None):
    def make():
        for i in range(n):
            if seen is not None:
                seen.append(i)
            yield i
        return result

    return make


def gated(n, gate):
    def make():
        for i in range(n):
            gate.pass_through()
            yield i

    return make


class Recorder:
    """All that a runner says, in order."""

    def __init__(self):
        self.said = []
        self.threads = set()

    def hook(self, runner):
        for name in ("item", "state", "done", "error"):
            setattr(runner, f"on_{name}", lambda *a, name=name: self.hear(name, *a))
        return runner

    def hear(self, *what):
        self.said.append(what)
        self.threads.add(threading.get_ident())
