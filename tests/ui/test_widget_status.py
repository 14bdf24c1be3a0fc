"""What the widget says and shows: while it works, paused, waiting, at its end, and restored."""

from __future__ import annotations

import html
import re
import threading
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from tiny_sessions import FAR, ask, left_half, session_on

from dragwidget.editor.messages import MESSAGES, message
from dragwidget.editor.work import Report
from dragwidget.ui.widget import DragWidget
from dragwidget.ui.widget.status_panel import StatusPanel, distances_along


@pytest.fixture
def widget(tiny):
    """Makes widgets on small sessions, and closes them."""
    made = []

    def make(clock="sync", **drag):
        drag = {"stop_distance": 0.01, **drag}
        session = session_on(tiny, **drag)
        made.append(DragWidget(session, instructions=ask(), clock=clock, render_when_done=False))
        made[-1]._editing.limiter.interval, made[-1]._editing.limiter.share = 0.0, inf
        return made[-1]

    yield make
    for each in made:
        each.close()


class Gate:
    """Holds the passes of a network while it is shut, so that a step takes as long as a test."""

    def __init__(self, model):
        self.entered, self._open = threading.Event(), threading.Event()
        self._open.set()
        self._handle = model.unet.register_forward_pre_hook(self._pass)

    def _pass(self, *_):
        self.entered.set()
        assert self._open.wait(60)

    def shut(self):
        self.entered.clear()
        self._open.clear()

    def open(self):
        self._open.set()

    def remove(self):
        self._open.set()
        self._handle.remove()


@pytest.fixture
def gate(tiny):
    made = Gate(tiny)
    yield made
    made.remove()


def said(widget):
    return html.unescape(re.sub("<[^>]+>", "", widget._view.status._line.value)).strip()


def slider(widget):
    made = widget._view.history.slider
    return made.value, made.max


def here(widget):
    """The step that the filmstrip marks."""
    return [
        f.button.description for f in widget._view.history.frames if "▸" in f.button.description
    ]


# ---------------------------------------------------------------- while it works, and paused


@pytest.mark.slow
def test_a_pause_says_where_and_the_slider_and_the_filmstrip_are_there_too(widget, gate):
    widget = widget("thread", steps=50)
    widget.step(2)
    widget.wait(60)
    gate.shut()
    widget.run()
    assert gate.entered.wait(60)
    widget.pause()
    assert said(widget) == MESSAGES["pausing"]
    gate.open()
    widget.wait(60)
    assert said(widget) == "Paused at step 3. Press Run or Step to continue."
    assert widget.index == 3
    assert slider(widget) == (3, 3)
    assert here(widget) == ["▸ 3"]


@pytest.mark.slow
def test_a_step_out_of_a_pause_has_a_message_of_its_own(widget, gate):
    widget = widget("thread", steps=50)
    widget.prepare()
    widget.wait(60)
    gate.shut()
    widget.run()
    assert gate.entered.wait(60)
    widget.pause()
    gate.open()
    widget.wait(60)
    at = widget.index
    widget.step()
    widget.wait(60)
    assert said(widget) == f"Step {at + 1} done. Press Step or Run to continue."
    assert slider(widget) == (at + 1, at + 1)
    assert here(widget) == [f"▸ {at + 1}"]


@pytest.mark.slow
def test_a_single_step_is_not_a_step_limit(widget):
    widget = widget(steps=5)
    widget.step()
    assert said(widget) == "Step 1 done. Press Step or Run to continue."
    widget.run()
    assert said(widget) == "Step limit reached. Press Run to continue."


@pytest.mark.slow
def test_work_paused_before_the_drag_says_which(widget):
    widget = widget("thread", steps=3)
    lora = replace(widget.settings.lora, steps=4)
    widget.settings = replace(widget.settings, lora=lora)
    report = widget._editing._on_report

    def pause(each):
        report(each)
        if each.phase == "lora" and each.index == 2:
            widget.pause()

    widget._editing._on_report = pause
    widget.run()
    widget.wait(60)
    assert said(widget) == "Paused: Training the LoRA, 2 of 4. Press Run to continue."


def test_a_pause_is_not_part_of_the_rate_and_of_the_time_left():
    now = [0.0]
    panel = StatusPanel(lambda: now[0])

    def report(index, at):
        now[0] = at
        return panel.show_report(Report("drag", index, 10))

    report(1, 0.0)
    assert report(2, 2.0) == "Dragging: 2 of 10, 2.0 s a step, 16 s left"
    now[0] = 1000.0  # an hour's lunch
    panel.resumed()
    assert report(3, 1002.0) == "Dragging: 3 of 10, 2.0 s a step, 14 s left"
    assert report(1, 1003.0) == "Dragging: 1 of 10"  # another drag


# ---------------------------------------------------------------- at its end


@pytest.mark.slow
def test_reached_names_the_stop_distance_and_is_true(widget):
    near = widget(steps=30, start="warped", stop_distance=40.0)
    near.run()
    assert said(near) == "All handles are within 40 feature cells of their targets."
    assert (
        near.session.history.current.step is None or near.session.history.current.step.reached.all()
    )
    far = widget(steps=2)
    far.run()
    assert "within" not in said(far)
    assert not far.session.history.current.step.reached.any()


@pytest.mark.slow
def test_handles_that_stand_still_are_told_with_the_patience(widget):
    widget = widget(steps=50, patience=2, learning_rate=1e-9)
    widget.run()
    assert said(widget) == "No handle moved for 2 steps. Move a target, or change the settings."


@pytest.mark.slow
def test_values_that_are_not_finite_are_told_by_name(widget):
    widget = widget(steps=5)
    widget.step()
    handle = widget.session.model.unet.mid_block.register_forward_hook(
        lambda _module, _inputs, output: output * float("nan")
    )
    try:
        widget.run()
        with pytest.raises(ArithmeticError):
            widget.wait()
    finally:
        handle.remove()
    assert said(widget) == message("not finite", name="Drag")
    assert widget.index == 1


@pytest.mark.slow
def test_a_stop_says_where_and_an_error_that_nothing_is_lost(widget, gate):
    stopped = widget("thread", steps=500)
    stopped.step(2)
    stopped.wait(60)
    gate.shut()
    stopped.run()
    assert gate.entered.wait(60)
    stopped.stop()
    gate.open()
    stopped.wait(60)
    assert said(stopped) == f"Stopped at step {stopped.index}. All finished steps are kept."
    failed = widget(steps=2)

    def fail(_):
        raise MemoryError("out of memory")

    failed.session.monitor.progress = fail
    failed.run()
    assert said(failed) == "Drag failed. Everything finished before is kept."


@pytest.mark.slow
def test_preparing_and_rendering_say_what_they_made(widget):
    widget = widget(steps=2)
    widget.prepare()
    assert said(widget) == MESSAGES["prepared"]
    widget.run()
    widget.render()
    assert said(widget) == "Final render of step 2."


@pytest.mark.slow
def test_a_rewind_leaves_no_message_of_before(widget):
    widget = widget(steps=3)
    widget.run()
    assert said(widget).startswith("Step limit reached")
    widget.rewind(1)
    assert said(widget) == "At step 1. Press Run to continue from here."
    widget.reset()
    assert said(widget) == "At the start. Press Run to drag."
    assert slider(widget) == (0, 3)


# ---------------------------------------------------------------- waiting


def paused_in_a_step(widget, gate):
    """A drag that was paused while a step is in progress, which ends when the gate opens."""
    widget.step(2)
    widget.wait(60)
    gate.shut()
    widget.run()
    assert gate.entered.wait(60)
    widget.pause()


@pytest.mark.slow
def test_a_rewind_during_a_long_step_returns_at_once_and_happens_after_it(widget, gate):
    widget = widget("thread", steps=50)
    paused_in_a_step(widget, gate)
    widget.rewind(1)  # it would never return if it waited: the gate is shut
    assert said(widget) == "Waiting for the step in progress to end; then: step 1."
    assert widget.index == 2
    gate.open()
    widget.wait(60)
    assert widget.index == 1
    assert said(widget) == "At step 1. Press Run to continue from here."
    assert len(widget.session.history.nodes) == 4  # the step in progress is kept
    assert slider(widget) == (1, 3)


@pytest.mark.slow
def test_of_two_rewinds_that_wait_the_last_one_happens(widget, gate):
    widget = widget("thread", steps=50)
    paused_in_a_step(widget, gate)
    history = widget._view.history
    assert not history.slider.disabled
    history.slider.value = 0
    history.slider.value = 1
    assert "step 1" in said(widget)
    gate.open()
    widget.wait(60)
    assert widget.index == 1
    assert widget.error == ""


@pytest.mark.slow
def test_a_step_that_does_not_exist_is_refused_at_once(widget, gate):
    widget = widget("thread", steps=50)
    paused_in_a_step(widget, gate)
    with pytest.raises(ValueError, match="there is no step 9"):
        widget.rewind(9)
    with pytest.raises(ValueError, match="there is no node 99"):
        widget.go_to(99)
    gate.open()
    widget.wait(60)
    assert widget.state == "paused"


@pytest.mark.slow
@pytest.mark.parametrize("action", ["render", "prepare", "reset"])
def test_whatever_is_asked_for_during_a_long_step_happens_after_it(widget, gate, action):
    widget = widget("thread", steps=50)
    paused_in_a_step(widget, gate)
    getattr(widget, action)()
    assert said(widget).startswith("Waiting for the step in progress")
    gate.open()
    widget.wait(60)
    assert widget.state == "idle"
    assert {"render": widget.result is not None, "prepare": True, "reset": widget.index == 0}[
        action
    ]
    assert len(widget.session.history.nodes) == 4


@pytest.mark.slow
def test_a_stop_cancels_the_step_that_a_rewind_waits_for(widget, gate):
    widget = widget("thread", steps=50)
    paused_in_a_step(widget, gate)
    widget.rewind(1)
    assert not widget._view.buttons.by_name["stop"].disabled
    widget.stop()
    gate.open()
    widget.wait(60)
    assert widget.index == 1


@pytest.mark.slow
def test_a_preview_gives_way_to_a_run(widget, gate):
    widget = widget("thread", steps=3)
    widget._editing.limiter.interval = 1e9
    widget._editing.limiter.took(0)  # no previews in the run
    widget.run()
    widget.wait(60)
    gate.shut()
    widget.rewind(1)
    assert gate.entered.wait(60)
    assert not widget._view.buttons.by_name["run"].disabled
    widget.run()
    gate.open()
    widget.wait(60)
    assert widget.index == 4
    assert widget.error == ""


# ---------------------------------------------------------------- the history, the pairs


@pytest.mark.slow
def test_a_click_on_a_thumbnail_goes_to_its_step(widget):
    widget = widget(steps=4)
    widget.run()
    frames = widget._view.history.frames
    frame = next(f for f in frames if f.button.description == "2")
    assert frame.button.tooltip == "Go to step 2"
    frame.button.click()
    assert widget.index == 2
    assert here(widget) == ["▸ 2"]
    assert slider(widget) == (2, 4)


@pytest.mark.slow
def test_thumbnails_and_slider_rest_while_it_runs_and_say_why(widget, gate):
    widget = widget("thread", steps=50)
    widget.step(2)
    widget.wait(60)
    gate.shut()
    widget.run()
    assert gate.entered.wait(60)
    widget._view.place()
    frame = widget._view.history.frames[0]
    assert frame.button.disabled
    assert frame.button.tooltip == "Not now: Drag is running: pause or stop it first"
    assert widget._view.history.slider.disabled
    widget.pause()
    gate.open()
    widget.wait(60)
    assert not frame.button.disabled


def test_the_pair_list_is_never_blank(widget):
    canvas = widget().canvas
    listed = canvas._toolbar.pair
    for change in (
        lambda: canvas.select(0),
        lambda: canvas.select(None),
        lambda: setattr(listed, "value", None),
        lambda: canvas.delete_pair(0),
        lambda: canvas.add_pair((5, 5), (9, 9)),
        canvas.clear,
    ):
        change()
        assert listed.index is not None
        assert listed.label


@pytest.mark.slow
def test_distances_and_curves_follow_a_pair_when_another_is_deleted(widget):
    widget = widget(steps=2, start="inverted")
    widget.instructions = ask(FAR, ((40, 10), (20, 40)))
    widget.run()
    second = [float(step.distances[1]) for step in widget.session.history]
    widget.canvas.delete_pair(0)
    shown = widget._view.status._distances.value
    assert f"{second[-1]:.1f} px to go" in shown
    assert shown.count("<b>") == 1
    widget.step()
    along = [*second, float(widget.session.history[-1].distances[0])]
    path = widget.session.history.path()
    got = distances_along(path, [widget.canvas.pairs[0].handle])
    assert got == {"1": along}


@pytest.mark.slow
def test_the_curve_of_a_later_pair_begins_where_it_was_drawn(widget):
    widget = widget(steps=2, start="inverted")
    widget.run()
    widget.canvas.add_pair((40, 10), (20, 40))
    widget.step()
    starts = [pair.handle for pair in widget.canvas.pairs]
    got = distances_along(widget.session.history.path(), starts)
    assert np.isnan(got["2"]).tolist() == [True, True, False]
    assert np.isfinite(got["1"]).all()


# ---------------------------------------------------------------- restored


@pytest.mark.slow
def test_a_restored_widget_shows_what_was_there(tiny, tmp_path):
    session = session_on(tiny, steps=4, stop_distance=0.01)
    before = DragWidget(
        session, instructions=ask(mask=left_half()), clock="sync", journal=tmp_path / "j"
    )
    before.run()
    before.rewind(3)
    before.prompt = "a dog"
    slower = replace(before.settings.drag, learning_rate=0.007)
    before.settings = replace(before.settings, drag=slower)
    before.prompt = "a cat"
    before.canvas.move_target(0, (33, 22))
    curves, mask = before._view.status._curves.value, before.canvas.mask
    branches = before._view.history.branches.options
    before.close()

    after = DragWidget.restore(tmp_path / "j", clock="sync", model=tiny)
    assert said(after) == "Restored at step 3."
    assert after.index == 3
    assert slider(after) == (3, 4)
    assert here(after) == ["▸ 3"]
    assert after._editing.image_of(after.session.history.current) is not None
    assert after.canvas._view.preview is not None
    assert after.prompt == "a cat"
    assert after.settings.drag.learning_rate == 0.007
    assert after.canvas.pairs[0].target == (33, 22)
    assert np.array_equal(after.canvas.mask, mask)
    assert after._view.status._curves.value == curves
    assert after._view.history.branches.options == branches
    assert len([f for f in after._view.history.frames if not f.button.disabled]) == 4
    after.run(1)
    assert after.index == 4
    after.close()


@pytest.mark.slow
def test_a_widget_on_a_session_that_was_dragged_stands_where_it_stands(tiny):
    session = session_on(tiny, steps=3, stop_distance=0.01)
    session.instructions = ask()
    session.run()
    session.rewind(2)
    widget = DragWidget(session, clock="sync")
    assert widget.index == 2
    assert said(widget) == "At step 2. Press Run to continue from here."
    assert widget._editing.image_of(session.history.current) is not None
    widget.close()


def test_every_message_can_be_said():
    values = {
        "index": 3, "name": "Drag", "work": "Rendering", "done": 1, "total": 2, "then": "step 1",
        "Reason": "Step limit reached", "handles": "pair 1 (0.10)", "model": "critters",
        "before": "critters-base",
    }  # fmt: skip
    for key in MESSAGES:
        text = message(key, **values)
        assert text.endswith(".")
        assert text[0].isupper()
        assert "{" not in text
