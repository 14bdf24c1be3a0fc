"""The widget on Stable Diffusion XL, without a page."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_sessions import ask, session_on

from dragwidget.ui.widget import DragWidget


@pytest.mark.slow
def test_a_whole_edit_in_the_widget_equals_the_session_alone(xl):
    widget = DragWidget(session_on(xl, lora_steps=2), instructions=ask(), clock="sync")
    widget.run()
    result = widget.wait()
    alone = session_on(xl, lora_steps=2)
    alone.instructions = ask(prompt="a cat")
    alone.run()
    assert widget.error == ""
    assert widget.index == len(alone.history) == 3
    assert np.array_equal(result, alone.render())
    widget.close()
