"""What is drawn on the page and what code asks for stay equal, whichever thread comes first."""

from dataclasses import replace

import pytest
from busy_threads import run_at_once
from tiny_sessions import ask, session_on, waves

from dragwidget.ui.widget import DragWidget


@pytest.fixture
def widget(tiny):
    made = DragWidget(session_on(tiny), instructions=ask(), clock="sync")
    yield made
    made.close()


def test_a_thread_that_comes_late_does_not_draw_what_was_drawn_over(widget):
    """As one does that changes the settings while the page draws."""
    session, canvas, before = widget.session, widget.canvas, widget.session.request
    canvas.pairs = [((5.0, 5.0), (20.0, 9.0))]
    late = session.request
    canvas.pairs = [((5.0, 5.0), (30.0, 9.0))]
    widget._sync._show(late, before)
    assert [pair.target for pair in canvas.pairs] == [(30.0, 9.0)]


def test_a_request_that_was_drawn_is_drawn_again_with_its_image(widget):
    session, canvas = widget.session, widget.canvas
    canvas.pairs = [((5.0, 5.0), (20.0, 9.0))]
    drawn = session.request
    session.set_image(waves(seed=5))
    assert canvas.pairs == ()
    session.request = drawn
    assert canvas.instructions == drawn.instructions


def test_instructions_that_code_sets_again_are_drawn_again(widget):
    session, canvas = widget.session, widget.canvas
    old = session.instructions
    canvas.pairs = [((5.0, 5.0), (20.0, 9.0))]
    session.instructions = old
    assert canvas.instructions == old
    canvas.clear()
    session.instructions = old
    session.update_request(instructions=None)
    assert canvas.pairs == ()


@pytest.mark.slow
def test_what_is_drawn_while_code_changes_the_settings_is_kept_with_them(widget):
    """JupyterLab has a thread of its own for what comes from the page, and one for cells."""
    lost = []

    def draw(number):
        pair = ((5.0, 5.0), (float(number % 60), 9.0))
        widget.canvas.pairs = [pair]
        if [(p.handle, p.target) for p in widget.session.instructions.pairs] != [pair]:
            lost.append("pair")

    def adjust(number):
        drag = replace(widget.settings.drag, steps=number)
        widget.settings = replace(widget.settings, drag=drag)
        if widget.settings.drag.steps != number:
            lost.append("settings")

    run_at_once(draw, adjust, times=40)
    assert not lost
    assert [(p.handle, p.target) for p in widget.canvas.pairs] == [
        (p.handle, p.target) for p in widget.session.instructions.pairs
    ]
