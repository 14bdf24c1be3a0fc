"""The runner: what it promises whatever clocks it, and whichever thread asks."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import runner_tools
from runner_tools import CLOCKS, SOON, Recorder, counting

from dragwidget.editor import Runner
from dragwidget.progress import Cancelled

make_runner = runner_tools.make_runner


@pytest.mark.parametrize("clock", CLOCKS)
def test_work_runs_to_its_end_and_its_result_is_handed_back(make_runner, clock):
    runner, heard = make_runner(clock), Recorder()
    heard.hook(runner)
    assert runner.start(counting(3, "image"), name="drag")
    assert runner.wait(SOON) == "image"
    assert heard.said == [
        ("state", "running"),
        ("item", 0),
        ("item", 1),
        ("item", 2),
        ("state", "idle"),
        ("done", "image", None),
    ]
    assert (runner.state, runner.name, runner.outcome) == ("idle", "drag", "done")
    assert (runner.result, runner.error, runner.last_error) == ("image", None, None)


@pytest.mark.parametrize("clock", CLOCKS)
def test_one_step_is_exactly_one_item(make_runner, clock):
    seen = []
    runner = make_runner(clock)
    runner.start(counting(3, "end", seen), name="drag", paused=True)
    assert runner.wait(SOON) is None
    assert (runner.state, seen) == ("paused", [])
    for n in (1, 2, 3):
        assert runner.step()
        assert runner.wait(SOON) is None
        assert (runner.state, len(seen)) == ("paused", n)
    runner.step()
    assert runner.wait(SOON) == "end"
    assert runner.state == "idle"
    assert not runner.step()


@pytest.mark.parametrize("clock", CLOCKS)
def test_steps_and_runs_mix(make_runner, clock):
    runner, heard = make_runner(clock), Recorder()
    heard.hook(runner).start(counting(4), name="drag", paused=True)
    runner.step()
    runner.wait(SOON)
    runner.resume()
    runner.wait(SOON)
    assert [args for name, *args in heard.said if name == "item"] == [[0], [1], [2], [3]]
    states = [args[0] for name, *args in heard.said if name == "state"]
    assert states == ["paused", "running", "paused", "running", "idle"]


@pytest.mark.parametrize("clock", CLOCKS)
def test_what_there_is_no_reason_for_is_not_done(make_runner, clock):
    runner = make_runner(clock)
    assert not any([runner.pause(), runner.resume(), runner.step(), runner.stop()])
    assert runner.wait(SOON) is None
    runner.start(counting(1), name="drag", paused=True)
    assert not runner.pause()
    assert not runner.start(counting(1), name="other")
    assert runner.name == "drag"


@pytest.mark.parametrize("clock", CLOCKS)
def test_stopping_what_is_paused_closes_it(make_runner, clock):
    closed = []

    def make():
        try:
            yield 1
            yield 2
        finally:
            closed.append(threading.get_ident())

    took = []
    runner = make_runner(clock, on_item=lambda _: took.append(threading.get_ident()))
    runner.start(make, name="drag", paused=True)
    runner.step()
    runner.wait(SOON)
    assert runner.stop()
    assert runner.wait(SOON) is None
    assert closed == took
    assert (runner.state, runner.outcome, runner.error) == ("idle", "stopped", None)


@pytest.mark.parametrize("clock", CLOCKS)
def test_what_is_stopped_before_its_first_item_is_never_made(make_runner, clock):
    runner, done = make_runner(clock, on_done=lambda *a: done.append(a)), []
    runner.start(lambda: pytest.fail("made"), name="drag", paused=True)
    runner.stop()
    runner.wait(SOON)
    assert done == [(None, None)]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("where", ["make", "next", "iter", "close"])
def test_an_exception_is_kept_for_everybody_who_waits(make_runner, clock, where):
    class Items:
        def __iter__(self):
            if where == "iter":
                raise ZeroDivisionError("iter")
            return self

        def __next__(self):
            if where == "next":
                raise ZeroDivisionError("next")
            raise StopIteration

        def close(self):
            if where == "close":
                raise ZeroDivisionError("close")

    def make():
        if where == "make":
            raise ZeroDivisionError("make")
        return Items()

    runner, heard = make_runner(clock), Recorder()
    heard.hook(runner).start(make, name="drag")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match=where):
            runner.wait(SOON)
    assert heard.said[-1] == ("done", None, runner.error)
    assert runner.last_error is runner.error
    assert (runner.state, runner.outcome) == ("idle", "failed")
    runner.start(counting(1, "fine"), name="again")
    assert runner.wait(SOON) == "fine"
    assert runner.error is None


@pytest.mark.parametrize("clock", CLOCKS)
def test_stop_iteration_from_make_is_a_fault_not_an_end(make_runner, clock):
    runner = make_runner(clock)
    runner.start(lambda: next(iter(())), name="drag")
    with pytest.raises(StopIteration):
        runner.wait(SOON)
    assert runner.outcome == "failed"


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_cancellation_is_no_error(make_runner, clock):
    def make():
        yield 1
        raise Cancelled("stopped in drag")

    runner = make_runner(clock)
    runner.start(make, name="drag")
    assert runner.wait(SOON) is None
    assert (runner.outcome, runner.error, runner.last_error) == ("stopped", None, None)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", ["on_item", "on_state", "on_done", "cancel"])
def test_a_callback_that_raises_harms_nothing(make_runner, caplog, clock, name):
    def fail(*_):
        raise LookupError(name)

    told = []
    runner = make_runner(clock, on_error=lambda error: told.append(str(error)))
    if name == "cancel":
        runner.start(counting(2, "result"), name="drag", cancel=fail, paused=True)
        runner.stop()
        assert runner.wait(SOON) is None
    else:
        setattr(runner, name, fail)
        runner.start(counting(2, "result"), name="drag")
        assert runner.wait(SOON) == "result"
    assert isinstance(runner.last_error, LookupError)
    assert runner.error is None
    assert told == [repr(name)[1:-1]] * len(told)
    assert told
    assert "a callback of 'drag' failed" in caplog.text


@pytest.mark.parametrize("clock", CLOCKS)
def test_even_telling_of_an_error_may_fail(make_runner, caplog, clock):
    def fail(*_):
        raise LookupError

    runner = make_runner(clock, on_item=fail, on_error=fail)
    runner.start(counting(2, "result"), name="drag")
    assert runner.wait(SOON) == "result"
    assert "on_error failed, too" in caplog.text


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_end_of_one_piece_of_work_may_start_the_next(make_runner, clock):
    started = []

    def next_one(*_):
        if len(started) < 5:
            started.append(runner.start(counting(2, len(started)), name="next"))

    runner = make_runner(clock, on_done=next_one)
    runner.start(counting(1, "first"), name="first")
    assert runner.wait(SOON) == 4
    assert started == [True] * 5


@pytest.mark.parametrize("clock", CLOCKS)
def test_an_item_may_pause_stop_and_step(make_runner, clock):
    runner, took = make_runner(clock), []

    def on_item(item):
        took.append(item)
        {0: runner.pause, 2: runner.step, 3: runner.stop}.get(item, lambda: None)()

    runner.on_item = on_item
    runner.start(counting(9), name="drag")
    runner.wait(SOON)
    assert (runner.state, took) == ("paused", [0])
    runner.resume()
    runner.wait(SOON)
    assert (runner.state, took) == ("paused", [0, 1, 2])
    runner.resume()
    runner.wait(SOON)
    assert (runner.state, took) == ("idle", [0, 1, 2, 3])


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_callback_that_resumes_what_was_just_paused_goes_on(make_runner, clock):
    runner, took = make_runner(clock, on_item=lambda item: took.append(item)), []
    runner.on_state = lambda state: state == "paused" and runner.resume()
    runner.start(counting(3, "end"), name="drag", paused=True)
    assert runner.wait(SOON) == "end"
    assert took == [0, 1, 2]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("where", ["item", "state", "done", "work", "cancel"])
def test_waiting_for_oneself_is_refused(make_runner, clock, where):
    refused = []

    def wait(*_):
        with pytest.raises(RuntimeError, match="never return"):
            runner.wait(SOON)
        refused.append(True)

    def work():
        if where == "work":
            wait()
        yield 1
        yield 2

    runner = make_runner(clock)
    if where in ("item", "state", "done"):
        setattr(runner, f"on_{where}", wait)
    runner.start(work, name="drag", cancel=wait if where == "cancel" else None, paused=True)
    runner.step()
    runner.wait(SOON)
    runner.stop()
    runner.wait(SOON)
    assert refused


@pytest.mark.parametrize("clock", CLOCKS)
def test_nothing_starts_once_it_is_closed(clock):
    runner = Runner(clock)
    runner.start(counting(3), name="drag", paused=True)
    runner.step()
    runner.wait(SOON)
    assert runner.close(SOON)
    assert runner.state == "idle"
    assert runner.close(SOON)
    with pytest.raises(RuntimeError, match="cannot start 'drag': this runner is closed"):
        runner.start(counting(1), name="drag")


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_last_callback_may_close_the_runner(clock):
    runner = Runner(clock)
    runner.on_done = lambda *_: runner.close()
    runner.start(counting(2, "end"), name="drag")
    assert runner.wait(SOON) == "end"
    assert runner.close(SOON)


@pytest.mark.slow
@pytest.mark.parametrize("clock", CLOCKS)
def test_an_error_that_is_kept_holds_nothing_large(make_runner, clock):
    class Large:
        pass

    alive = []

    def make():
        large = Large()
        alive.append(weakref.ref(large))
        yield 1
        raise MemoryError("out of memory")

    runner = make_runner(clock)
    runner.start(make, name="drag")
    with pytest.raises(MemoryError) as caught:
        runner.wait(SOON)
    gc.collect()
    assert alive[0]() is None
    assert any(frame.name == "make" for frame in caught.traceback)  # where, is still known


@pytest.mark.slow
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_runner_that_nobody_holds_is_collected(clock):
    runner = Runner(clock)
    runner.start(counting(2), name="drag")
    runner.wait(SOON)
    if runner.play is not None:
        runner.close(SOON)
    gone = weakref.ref(runner)
    del runner
    for _ in range(SOON * 100):  # the worker lets go of it in its own time
        gc.collect()
        if gone() is None:
            return
        threading.Event().wait(0.01)
    pytest.fail("it is still held")


def test_there_is_no_other_clock():
    with pytest.raises(ValueError, match=r"'play' \(with the widget only\) or 'sync', got 'async'"):
        Runner("async")
