"""A tool is one record: whatever is in the table is offered, named, drawn with and undone."""

import numpy as np
import pytest
import traitlets
from front_end import Page

from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.canvas.keys import OTHER_KEYS, known_keys
from dragwidget.ui.canvas.tools import TOOLS, Gesture, Tool


class Square(Gesture):
    """Paints a square of the brush's width."""

    click_draws = True

    def end(self, xy):
        (x, y), half = self.image(xy), self.host.brush_size / 2
        self.host.rectangle((x - half, y - half), (x + half, y + half))


SQUARE = Tool("square", "Square", "square", "q", "Click to paint a square", Square, cursor="cell")


@pytest.fixture
def canvas(monkeypatch):
    monkeypatch.setitem(TOOLS, SQUARE.name, SQUARE)
    made = DragCanvas(np.zeros((96, 128, 3), np.uint8), brush_size=10)
    yield made
    assert made.last_error == ""
    made.close()


def test_a_tool_of_ten_lines_is_offered_and_runs(canvas):
    page = Page(canvas)
    button = canvas._toolbar.tools["square"]
    assert (button.description, button.icon) == ("Square", "square")
    assert "q" in canvas._script.known_keys
    page.key("q")
    assert canvas.tool == "square"
    assert button.value
    assert canvas._script.cursor == "cell"
    assert "Click to paint a square." in canvas._caption.value
    page.click((60, 40))
    assert canvas.mask.sum() == 100
    assert canvas.mask[40, 60]
    page.key("z", ctrl=True)
    assert canvas.mask is None
    Page(canvas, has_script=False).click((60, 40))  # of a button that nobody knows
    assert canvas.mask is None
    canvas.read_only = True
    assert button.disabled
    page.click((60, 40))
    assert canvas.mask is None


def test_a_tool_that_is_not_in_the_table_is_refused_by_name(canvas):
    with pytest.raises(traitlets.TraitError, match=r"tool must be one of points, .*, got 'spray'"):
        canvas.tool = "spray"
    assert canvas.tool == "points"


def test_no_two_keys_mean_two_things():
    assert len(set(known_keys())) == len(known_keys()) == len(OTHER_KEYS) + len(TOOLS) - 1


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_a_tool_says_what_to_do_in_one_sentence(tool):
    assert TOOLS[tool.name] is tool
    assert 1 <= len(tool.label.split()) <= 3
    assert tool.hint[0].isupper()
    assert "." not in tool.hint
