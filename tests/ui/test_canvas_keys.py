"""View, keys, touch, and errors of a ``DragCanvas``, through the messages that a browser sends."""

import numpy as np
import pytest
from front_end import send

from dragwidget.data.instructions import PointPair

# ---------------------------------------------------------------- view and probe


def test_pan_moves_the_image_and_only_when_zoomed_in(canvas, page):
    canvas.tool = "pan"
    before = canvas.viewport
    page.drag((50, 50), (70, 60))
    assert canvas.viewport == before
    canvas.zoom = 4
    x, y = canvas.viewport.centre
    page.event("mouse_down", 500, 400)
    page.event("mouse_move", 520, 400)
    page.event("mouse_move", 580, 432)
    page.event("mouse_up", 580, 432)
    scale = canvas.viewport.scale
    assert canvas.viewport.centre == pytest.approx((x - 80 / scale, y - 32 / scale))
    assert not canvas.can_undo


def test_drawing_while_zoomed_in_is_where_it_is_seen(canvas, page):
    canvas.zoom_to(6, center=(100, 80))
    page.drag((95.25, 75.5), (100, 80))
    assert canvas.pairs == (PointPair((95.25, 75.5), (100, 80)),)


def test_the_probe_tells_where_it_was_clicked_and_draws_nothing(canvas, page):
    seen = []
    canvas.on_probe(lambda x, y: seen.append((x, y)))
    canvas.tool = "probe"
    page.click((20, 30))
    assert seen == [(20, 30)]
    assert not canvas.can_undo


def test_keys_do_nothing_unless_they_are_switched_on(canvas, page):
    page.key("b")
    assert canvas.tool == "points"
    canvas.keyboard = True
    page.key("b")
    assert canvas.tool == "brush"


def test_every_key_does_what_it_says(canvas, page):
    canvas.keyboard = True
    told = []
    canvas.on_key(told.append)
    canvas.pairs = [((20, 20), (30, 30)), ((50, 50), (60, 60))]
    page.key("2")
    page.key("ArrowRight")
    page.key("ArrowDown", shift=True)
    assert canvas.pairs[1].target == (61, 70)
    page.key("Delete")
    assert len(canvas.pairs) == 1
    page.key("z", ctrl=True)
    assert len(canvas.pairs) == 2
    page.key("Z", shift=True, meta=True)
    page.key("z", meta=True)
    page.key("y", ctrl=True)
    assert len(canvas.pairs) == 1
    for key, tool in zip(
        "pbelrh", ("points", "brush", "eraser", "lasso", "rectangle", "pan"), strict=True
    ):
        page.key(key)
        assert canvas.tool == tool
    page.key("x")
    assert canvas.tool == "eraser"
    page.key("x")
    assert canvas.tool == "brush"
    page.key("]")
    assert canvas.brush_size > 9
    page.key("[")
    assert canvas.brush_size == 9
    page.key("+")
    assert canvas.zoom > 1
    page.key("0")
    assert canvas.zoom == 1
    page.key("m")
    assert canvas.mask_style == "tint"
    page.key(" ")
    page.key("s")
    assert told == ["run", "step"]
    page.press((20, 20))
    page.move((60, 60))
    page.key("Escape")
    page.release((60, 60))
    assert canvas.mask is None


def test_the_first_finger_draws_and_a_second_one_does_not(canvas, page):
    page.touch("touch_start", (20, 30))
    page.touch("touch_start", (20, 30), (90, 90))
    page.touch("touch_move", (60, 50), (90, 90))
    page.touch("touch_end", (90, 90))
    page.touch("touch_move", (10, 10))
    page.touch("touch_end")
    assert canvas.pairs == (PointPair((20, 30), (60, 50)),)


def test_read_only_stops_the_hand_but_not_its_view(canvas, page):
    canvas.read_only = True
    canvas.keyboard = True
    canvas.add_pair((20, 30), (60, 50))
    for tool in ("points", "brush", "eraser", "lasso", "rectangle"):
        canvas.tool = tool
        page.drag((20, 30), (40, 40), (60, 60))
    page.key("z", ctrl=True)
    page.key("Delete")
    assert canvas.pairs == (PointPair((20, 30), (60, 50)),)
    assert canvas.mask is None
    page.key("+")
    assert canvas.zoom > 1


def test_a_press_is_given_up_when_the_image_is_swapped(canvas, page):
    canvas.tool = "brush"
    page.press((20, 30))
    page.move((40, 40))
    canvas.image = np.zeros((50, 50, 3), np.uint8)
    page.move((30, 30))
    page.release((40, 40))
    assert canvas.mask is None


def test_a_stroke_in_hand_survives_what_python_draws_meanwhile(canvas, page):
    canvas.tool = "brush"
    page.press((20, 30))
    canvas.add_pair((1, 1), (2, 2))
    canvas.rectangle((60, 60), (80, 80))
    page.move((40, 30))
    page.release((40, 30))
    assert canvas.mask[70, 70]
    assert canvas.mask[30, 30]


# ---------------------------------------------------------------- errors


def test_an_error_of_a_handler_is_kept_and_costs_only_the_gesture(canvas, page, caplog):
    canvas.add_pair((20, 30), (60, 50))

    def fail(_x, _y):
        raise OSError("no disc <b>")

    canvas.on_probe(fail)
    canvas.tool = "probe"
    page.click((5, 5))
    assert canvas.last_error == "OSError: no disc <b>"
    assert "no disc &lt;b&gt;" in canvas._caption.value
    assert "no disc" in caplog.text
    assert len(canvas.pairs) == 1
    canvas.tool = "points"
    page.drag((90, 30), (100, 50))
    assert len(canvas.pairs) == 2
    assert canvas.last_error == ""


def test_a_message_that_makes_no_sense_is_an_error_that_is_told(canvas, page, caplog):
    send(canvas.scene.multi, event="mouse_down", x=None, y=3.0)
    assert "TypeError" in canvas.last_error
    page.drag((90, 30), (100, 50))
    assert len(canvas.pairs) == 1
    assert caplog.text


def test_a_corner_is_where_it_was_clicked_though_the_view_changed_before_the_release(canvas, page):
    canvas.tool = "lasso"
    canvas.zoom_to(4, center=(30, 30))
    where = canvas.viewport.to_canvas((32, 28))
    page.event("mouse_down", *where)
    canvas.fit()
    page.event("mouse_up", *where)
    for corner in [(60, 30), (50, 60)]:
        page.click(corner)
    canvas.close_lasso()
    assert canvas.mask[29, 34]
    assert canvas.mask[50, 49]
    assert not canvas.mask[20, 20]
