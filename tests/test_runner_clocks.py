"""The runner at once, by ticks of the page, and which of all clocks suits the place."""

from __future__ import annotations

import sys
import threading
import types

import pytest
import runner_tools
from runner_tools import SOON, Gate, Recorder, counting, gated

from dragwidget.ui import clocks
from dragwidget.ui.runner import Runner

make_runner = runner_tools.make_runner


def tick(runner):
    """One tick of the page."""
    runner.play.value += 1


# ---------------------------------------------------------------- at once
def test_without_a_clock_start_returns_when_the_work_is_over(make_runner):
    runner, took = make_runner("sync"), []
    runner.on_item = lambda item: took.append((item, threading.get_ident()))
    runner.start(counting(2, "end"), name="drag")
    assert took == [(0, threading.get_ident()), (1, threading.get_ident())]
    assert (runner.state, runner.result) == ("idle", "end")


def test_an_interrupt_stops_the_work_and_leaves_the_runner_usable(make_runner):
    closed = []

    def make():
        try:
            yield 1
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    runner, heard = make_runner("sync"), Recorder()
    heard.hook(runner)
    with pytest.raises(KeyboardInterrupt):
        runner.start(make, name="drag")
    assert closed
    assert (runner.state, runner.outcome, runner.error) == ("idle", "stopped", None)
    assert heard.said[-2:] == [("state", "idle"), ("done", None, None)]
    assert runner.wait() is None
    runner.start(counting(1, "fine"), name="again")
    assert runner.result == "fine"


@pytest.mark.parametrize("name", ["on_item", "on_state", "on_done"])
def test_an_interrupt_in_a_callback_leaves_the_runner_usable(make_runner, name):
    def interrupt(*_):
        setattr(runner, name, None)
        raise KeyboardInterrupt

    runner = make_runner("sync", **{name: interrupt})
    with pytest.raises(KeyboardInterrupt):
        runner.start(counting(2), name="drag")
    runner.stop()
    assert runner.state == "idle"
    runner.start(counting(1, "fine"), name="again")
    assert runner.wait(SOON) == "fine"


def test_another_thread_may_pause_work_that_is_done_at_once(make_runner):
    gate, runner, took = Gate(), make_runner("sync"), []
    runner.on_item = took.append
    caller = threading.Thread(target=lambda: runner.start(gated(3, gate), name="drag"))
    caller.start()
    gate.wait_until_entered()
    runner.pause()
    gate.open.release()
    caller.join(SOON)
    assert (runner.state, took) == ("paused", [0])
    for _ in range(2):
        gate.open.release()
    runner.resume()
    assert (runner.state, took) == ("idle", [0, 1, 2])


# ---------------------------------------------------------------- ticks of the page


def playing(runner):
    play = runner.play
    return play.playing if play.has_trait("playing") else play._playing


def test_a_tick_takes_at_least_one_item_and_ends_on_time(make_runner, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(clocks, "monotonic", lambda: 0.0)
    monkeypatch.setattr("dragwidget.ui.runner.monotonic", lambda: next(now) * 0.02)
    runner, took = make_runner("play"), []
    runner.on_item = took.append
    runner.start(counting(9, "end"), name="drag")
    assert took == []
    assert playing(runner)
    tick(runner)
    assert took == [0, 1, 2]  # at 0, 20 and 40 of 50 ms
    tick(runner)
    assert took == [0, 1, 2]  # the time is over before it began
    monkeypatch.setattr("dragwidget.ui.runner.monotonic", lambda: 0.0)
    tick(runner)
    assert len(took) == 9
    assert runner.state == "idle"
    assert not playing(runner)


def test_a_tick_that_comes_late_does_nothing(make_runner):
    runner, took = make_runner("play"), []
    runner.on_item = took.append
    runner.start(counting(9), name="drag", paused=True)
    tick(runner)
    assert took == []
    runner.step()
    tick(runner)
    tick(runner)
    assert took == [0]
    assert runner.state == "paused"
    assert not playing(runner)
    runner.stop()  # at once: no tick would come
    assert runner.state == "idle"
    tick(runner)
    assert took == [0]


def test_waiting_does_the_work_that_ticks_would_do(make_runner):
    runner = make_runner("play")
    runner.start(counting(9, "end"), name="drag")
    assert runner.wait(SOON) == "end"
    assert not playing(runner)


def test_waiting_for_ticks_in_vain_ends_on_time(make_runner, monkeypatch):
    now = iter(range(1000))
    runner = make_runner("play")
    runner.start(counting(99), name="drag")
    monkeypatch.setattr("dragwidget.ui.runner.monotonic", lambda: float(next(now)))
    with pytest.raises(TimeoutError, match="drag is not over after 5 s"):
        runner.wait(5)
    monkeypatch.undo()
    assert runner.state == "running"


def test_the_buttons_of_the_ticker_pause_and_resume(make_runner):
    runner = make_runner("play")
    name = "playing" if runner.play.has_trait("playing") else "_playing"
    setattr(runner.play, name, True)
    assert not playing(runner)  # there is nothing to play
    runner.start(counting(99), name="drag")
    setattr(runner.play, name, False)
    assert runner.state == "paused"
    setattr(runner.play, name, True)
    assert runner.state == "running"


# ---------------------------------------------------------------- where it runs


@pytest.mark.parametrize(
    ("kernel", "colab", "expected"),
    [(True, True, "play"), (True, False, "thread"), (False, True, "sync"), (False, False, "sync")],
)
def test_the_clock_suits_the_place(monkeypatch, kernel, colab, expected):
    shell = types.SimpleNamespace(kernel=object()) if kernel else types.SimpleNamespace()
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for name in ("google", "google.colab"):
        module = types.ModuleType(name)
        module.__path__ = []
        module.__spec__ = types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module if colab else None)
    assert clocks.clock_here() == expected


def test_a_plain_interpreter_has_no_clock(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert clocks.clock_here() == "sync"
    assert Runner().clock == "sync"
