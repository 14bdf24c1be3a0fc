"""The line that says what to do next follows the edit, and offers a mask where none is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_sessions import FAR, ask, left_half, session_on

from dragwidget.editor.hints import BY_COLOURS, Situation, hint
from dragwidget.ui.widget import DragWidget


@pytest.fixture
def widget(tiny):
    """Makes widgets on small sessions, and closes them."""
    made = []

    def make(*pairs, **drag):
        made.append(DragWidget(session_on(tiny, **drag), clock="sync", render_when_done=False))
        made[-1].canvas.pairs = list(pairs)
        return made[-1]

    yield make
    for each in made:
        each.close()


def hinted(widget, **situation):
    return hint(Situation(**situation)) in widget._view.guide._line.value


def is_offered(widget):
    return widget._view.guide.select_part.layout.display != "none"


def test_the_hint_follows_what_is_drawn(widget):
    widget = widget()
    assert hinted(widget)
    assert not is_offered(widget)
    widget.canvas.add_pair(*FAR)
    assert hinted(widget, pairs=1)
    assert is_offered(widget)
    widget.canvas.set_mask(left_half())
    assert hinted(widget, pairs=1, has_mask=True)
    assert not is_offered(widget)
    widget.canvas.undo()
    assert is_offered(widget)
    widget.canvas.clear()
    assert hinted(widget)


@pytest.mark.slow
def test_the_hint_follows_a_drag(widget):
    widget = widget()
    widget.instructions = ask(mask=left_half())
    seen = []

    def see(_):
        seen.append(widget._view.guide._line.value)

    widget._editing.work.monitor.progress = see
    widget.run(2)
    assert all(hint(Situation(state="running")) in line for line in seen)
    assert hinted(widget, pairs=1, has_mask=True, index=2)
    widget.render()
    assert hinted(widget, pairs=1, has_mask=True, index=2, is_rendered=True)
    widget.rewind(1)
    assert hinted(widget, pairs=1, has_mask=True, index=1)


@pytest.mark.slow
@pytest.mark.parametrize("is_prepared", [False, True])
def test_the_button_makes_the_mask_of_the_part(widget, is_prepared):
    widget = widget(FAR)
    if is_prepared:
        widget.prepare()
    widget._view.guide.select_part.click()
    mask = widget.canvas.mask
    assert widget.error == ""
    for x, y in FAR:
        assert mask[y, x]
    assert np.array_equal(widget.session.instructions.mask, mask)
    assert not is_offered(widget)
    widget.canvas.select_parts()
    assert mask.sum() > widget.canvas.mask.sum()  # it has more room than the canvas' own
    widget.canvas.undo()
    widget.canvas.undo()
    assert is_offered(widget)


@pytest.mark.slow
def test_a_selection_while_the_network_works_says_that_colours_decide(widget):
    widget = widget(FAR)
    widget.prepare()
    seen = []

    def select(progress):
        if progress.phase == "drag" and not seen:
            widget.canvas.select_at((40, 30))
            seen.append(widget._view.guide._line.value)

    widget._editing.work.monitor.progress = select
    widget.run(2)
    assert BY_COLOURS in seen[0]
    assert BY_COLOURS not in widget._view.guide._line.value
    widget.canvas.select_at((40, 30))  # now the features are asked
    assert widget.session.edit.regions is not None
    assert BY_COLOURS not in widget._view.guide._line.value


@pytest.mark.slow
def test_a_final_render_is_not_darkened_by_the_mask(widget):
    widget = widget(FAR, steps=1)
    canvas = widget.canvas
    canvas.rectangle((4, 4), (40, 40))
    assert canvas.scene.look.style == "darken"
    widget.run()
    widget.render()
    assert canvas.scene.look.style == "hidden"
    canvas.tool = "brush"  # one has to see what one paints on
    assert canvas.scene.look.style == "darken"
    canvas.tool = "points"
    assert canvas.scene.look.style == "hidden"
    canvas.rectangle((4, 4), (50, 40))
    assert canvas.scene.look.style == "darken"


@pytest.mark.slow
def test_a_further_step_shows_the_mask_again(widget):
    widget = widget(FAR, steps=2)
    widget.canvas.rectangle((4, 4), (40, 40))
    widget.step()
    widget.render()
    assert widget.canvas.scene.look.style == "hidden"
    widget.step()
    assert widget.canvas.scene.look.style == "darken"
