"""The runner at once, by ticks of the page, and which of all clocks suits the place."""

from __future__ import annotations

import io
import itertools
import sys
import threading
import types

import pytest
import runner_tools
from PIL import Image
from runner_tools import SOON, Gate, Recorder, counting, gated

from dragwidget.editor import Runner, clocks

make_runner = runner_tools.make_runner


def answer(runner, asked=None):
    """The page sends the image that it has painted."""
    asked = runner._clock._asked if asked is None else asked
    png = io.BytesIO()
    Image.new("RGBA", (1, 1), (asked >> 16, asked >> 8 & 255, asked & 255, 255)).save(png, "PNG")
    data = {"method": "update", "state": {}, "buffer_paths": [["image_data"]]}
    runner.play._handle_msg({"content": {"data": data}, "buffers": [memoryview(png.getvalue())]})


def page_is_loaded(runner):
    content = {"event": "client_ready"}
    runner.play._handle_msg(
        {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
    )


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
    return runner._clock._ticking


def test_a_tick_ends_on_time(make_runner, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("dragwidget.ui.widget.ticks.monotonic", lambda: 0.0)
    monkeypatch.setattr("dragwidget.editor.runner.monotonic", lambda: next(now) * 0.02)
    runner, took = make_runner("play"), []
    runner.on_item = took.append
    runner.start(counting(9, "end"), name="drag")
    assert took == []
    assert playing(runner)
    answer(runner)
    assert took == [0, 1, 2]  # at 0, 20 and 40 of 50 ms
    answer(runner)
    assert took == [0, 1, 2]  # the time is over before it began
    monkeypatch.setattr("dragwidget.editor.runner.monotonic", lambda: 0.0)
    answer(runner)
    assert len(took) == 9
    assert runner.state == "idle"
    assert not playing(runner)


def test_a_tick_that_comes_late_does_nothing(make_runner):
    runner, took = make_runner("play"), []
    runner.on_item = took.append
    runner.start(counting(9), name="drag", paused=True)
    answer(runner)
    assert took == []
    runner.step()
    answer(runner)
    answer(runner)
    assert took == [0]
    assert runner.state == "paused"
    assert not playing(runner)
    runner.stop()  # at once: no tick would come
    assert runner.state == "idle"
    answer(runner)
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
    with monkeypatch.context() as patch:
        patch.setattr("dragwidget.editor.runner.monotonic", lambda: float(next(now)))
        with pytest.raises(TimeoutError, match="drag did not end within 5 s"):
            runner.wait(5)
    assert runner.state == "running"


def test_an_answer_counts_once_however_many_pages_give_it(make_runner, monkeypatch):
    now = itertools.cycle([0.0, 1.0])  # one item a tick
    monkeypatch.setattr("dragwidget.ui.widget.ticks.monotonic", lambda: 0.0)
    monkeypatch.setattr("dragwidget.editor.runner.monotonic", lambda: next(now))
    runner, took = make_runner("play"), []
    runner.on_item = took.append
    runner.start(counting(99), name="drag")
    asked = runner._clock._asked
    for _ in range(3):
        answer(runner, asked)
    assert took == [0]
    answer(runner)
    assert took == [0, 1]
    answer(runner, asked)
    assert took == [0, 1]


def test_a_page_that_is_loaded_again_goes_on_ticking(make_runner):
    runner, took = make_runner("play"), []
    runner.on_item = took.append
    page_is_loaded(runner)
    assert runner._clock._asked == 0  # nothing to do
    runner.start(counting(9), name="drag")
    lost = runner._clock._asked
    page_is_loaded(runner)
    answer(runner, lost)
    assert took == []
    answer(runner)
    assert len(took) == 9


@pytest.mark.parametrize("image", [None, b"", b"no image"])
def test_what_is_no_answer_is_passed_over(make_runner, image):
    runner, took = make_runner("play"), []
    runner.on_item = took.append
    runner.start(counting(9), name="drag")
    runner._clock._answered({"new": image})
    assert took == []


def test_an_interrupt_in_a_tick_leaves_the_clock_usable(make_runner):
    def make():
        yield 1
        raise KeyboardInterrupt

    runner = make_runner("play")
    runner.start(make, name="drag")
    with pytest.raises(KeyboardInterrupt):
        answer(runner)
    assert (runner.state, playing(runner)) == ("idle", False)
    runner.start(counting(2, "fine"), name="again")
    answer(runner)
    assert runner.result == "fine"


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
    if expected == "play":  # which the widget adds: without it no page clocks the work
        monkeypatch.delitem(clocks.CLOCKS, "play")
        assert Runner().clock == "sync"


def test_a_plain_interpreter_has_no_clock(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert clocks.clock_here() == "sync"
    assert Runner().clock == "sync"
