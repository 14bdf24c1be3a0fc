"""The widget on a model that was distilled for a few steps, without a page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_sessions import ask, session_on, waves

from dragwidget.data.presets import with_method, with_preset
from dragwidget.session.session import DragSession
from dragwidget.ui.widget import DragWidget

TOLD = "was distilled for a few steps"


@pytest.fixture
def widget(lcm):
    session = DragSession(lcm)
    session.set_image(waves(), "a cat")
    made = DragWidget(session, instructions=ask(), clock="sync")
    yield made
    made.close()


def test_a_whole_edit_as_the_model_recommends(widget):
    assert widget._view.settings.preset.value == "Recommended"
    widget.run()
    assert widget.wait() is not None
    assert widget.error == ""
    assert TOLD not in widget._view.warning.value


def test_the_warning_of_gradients_stands_there_while_they_are_chosen(widget, recwarn):
    panel, line = widget._view.settings, widget._view.warning
    poor = line.value  # of the autoencoder, whose weights are random
    assert "reproduces this image poorly" in poor
    panel.preset.value = "DragDiffusion"
    assert widget.error == ""
    assert "reproduces this image poorly" in line.value
    assert line.value.count(TOLD) == 1
    panel.settings = replace(panel.settings, drag=replace(panel.settings.drag, learning_rate=0.02))
    assert line.value.count(TOLD) == 1
    assert len([w for w in recwarn.list if TOLD in str(w.message)]) == 1
    panel.preset.value = "Progressive warp"
    assert line.value == poor


def test_the_menu_offers_few_steps_with_any_model(tiny):
    widget = DragWidget(session_on(tiny), clock="sync")
    widget._view.settings.preset.value = "Few-step"
    wanted = with_preset(tiny.numbered(tiny.recommended), "few-step")
    assert widget.settings == wanted
    assert widget.settings.drag == with_method(tiny.numbered(tiny.recommended), "warp").drag
    widget.close()
