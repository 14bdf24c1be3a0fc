"""Panels of the widget, and refusals that a page seldom meets."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import pytest
from exported import exported
from tiny_sessions import FAR, session_on

from dragwidget.data.instructions import DragInstructions
from dragwidget.drag.method import Ended
from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.widget import DragWidget
from dragwidget.ui.widget.history_panel import FRAMES
from dragwidget.ui.widget.view import TRAIL, _thinned, note_of


@pytest.fixture
def made(tiny):
    """A widget on a drag of twelve steps, every one of which was seen."""
    session = session_on(tiny, steps=12)
    session.instructions = DragInstructions.from_points([FAR], size=(64, 48))
    widget = DragWidget(session, clock="sync")
    widget._editing.limiter.interval, widget._editing.limiter.share = 0.0, math.inf
    yield widget
    widget.close()


def strip(widget):
    """The steps that the filmstrip shows, and which of them is framed."""
    frames = widget._view.history.frames
    shown = re.findall(r"alt='step (\d+)'", "".join(frame.thumbnail.value for frame in frames))
    framed = re.findall(r"▸ (\d+)", " ".join(frame.button.description for frame in frames))
    return [int(step) for step in shown], [int(step) for step in framed]


@pytest.mark.slow
def test_a_filmstrip_of_a_long_drag_is_spread_evenly_over_it(made):
    made.run()
    steps, framed = strip(made)
    assert len(steps) == FRAMES
    assert (steps[0], steps[-1]) == (1, 12)  # of the start, no other image is made
    assert all(1 <= b - a <= 2 for a, b in itertools.pairwise(steps))
    assert framed == [12]
    made.rewind(0)
    assert made.index == 0


@pytest.mark.slow
def test_reset_goes_to_the_start_and_keeps_what_was_dragged(made):
    made.run(3)
    made.reset()
    assert made.index == 0
    assert made.session.history.current.number == 0
    assert len(made.session.history.nodes) == 4


def test_a_long_trail_is_thinned_out_and_keeps_its_ends():
    path = list(range(3 * TRAIL))
    shown = _thinned(path)
    assert len(shown) == TRAIL
    assert (shown[0], shown[-1]) == (path[0], path[-1])
    assert all(3 <= b - a <= 4 for a, b in itertools.pairwise(shown))
    assert _thinned(path[:TRAIL]) == path[:TRAIL]


@pytest.mark.slow
def test_the_code_of_an_edit_is_shown_when_it_is_asked_for(made):
    made.run(2)
    panel = made._view.folded.children[4]
    assert panel.code.layout.display == "none"
    (copy,) = [b for b in panel.children[0].children if b.description == "Copy as Python"]
    copy.click()
    assert panel.code.layout.display == ""
    assert "session.step(2)" in panel.code.value
    compile(panel.code.value, "recipe", "exec")


@pytest.mark.slow
def test_features_of_another_point_take_the_place_of_the_first_ones(made):
    made.prepare()
    made._view.features.button.value = True
    made._probe(20.0, 30.0)
    first = made._view.features._maps.children
    made._probe(40.0, 10.0)
    second = made._view.features._maps.children
    assert len(first) == len(second)
    assert not set(first) & set(second)
    assert all(box.comm is None for box in first)  # closed: they are kept nowhere


def test_instructions_that_there_are_not_cannot_be_taken_away(tiny):
    widget = DragWidget(session_on(tiny), clock="sync")
    with pytest.raises(ValueError, match="no instructions yet: draw a pair of points first"):
        exported(widget, "Instructions")
    widget.close()


def test_settings_given_with_a_session_are_its_own_from_then_on(tiny):
    session = session_on(tiny)
    wanted = session_on(tiny, steps=7).settings
    assert session.settings != wanted
    widget = DragWidget(session, settings=wanted, clock="sync")
    assert session.settings == widget.settings == wanted
    widget.close()


# ---------------------------------------------------------------- the canvas


def test_clearing_is_one_change_that_can_be_undone(canvas):
    canvas.add_pair((20, 30), (60, 50))
    canvas.fill_mask()
    canvas.clear()
    assert (canvas.pairs, canvas.mask) == ((), None)
    assert canvas.undo()
    assert len(canvas.pairs) == 1
    assert canvas.mask.all()
    canvas.instructions = None
    assert (canvas.pairs, canvas.mask, canvas.instructions) == ((), None, None)


@pytest.mark.parametrize("wrong", [7, "points", [(1, 2), (3, 4)]])
def test_only_instructions_are_instructions(canvas, wrong):
    with pytest.raises(
        TypeError, match=f"must be DragInstructions or None, got {type(wrong).__name__}"
    ):
        canvas.instructions = wrong


def test_on_no_image_there_is_nothing_to_undo_and_nothing_to_set_pairs_on():
    empty = DragCanvas()
    assert not empty.undo()
    assert not empty.redo()
    with pytest.raises(ValueError, match="there is no image to set pairs on: set one first"):
        empty.pairs = [((1, 2), (3, 4))]
    empty.pairs = ()
    assert empty.pairs == ()
    empty.close()


@pytest.mark.slow
def test_the_page_warps_the_image_as_the_settings_of_the_drag_say(made):
    assert made.canvas.live_warp == ("mean", 2.5)
    drag = dataclasses.replace(made.settings.drag, warp_combine="winner", warp_reach=0.75)
    made.settings = dataclasses.replace(made.settings, drag=drag)
    assert made.canvas.live_warp == ("winner", 0.75)
    drag = dataclasses.replace(drag, method="warp", warp_field="stretch")
    made.settings = dataclasses.replace(made.settings, drag=drag)
    assert made.canvas.live_warp is None  # the page has no such field


def test_a_low_confidence_is_marked_by_more_than_its_number():
    assert [note_of(value) for value in (None, 0.934, 0.1)] == ["", "0.93", "0.10 ?"]


@pytest.mark.slow
def test_where_a_target_is_reached_its_confidence_stands_beside_the_handle(tiny):
    session = session_on(tiny, method="warp")
    session.instructions = DragInstructions.from_points([FAR], size=(64, 48))
    widget = DragWidget(session, clock="sync", render_when_done=False)
    widget.run()
    assert session.ended is Ended.REACHED
    (value,) = session.confidence()
    assert widget.canvas.marks.notes == (note_of(value),)
    assert f"confidence {value:.2f}" in widget._view.status._distances.value
    widget.close()
