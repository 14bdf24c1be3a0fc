"""The runner with a worker thread: what is asked for while an item is under way."""

from __future__ import annotations

import contextvars
import logging
import threading

import pytest
import runner_tools
from hypothesis import given
from hypothesis import strategies as st
from runner_tools import CLOCKS, SOON, Gate, Recorder, counting, gated

from dragwidget.editor import Runner
from dragwidget.progress import Cancelled

make_runner = runner_tools.make_runner


def test_the_worker_takes_the_items_and_lives_on(make_runner):
    threads = []
    runner = make_runner("thread", on_item=lambda _: threads.append(threading.current_thread()))
    for _ in range(3):
        runner.start(counting(2), name="drag")
        runner.wait(SOON)
    assert len(set(threads)) == 1
    assert threads[0].daemon
    assert threads[0] is not threading.current_thread()


def test_the_worker_runs_in_a_copy_of_the_starter_s_context(make_runner):
    cell = contextvars.ContextVar("cell", default="none")
    seen = []

    def make():
        seen.append(cell.get())
        cell.set("changed")
        yield 1
        seen.append(cell.get())

    runner = make_runner("thread", on_done=lambda *_: seen.append(cell.get()))
    cell.set("3")
    runner.start(make, name="drag")
    runner.wait(SOON)
    assert seen == ["3", "changed", "changed"]
    assert cell.get() == "3"


def test_stop_answers_within_one_item(make_runner):
    gate, runner, took = Gate(), make_runner("thread"), []
    runner.on_item = took.append
    runner.start(gated(100, gate), name="drag")
    gate.wait_until_entered()
    assert runner.stop()
    assert runner.state == "stopping"
    assert not runner.stop()
    gate.open.release()
    runner.wait(SOON)
    assert took == [0]  # it was made, so it is told
    assert runner.outcome == "stopped"


def test_stop_calls_cancel_so_that_a_long_item_ends_itself(make_runner):
    asked, entered = threading.Event(), threading.Event()

    def make():
        entered.set()
        assert asked.wait(SOON)
        raise Cancelled("cancelled")
        yield

    runner = make_runner("thread")
    runner.start(make, name="drag", cancel=asked.set)
    assert entered.wait(SOON)
    runner.stop()
    assert runner.wait(SOON) is None
    assert runner.outcome == "stopped"


def test_work_does_not_end_before_its_cancel_has_returned(make_runner):
    # or the cancel of the first could hit the second
    gate, cancelling, go_on = Gate(), threading.Event(), threading.Event()
    runner = make_runner("thread")

    def cancel():
        cancelling.set()
        assert go_on.wait(SOON)

    runner.start(gated(1, gate), name="first", cancel=cancel)
    gate.wait_until_entered()
    stopper = threading.Thread(target=runner.stop)
    stopper.start()
    assert cancelling.wait(SOON)
    gate.open.release()
    with pytest.raises(TimeoutError):
        runner.wait(0.05)
    assert not runner.start(counting(1), name="second")
    go_on.set()
    runner.wait(SOON)
    stopper.join(SOON)
    assert runner.start(counting(1), name="second")


def test_a_pause_is_seen_at_once_and_a_resume_takes_it_back(make_runner):
    gate, runner, took = Gate(), make_runner("thread"), []
    runner.on_item = took.append
    runner.start(gated(2, gate), name="drag")
    gate.wait_until_entered()
    assert runner.pause()
    assert runner.state == "paused"
    with pytest.raises(TimeoutError, match="drag did not end within 0 s"):
        runner.wait(0)  # an item is still under way
    gate.open.release()
    runner.wait(SOON)
    assert (runner.state, took) == ("paused", [0])
    runner.resume()
    gate.wait_until_entered()
    runner.pause()
    runner.resume()
    gate.open.release()
    runner.wait(SOON)
    assert (runner.state, took) == ("idle", [0, 1])


def test_a_step_while_running_lets_the_item_under_way_be_the_last(make_runner):
    gate, runner, took = Gate(), make_runner("thread"), []
    runner.on_item = took.append
    runner.start(gated(9, gate), name="drag")
    gate.wait_until_entered()
    assert runner.step()
    gate.open.release()
    runner.wait(SOON)
    assert (runner.state, took) == ("paused", [0])


def test_a_second_click_on_step_is_not_a_second_step(make_runner):
    gate, runner, took = Gate(), make_runner("thread"), []
    runner.on_item = took.append
    runner.start(gated(9, gate), name="drag", paused=True)
    assert runner.step()
    assert not runner.step()
    gate.wait_until_entered()
    assert not runner.step()
    gate.open.release()
    runner.wait(SOON)
    assert took == [0]
    runner.step()
    gate.wait_until_entered()
    assert runner.resume()  # a step that is under way becomes a run
    for _ in range(8):
        gate.open.release()
    runner.wait(SOON)
    assert len(took) == 9


def test_two_clicks_at_once_start_one_job(make_runner):
    for _ in range(50):
        runner, gate, made = make_runner("thread"), threading.Barrier(8), []
        answers = []

        def click(runner=runner, gate=gate, made=made, answers=answers):
            gate.wait(SOON)
            work = counting(1)
            answers.append(runner.start(lambda: made.append(1) or work(), name="x", paused=True))

        clicks = [threading.Thread(target=click) for _ in range(8)]
        for thread in clicks:
            thread.start()
        for thread in clicks:
            thread.join(SOON)
        runner.resume()
        runner.wait(SOON)
        assert sorted(answers) == [False] * 7 + [True]
        assert made == [1]


def test_callbacks_never_overlap_and_keep_their_order(make_runner):
    # "running" is told by this thread; the worker waits with its first item until that is done
    told, telling, go_on = [], threading.Event(), threading.Event()

    def on_state(state):
        if state == "running":
            telling.set()
            assert go_on.wait(SOON)
        told.append(state)

    runner = make_runner("thread", on_state=on_state, on_item=told.append)
    starter = threading.Thread(target=lambda: runner.start(counting(2), name="drag"))
    starter.start()
    assert telling.wait(SOON)
    assert told == []
    go_on.set()
    runner.wait(SOON)
    starter.join(SOON)
    assert told == ["running", 0, 1, "idle"]


def test_items_and_ends_are_told_on_the_worker(make_runner):
    runner, threads = make_runner("thread"), set()
    runner.on_item = lambda _: threads.add(threading.get_ident())
    runner.on_done = lambda *_: threads.add(threading.get_ident())
    for _ in range(20):
        runner.start(counting(2), name="drag")
        runner.pause()
        runner.resume()
        runner.wait(SOON)
    assert len(threads) == 1


def test_close_does_not_wait_for_ever():
    gate, runner = Gate(), Runner("thread")
    runner.start(gated(1, gate), name="drag")
    gate.wait_until_entered()
    assert not runner.close(timeout=0.01)
    gate.open.release()
    assert runner.close(SOON)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_the_worker_outlives_everything_that_work_can_raise(make_runner, kind):
    def make():
        yield 1
        raise kind("out")

    runner = make_runner("thread")
    runner.start(make, name="drag")
    with pytest.raises(kind):
        runner.wait(SOON)
    runner.start(counting(1, "fine"), name="again")
    assert runner.wait(SOON) == "fine"


def test_an_interrupt_in_the_worker_stops_the_work_only(make_runner, caplog):
    caplog.set_level(logging.CRITICAL, logger="dragwidget.editor.clocks")

    def make():
        yield 1
        raise KeyboardInterrupt

    runner = make_runner("thread")
    runner.start(make, name="drag")
    assert runner.wait(SOON) is None
    assert (runner.state, runner.outcome) == ("idle", "stopped")
    runner.start(counting(1, "fine"), name="again")
    assert runner.wait(SOON) == "fine"


ASKED = st.sampled_from(["start", "start_paused", "pause", "resume", "step", "stop", "wait"])


@given(st.lists(st.lists(ASKED, max_size=12), min_size=1, max_size=3), st.sampled_from(CLOCKS[::2]))
def test_whatever_is_asked_for_in_whatever_order_it_ends_idle(threads, clock):
    """Several threads ask at once: nothing raises, nothing hangs, what is told makes sense."""
    heard = Recorder()
    runner = heard.hook(Runner(clock))
    problems = []

    def ask(wishes):
        try:
            for wish in wishes:
                if wish == "wait":
                    runner.wait(SOON)
                elif wish.startswith("start"):
                    runner.start(counting(4), name="drag", paused="paused" in wish)
                else:
                    getattr(runner, wish)()
        except BaseException as problem:
            problems.append(problem)

    askers = [threading.Thread(target=ask, args=(wishes,)) for wishes in threads]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(SOON)
    runner.stop()
    runner.wait(SOON)
    assert runner.close(SOON)
    assert problems == []
    _makes_sense(heard.said)


def _makes_sense(said):
    """What is told is one job after the other, each a start, items in order, an end."""
    state, expected = "idle", 0
    for name, *args in said:
        if name == "state":
            assert args[0] != state
            if state == "idle":
                expected = 0
                assert args[0] in ("running", "paused")
            state = args[0]
        elif name == "item":
            assert args == [expected]
            expected += 1
        else:
            assert (name, args) == ("done", [None, None])
    assert state == "idle"
