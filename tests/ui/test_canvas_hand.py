"""What a hand does on a ``DragCanvas``, through the messages that a browser sends."""

import numpy as np
import plain_shapes
import pytest
from front_end import HEIGHT, WIDTH, drawings, messages

from dragwidget.data.instructions import PointPair

# ---------------------------------------------------------------- points


def test_press_drag_and_release_make_a_pair(canvas, page):
    page.drag((20, 30), (40, 35), (60, 50))
    assert canvas.pairs == (PointPair((20, 30), (60, 50)),)
    assert canvas.selected == 0


def test_a_click_and_a_click_make_a_pair_too(canvas, page):
    page.click((20, 30))
    assert canvas.pairs == ()
    page.click((60, 50))
    assert canvas.pairs == (PointPair((20, 30), (60, 50)),)


def test_a_second_click_may_drag_the_target_to_its_place(canvas, page):
    page.click((20, 30))
    page.drag((60, 50), (70, 55))
    assert canvas.pairs == (PointPair((20, 30), (70, 55)),)


def test_a_press_near_a_point_moves_it_by_as_much_as_the_pointer(canvas, page):
    canvas.add_pair((20, 30), (60, 50))
    page.drag((61, 51), (70, 40), (81, 31))
    assert canvas.pairs == (PointPair((20, 30), (80, 30)),)
    page.drag((20, 30), (25, 30), (30, 30))
    assert canvas.pairs == (PointPair((30, 30), (80, 30)),)
    assert (canvas.selected, canvas.selected_end) == (0, "handle")


def test_a_click_on_a_point_selects_its_pair_and_changes_nothing(canvas, page):
    canvas.add_pair((20, 30), (60, 50))
    canvas.add_pair((90, 30), (100, 80))
    page.click((61, 50))
    assert canvas.selected == 0
    canvas.undo()
    assert len(canvas.pairs) == 1


def test_a_finger_meets_a_point_from_further_than_a_mouse(canvas, page):
    canvas.add_pair((20, 30), (60, 50))
    page.touch("touch_start", (62, 52))
    page.touch("touch_move", (82, 52))
    page.touch("touch_end")
    assert canvas.pairs == (PointPair((20, 30), (80, 50)),)
    page.drag((84, 53), (100, 80))  # 5 image pixels off, 40 of the canvas: too far for a mouse
    assert len(canvas.pairs) == 2


def test_leaving_the_canvas_sets_the_target_at_the_border(canvas, bare):
    bare.press((20, 30))
    bare.move((100, 30))
    bare.at("mouse_out", (300, 30))
    assert canvas.pairs == (PointPair((20, 30), (WIDTH - 0.01, 30)),)


def test_what_comes_back_with_the_button_up_is_not_heard(canvas, bare):
    bare.press((20, 30))
    bare.at("mouse_out", (300, 30))
    bare.move((40, 40), (50, 50))
    bare.release((60, 60))
    assert len(canvas.pairs) == 1


def test_a_press_without_a_release_ends_at_the_next_press(canvas, page):
    page.press((20, 30))
    page.move((50, 40))
    page.drag((90, 80), (100, 90))
    assert [pair.target for pair in canvas.pairs] == [(50, 40), (100, 90)]


def test_no_more_than_a_hundred_pairs_and_the_caption_says_so(canvas, page):
    canvas.pairs = [((x, 1), (x, 3)) for x in range(100)]
    page.drag((60, 60), (90, 90))
    assert len(canvas.pairs) == 100
    assert "No more than 100" in canvas._caption.value


# ---------------------------------------------------------------- which button, which finger

DRAWING_TOOLS = ("points", "brush", "eraser", "lasso", "rectangle")


def has_drawn(canvas):
    """Whether anything was drawn, is half drawn, or could be undone."""
    hand = canvas._controller
    half = (hand.gesture, *hand.state.unfinished.values())
    return any([canvas.pairs, canvas.mask is not None, canvas.can_undo, *half])


@pytest.mark.parametrize("tool", DRAWING_TOOLS)
def test_a_click_of_a_button_that_nobody_knows_draws_nothing(canvas, bare, tool):
    canvas.tool = tool
    bare.click((60, 60))
    assert not has_drawn(canvas)
    bare.drag((60, 60), (60.1, 60))  # a hand is never quite still
    assert not has_drawn(canvas)
    bare.press((60, 60))  # the menu opens, and nothing is heard of the release
    bare.at("mouse_out", (60, 60))
    assert not has_drawn(canvas)


@pytest.mark.parametrize("tool", DRAWING_TOOLS)
def test_what_is_dragged_is_drawn_by_whatever_button(canvas, bare, tool):
    canvas.tool = tool
    bare.drag((20, 30), (40, 35), (60, 50))
    assert has_drawn(canvas)


def test_a_click_of_the_left_button_is_a_dab_of_the_brush(canvas, page):
    canvas.tool = "brush"
    page.click((60, 60))
    expected = plain_shapes.stroke((HEIGHT, WIDTH), [(60, 60)], 9)
    np.testing.assert_array_equal(canvas.mask, expected)


def test_a_click_of_an_unknown_button_costs_nothing_that_was_half_drawn(canvas, page, bare):
    page.click((20, 30))
    bare.click((90, 90))
    page.click((60, 50))
    assert canvas.pairs == (PointPair((20, 30), (60, 50)),)
    canvas.tool = "lasso"
    for xy in [(20, 20), (80, 20), (80, 70)]:
        page.click(xy)
    bare.click((40, 60))
    canvas.close_lasso()
    expected = plain_shapes.polygon((HEIGHT, WIDTH), [(20, 20), (80, 20), (80, 70)])
    np.testing.assert_array_equal(canvas.mask, expected)


def touch(page):
    page.touch("touch_start", (50, 60))
    page.touch("touch_move", (60, 60))
    page.touch("touch_move", (90, 70))
    page.touch("touch_cancel")


def pointer(page):
    page.press((50, 60))
    page.move((60, 60), (90, 70))
    page.tell(event="cancel")


@pytest.mark.parametrize("give_up", [touch, pointer])
@pytest.mark.parametrize("tool", DRAWING_TOOLS)
def test_a_touch_that_the_system_takes_away_draws_nothing(canvas, page, tool, give_up):
    canvas.tool = tool
    give_up(page)
    assert not has_drawn(canvas)
    page.drag((20, 30), (40, 35), (60, 50))
    assert has_drawn(canvas)


def test_a_touch_that_is_taken_away_costs_nothing_that_was_half_drawn(canvas, page):
    page.click((20, 30))
    touch(page)
    page.click((60, 50))
    assert canvas.pairs == (PointPair((20, 30), (60, 50)),)
    page.touch("touch_cancel")
    canvas.tool = "lasso"
    for xy in [(20, 20), (80, 20), (80, 70)]:
        page.click(xy)
    pointer(page)
    page.tell(event="cancel")  # with nothing under way
    canvas.close_lasso()
    assert canvas.mask.any()


@pytest.mark.parametrize("tool", DRAWING_TOOLS)
def test_two_fingers_draw_nothing_whether_they_tap_or_pinch(canvas, page, tool):
    canvas.tool = tool
    page.touch("touch_start", (50, 60))
    page.touch("touch_start", (50, 60), (90, 60))
    page.touch("touch_end", (90, 60))
    page.touch("touch_end")
    assert not has_drawn(canvas)
    page.touch("touch_start", (50, 60))
    page.touch("touch_start", (50, 60), (90, 60))
    page.touch("touch_move", (30, 60), (110, 60))
    page.touch("touch_end", (110, 60))
    page.touch("touch_end")
    assert not has_drawn(canvas)
    page.tell(event="press", x=300.0, y=300.0, touch=True)
    page.tell(event="second", x=500.0, y=300.0)
    page.tell(event="move", x=200.0, y=300.0)
    page.tell(event="second", x=600.0, y=300.0)
    page.tell(event="release", x=200.0, y=300.0)
    assert not has_drawn(canvas)


# ---------------------------------------------------------------- brush and eraser


def test_a_stroke_is_rasterised_where_it_was_drawn(canvas, page):
    canvas.tool = "brush"
    points = [(20.5, 30.0), (40.0, 35.5), (60.0, 50.0)]
    page.drag(*points)
    np.testing.assert_array_equal(canvas.mask, plain_shapes.stroke((HEIGHT, WIDTH), points, 9))
    canvas.tool = "eraser"
    page.drag((30, 30), (35, 35))
    assert not canvas.mask[32, 32]


def test_a_stroke_may_begin_and_end_outside_the_image(canvas, bare):
    canvas.tool = "brush"
    bare.press((-4, 20))
    bare.move((10, 20))
    bare.at("mouse_out", (-50, 20))
    assert canvas.mask[20, 0]
    assert canvas.mask[:, 20:].sum() == 0


def test_moves_of_less_than_a_css_pixel_and_a_half_are_dropped(canvas, page):
    canvas.tool = "brush"
    page.press((20, 30))
    with messages() as sent:
        page.move((20.2, 30), (20.3, 30.1), (20.1, 30))
    assert not sent
    page.release((20.1, 30))


def test_hovering_sends_nothing(page):
    with messages() as sent:
        page.move(*[(x, 40) for x in range(0, 128, 3)])
    assert not sent


def test_a_move_is_one_message_however_long_the_stroke(canvas, page):
    canvas.tool = "brush"
    canvas.fill_mask()
    page.press((1, 1))
    sizes = []
    for x in range(2, 120):
        with messages() as sent:
            page.move((x, 50))
        assert len(sent) == 1
        sizes.append(len(sent[0]))
    assert max(sizes) == min(sizes)
    page.release((120, 50))


@pytest.mark.slow
@pytest.mark.parametrize("style", ["darken", "tint", "hidden"])
@pytest.mark.parametrize("tool", ["brush", "eraser"])
@pytest.mark.parametrize("has_mask", [True, False])
def test_a_stroke_is_seen_while_it_is_drawn(canvas, page, style, tool, has_mask):
    canvas.mask_style, canvas.tool = style, tool
    if has_mask:
        canvas.rectangle((30, 30), (90, 60))
    page.press((20, 30))
    with messages() as sent:
        page.move((60, 50))
    assert "strokeLine" in [command for command, _ in drawings(sent)[0]]
    page.release((60, 50))


# ---------------------------------------------------------------- lasso and rectangle


def test_a_lasso_that_is_dragged_closes_on_release(canvas, page):
    canvas.tool = "lasso"
    corners = [(20, 20), (80, 20), (80, 70), (20, 70)]
    page.drag(*corners)
    np.testing.assert_array_equal(canvas.mask, plain_shapes.polygon((HEIGHT, WIDTH), corners))


@pytest.mark.parametrize("close", ["first", "twice", "enter", "tool"])
def test_a_lasso_that_is_clicked_closes_in_four_ways(canvas, page, close):
    canvas.tool, canvas.keyboard = "lasso", True
    corners = [(20, 20), (80, 20), (80, 70), (20, 70)]
    for xy in corners:
        page.click(xy)
    assert canvas.mask is None
    if close == "first":
        page.click((21, 21))
    elif close == "twice":
        page.click((20, 70))
    elif close == "enter":
        page.key("Enter")
    else:
        canvas.tool = "points"
    np.testing.assert_array_equal(canvas.mask, plain_shapes.polygon((HEIGHT, WIDTH), corners))


def test_undo_takes_back_one_corner_of_a_lasso(canvas, page):
    canvas.tool = "lasso"
    for xy in [(20, 20), (80, 20), (90, 90), (80, 70), (20, 70)]:
        page.click(xy)
    canvas.undo()
    canvas.undo()
    canvas.undo()
    for xy in [(80, 70), (20, 70), (20, 20)]:
        page.click(xy)
    expected = plain_shapes.polygon((HEIGHT, WIDTH), [(20, 20), (80, 20), (80, 70), (20, 70)])
    np.testing.assert_array_equal(canvas.mask, expected)


def test_leaving_the_canvas_between_clicks_keeps_the_lasso(canvas, page, bare):
    canvas.tool = "lasso"
    page.click((20, 20))
    bare.at("mouse_out", (300, 30))
    page.click((80, 20))
    page.click((80, 70))
    page.click((20, 20))
    assert canvas.mask.any()


def test_a_rectangle_is_what_lies_between_its_corners(canvas, page):
    canvas.tool = "rectangle"
    page.drag((80, 70), (50, 50), (20, 30))
    assert canvas.mask.sum() == 60 * 40
    page.click((5, 5))  # too small to be meant
    assert canvas.mask.sum() == 60 * 40


@pytest.mark.parametrize(
    ("tool", "points"),
    [
        ("points", [(20, 20), (40, 40), (60, 50)]),
        ("lasso", [(20, 20), (40, 40), (60, 50)]),
        ("rectangle", [(20, 20), (40, 40), (60, 50)]),
    ],
)
def test_what_is_half_drawn_is_seen(canvas, page, tool, points):
    canvas.tool = tool
    page.press(points[0])
    for xy in points[1:]:
        with messages() as sent:
            page.move(xy)
        assert len(drawings(sent)) == 1
    page.release(points[-1])


def test_the_corners_of_a_lasso_are_seen(canvas, page):
    canvas.tool = "lasso"
    with messages() as sent:
        page.click((20, 20))
    assert "fillCircle" in [command for command, _ in drawings(sent)[-1]]
