"""The controls over the canvas and the table of its points do what their tooltips say."""

from __future__ import annotations

import numpy as np
import pytest

from dragwidget.ui.widget.points_table import PointsTable


@pytest.fixture
def bar(canvas):
    return canvas._toolbar


@pytest.fixture
def table(canvas):
    made = PointsTable(canvas)
    yield made
    made.close()


def rows(table):
    """Of every row that is shown, its four numbers."""
    return [[box.value for box in row.numbers] for row in table.children[1:-1]]


def test_sliders_and_lists_set_the_brush_and_how_the_mask_is_shown(canvas, bar):
    bar.size.value = 33
    bar.style.value = "tint"
    bar.opacity.value = 0.25
    bar.tint.value = "#00ff00"
    assert canvas.brush_size == 33
    assert (canvas.mask_style, canvas.mask_opacity, canvas.mask_tint) == ("tint", 0.25, "#00ff00")


def test_a_colour_can_be_chosen_where_it_is_seen(canvas, bar):
    canvas.mask_style = "darken"
    assert bar.tint.disabled
    canvas.mask_style = "tint"
    assert not bar.tint.disabled


def test_a_tool_that_is_on_cannot_be_switched_off(canvas, bar):
    bar.tools["brush"].value = True
    assert canvas.tool == "brush"
    bar.tools["brush"].value = False
    assert canvas.tool == "brush"
    assert [name for name, tool in bar.tools.items() if tool.value] == ["brush"]


def test_the_arrows_move_the_point_that_was_chosen_by_one_pixel(canvas, bar):
    canvas.add_pair((20, 30), (60, 50))
    canvas.add_pair((21, 31), (61, 51))
    bar.pair.value = (0, "handle")
    assert (canvas.selected, canvas.selected_end) == (0, "handle")
    left, right, up, down = bar.nudges
    for arrow in (right, right, down, left, down, down, up):
        arrow.click()
    assert [pair.handle for pair in canvas.pairs] == [(21, 32), (21, 31)]
    assert [pair.target for pair in canvas.pairs] == [(60, 50), (61, 51)]


def test_delete_removes_the_chosen_pair_and_nothing_where_none_is(canvas, bar):
    canvas.add_pair((20, 30), (60, 50))
    canvas.add_pair((21, 31), (61, 51))
    canvas.select(0, "handle")
    bar.pair.value = None
    assert canvas.selected is None
    assert bar.delete.disabled
    bar.delete.click()
    assert len(canvas.pairs) == 2
    bar.pair.value = (0, "target")
    bar.delete.click()
    assert [pair.handle for pair in canvas.pairs] == [(21, 31)]


def test_a_pair_has_two_ends(canvas):
    canvas.add_pair((20, 30), (60, 50))
    canvas.select(0, "handle")
    with pytest.raises(ValueError, match=r'^end must be "handle" or "target", got \'middle\'$'):
        canvas.select(0, "middle")
    assert (canvas.selected, canvas.selected_end) == (0, "handle")


def test_grow_and_shrink_move_the_masks_border_by_a_hundredth_of_the_side(canvas, bar):
    block = np.zeros((96, 128), bool)
    block[40:50, 60:80] = True
    canvas.set_mask(block)
    grow, shrink, _, _, drop = bar.mask_buttons
    grow.click()
    across, down = np.flatnonzero(canvas.mask[45]), np.flatnonzero(canvas.mask[:, 70])
    assert (across[0], across[-1], down[0], down[-1]) == (59, 80, 39, 50)
    shrink.click()
    shrink.click()
    across, down = np.flatnonzero(canvas.mask[45]), np.flatnonzero(canvas.mask[:, 70])
    assert (across[0], across[-1], down[0], down[-1]) == (61, 78, 41, 48)
    drop.click()
    assert canvas.mask is None


def test_zoom_buttons_and_fit(canvas, bar):
    bar.zoom_in.click()
    bar.zoom_in.click()
    assert canvas.zoom == pytest.approx(2)
    assert bar.zoom.value == "200 %"
    bar.zoom_out.click()
    assert canvas.zoom == pytest.approx(2**0.5)
    bar.fit.click()
    assert bar.zoom.value == "100 %"


def test_what_is_seldom_needed_is_shown_by_more(bar):
    tools, *others = bar.box.children
    shown = [[row.layout.display for row in others]]
    for on in (True, False):
        bar.more.value = on
        shown.append([row.layout.display for row in others])
    assert shown == [["none"] * 2, [None] * 2, ["none"] * 2]
    assert tools.layout.display is None
    assert {bar.tools["points"], bar.undo, bar.redo, bar.more} <= set(tools.children)


# ---------------------------------------------------------------- the table of points


def test_the_table_follows_the_canvas(canvas, table):
    assert rows(table) == []
    canvas.add_pair((20, 30), (60, 50))
    canvas.add_pair((1.234, 2), (3, 4))
    assert rows(table) == [[20, 30, 60, 50], [1.23, 2, 3, 4]]
    canvas.delete_pair(0)
    assert rows(table) == [[1.23, 2, 3, 4]]


def test_a_number_that_is_typed_moves_that_point_alone(canvas, table):
    canvas.add_pair((20, 30), (60, 50))
    canvas.add_pair((1.234, 2), (3.456, 4))
    boxes = table.children[2].numbers
    boxes[1].value = 7.5
    assert [pair.handle for pair in canvas.pairs] == [(20, 30), (1.23, 7.5)]
    assert canvas.pairs[1].target == (3.456, 4)  # what was rounded to be shown is not moved
    boxes[2].value = 90
    assert canvas.pairs[1].target == (90, 4)
    assert canvas.pairs[0].target == (60, 50)


def test_a_number_past_the_border_is_the_borders(canvas, table):
    canvas.add_pair((20, 30), (60, 50))
    boxes = table.children[1].numbers
    boxes[0].value = 1000
    boxes[1].value = -5
    assert canvas.pairs[0].handle == (127, 0)


def test_a_pair_can_be_added_and_deleted_without_a_pointer(canvas, table):
    table.children[-1].click()
    assert [(pair.handle, pair.target) for pair in canvas.pairs] == [((64, 48), (76.8, 48))]
    table.children[1].button.click()
    assert canvas.pairs == ()


def test_where_nothing_may_be_drawn_nothing_can_be_added(canvas):
    canvas.read_only = True
    table = PointsTable(canvas)
    assert table.children[-1].disabled
    table.close()
