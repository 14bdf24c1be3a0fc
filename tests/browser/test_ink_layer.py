"""The ink layer: strokes show at once, a gesture is one message, the kernel holds what showed."""

from __future__ import annotations

import numpy as np
import pytest

from browser.canvases import ImageOnPage
from browser.proxy import SlowLine
from browser.test_canvas_input import CELLS, use
from browser.test_drag_canvas import GREY, SIZE, STROKE, mask, opened
from dragwidget.ui.canvas.sketch import Sketch

pytestmark = pytest.mark.timeout(900)

LAYER = "() => Boolean(document.querySelector('.dragwidget-ink')?.layer)"
# What the layer shows at a point, in canvas pixels; None while it shows nothing.
SHOWS = """([x, y]) => { const { host, element } = document.querySelector('.dragwidget-ink').layer;
    return host.style.display === 'none' ? null
        : [...element.getContext('2d').getImageData(x, y, 1, 1).data]; }"""
IDLE = """() => { const { host, waiting } = document.querySelector('.dragwidget-ink').layer;
    return host.style.display === 'none' && waiting.length === 0; }"""
COUNT = """heard = []
canvas._script.on_msg(lambda _, content, __: heard.append(content['event']))"""
WITHOUT_MODELS = "canvas._script.parts = {**canvas._script.parts, 'image': 'nowhere'}"


def drawn_on(page, cells=CELLS):
    """The canvas on the page, once its layer is at work; the kernel counts messages."""
    canvas = opened(page, cells)
    page.kernel.wait_for("canvas.has_keys")
    page.wait_for(LAYER)
    page.kernel.run(COUNT)
    return canvas


def layer_shows(page, canvas, point):
    colour = page.page.evaluate(SHOWS, [int(value) for value in canvas.on_canvas(point)])
    return None if colour is None else tuple(colour)


def test_a_stroke_shows_before_any_message_and_is_one_bit_for_bit(new_page, server):
    page = new_page()
    with SlowLine(server.port) as line:
        page.port = line.port
        canvas = drawn_on(page)
        use(page, "brush")
        page.kernel.run("heard.clear()")
        line.delay = 0.3
        where = [canvas.seen(point) for point in STROKE]
        canvas.press(STROKE[0])
        for point in STROKE[1:]:
            canvas.hover(point)
            assert layer_shows(page, canvas, point) == (GREY, GREY, GREY, 255)
        assert max(layer_shows(page, canvas, (5, 120))[:3]) < GREY - 40  # protected
        assert page.kernel.get("[heard, canvas.mask is None]") == [[], True]
        page.screenshot("ink/stroke")
        line.delay = 3.0
        canvas.release()
        assert layer_shows(page, canvas, STROKE[2]) == (GREY, GREY, GREY, 255)  # not answered yet
        assert page.kernel.get("canvas.mask is None")
        line.delay = 0.0
        page.kernel.wait_for("canvas.mask is not None")
        page.wait_for(IDLE)
        assert canvas.shows(STROKE[2])[:3] == (GREY,) * 3
        assert max(canvas.shows((5, 120))[:3]) < GREY - 40
        assert page.kernel.get("[heard, canvas.last_error]") == [["gesture"], ""]
        line.delay = 0.0
    sketch = Sketch(SIZE)
    sketch.stroke(where, page.kernel.get("canvas.brush_size"))
    np.testing.assert_array_equal(mask(page), sketch.mask)


def test_every_tool_draws_at_once_and_what_it_drew_follows_in_one_message(lab):
    canvas = drawn_on(lab)
    for tool, path, see, state in (
        ("points", [(40, 45), (60, 50), (70, 50)], (40, 45), "len(canvas.pairs) == 1"),
        ("points", [(70, 50), (80, 70), (100, 80)], (100, 81.6), "canvas.pairs[0].target[0] > 90"),
        ("rectangle", [(10, 10), (20, 20), (30, 30)], None, "bool(canvas.mask[20, 20])"),
        ("lasso", [(60, 90), (100, 90), (100, 120)], (100, 105), "bool(canvas.mask[100, 95])"),
        ("eraser", [(12, 15), (20, 15), (28, 15)], (20, 15), "not canvas.mask[15, 20]"),
    ):
        use(lab, tool)
        lab.kernel.run("heard.clear()")
        before = canvas.pixels()
        canvas.press(path[0])
        for point in path[1:]:
            canvas.hover(point)
        lab.page.wait_for_timeout(50)
        assert np.array_equal(canvas.pixels(), before), tool  # the kernel has painted nothing
        if see is not None:
            shown = layer_shows(lab, canvas, see)
            x, y = (int(value) for value in canvas.on_canvas(see))
            assert shown[:3] != tuple(before[y, x, :3]), tool
        lab.screenshot(f"ink/{tool}-{state[:12]}")
        canvas.release()
        lab.kernel.wait_for(state)
        lab.wait_for(IDLE)
        assert lab.kernel.get("[heard, canvas.last_error]") == [["gesture"], ""]
    assert lab.kernel.get("len(canvas.pairs)") == 1


def test_escape_cancels_a_key_chooses_a_tool_at_once_and_strokes_queue_up(new_page, server):
    page = new_page()
    with SlowLine(server.port) as line:
        page.port = line.port
        canvas = drawn_on(page)
        use(page, "brush")
        line.delay = 0.3
        keys = page.page.keyboard
        canvas.press((20.0, 20.0))
        canvas.hover((90.0, 20.0))
        keys.press("Escape")
        page.wait_for(IDLE)
        canvas.release()
        canvas.drag([(20.0, 60.0), (100.0, 60.0)])
        keys.press("e")  # and the very next stroke erases
        canvas.drag([(60.0, 50.0), (60.0, 70.0)])
        keys.press("p")
        canvas.drag([(30.0, 60.0), (90.0, 90.0)])
        assert layer_shows(page, canvas, (60, 60)) != (GREY, GREY, GREY, 255)
        assert layer_shows(page, canvas, (45, 60)) == (GREY, GREY, GREY, 255)
        page.screenshot("ink/queued")
        page.kernel.wait_for("len(canvas.pairs) == 1")
        line.delay = 0.0
        page.wait_for(IDLE)
    told = page.kernel.get("[canvas.tool, bool(canvas.mask[20].any()), bool(canvas.mask[60, 60]),"
                           " bool(canvas.mask[60, 30]), canvas.last_error]")  # fmt: skip
    assert told == ["points", False, False, True, ""]


def test_ctrl_and_the_wheel_zoom_at_once_and_a_pan_is_one_message(new_page, server):
    page = new_page()
    with SlowLine(server.port) as line:
        page.port = line.port
        canvas = drawn_on(page)
        page.kernel.run("canvas.add_pair((64, 64), (80, 64))")
        page.until(lambda: canvas.shows((65.5, 64))[0] > 210, "the handle shows")
        line.delay = 3.0
        canvas.hover((64.0, 64.0))
        page.page.keyboard.down("Control")
        page.page.mouse.wheel(0, -200)
        page.page.keyboard.up("Control")
        view = "() => document.querySelector('.dragwidget-ink').layer.predict().view"
        page.wait_for(
            "() => document.querySelector('.dragwidget-ink').layer.predict().view.zoom > 1"
        )
        assert page.kernel.get("canvas.zoom") == 1
        page.screenshot("ink/zoom")
        line.delay = 0.0
        page.kernel.wait_for("canvas.zoom > 1")
        page.wait_for(IDLE)
        use(page, "pan")
        page.kernel.run("heard.clear()")
        canvas.press((64.0, 64.0))
        canvas.hover((50.0, 50.0))
        canvas.hover((40.0, 60.0))
        seen = page.page.evaluate(view)["centre"]
        assert page.kernel.get("heard") == []
        canvas.release()
        page.kernel.wait_for("heard == ['gesture']")
        page.wait_for(IDLE)
        assert page.kernel.get("canvas.viewport.centre") == pytest.approx(seen)


def test_a_finger_scrolls_the_page_where_no_tool_takes_it(lab):
    canvas = drawn_on(lab)
    action = "canvas => canvas.style.touchAction"
    assert canvas.element.evaluate(action) == "none"
    for code, expected in (
        ("canvas.tool = 'pan'", "auto"), ("canvas.zoom = 2.0", "none"),
        ("canvas.tool = 'brush'", "none"), ("canvas.read_only = True", "auto"),
    ):  # fmt: skip
        lab.kernel.run(code)
        lab.until(lambda e=expected: canvas.element.evaluate(action) == e, f"{code}: {expected}")


def test_the_layer_lies_on_a_canvas_with_a_border_and_scaled_by_the_page(lab):
    canvas = drawn_on(lab)
    canvas.element.evaluate("""canvas => { Object.assign(canvas.style,
        {border: '7px solid red', padding: '11px', width: '300px', transform: 'scale(1.2)'}); }""")
    use(lab, "brush")
    canvas.press((30.0, 30.0))
    canvas.hover((60.0, 60.0))
    boxes = lab.page.evaluate("""() => { const { host, canvas } =
        document.querySelector('.dragwidget-ink').layer;
        const [a, b] = [host, canvas].map((element) => element.getBoundingClientRect());
        const edge = 18 * 1.2;
        return [[a.left, a.top, a.width, a.height],
            [b.left + edge, b.top + edge, b.width - 2 * edge, b.height - 2 * edge]]; }""")
    lab.screenshot("ink/border")
    canvas.release()
    assert boxes[0] == pytest.approx(boxes[1], abs=0.1)


def test_where_the_image_cannot_be_reached_the_kernel_draws(new_page):
    page = new_page()
    cells = [*CELLS[:2], WITHOUT_MODELS, *CELLS[2:]]
    canvas = opened(page, cells)
    page.kernel.wait_for("canvas.has_keys")
    page.kernel.run(COUNT)
    use(page, "brush")
    page.kernel.run("heard.clear()")
    canvas.press((30.0, 40.0))
    canvas.hover((60.0, 60.0))
    page.until(lambda: max(canvas.shows((5, 120))[:3]) < GREY - 40, "the kernel shows the stroke")
    canvas.release()
    page.kernel.wait_for("len(heard) > 2")
    assert page.kernel.get("[heard, canvas.last_error]") == [["press", "move", "release"], ""]
    assert page.kernel.get("bool(canvas.mask[50, 45])")
    assert not page.page.evaluate(LAYER)


def test_a_second_view_shows_a_stroke_that_the_first_drew(lab):
    first = drawn_on(lab, [*CELLS, "canvas"])
    second = ImageOnPage(lab.canvas(1, "dragwidget-canvas").element, SIZE)
    use(lab, "brush")
    first.drag([(30.0, 40.0), (60.0, 60.0)])
    lab.kernel.wait_for("canvas.mask is not None")
    lab.until(lambda: np.array_equal(first.pixels(), second.pixels()), "both views are alike")
    lab.wait_for(IDLE)


def test_the_selection_is_shown_by_the_kernel_while_the_pointer_is_down(lab):
    pixels = f"pixels = np.full(({SIZE[1]}, {SIZE[0]}, 3), {GREY}, dtype='uint8')"
    two = f"{pixels}\npixels[:, 90:] = 60\ncanvas = DragCanvas(pixels)"
    canvas = drawn_on(lab, [CELLS[0], two, *CELLS[2:]])
    use(lab, "select")
    lab.kernel.run("heard.clear()")
    before = canvas.pixels()
    canvas.press((40, 45))
    canvas.hover((60, 45))
    lab.until(lambda: not np.array_equal(canvas.pixels(), before), "the selection shows")
    assert lab.kernel.get("canvas.mask is None")
    canvas.release()
    lab.kernel.wait_for("canvas.mask is not None")
    assert lab.kernel.get("['gesture' in heard, canvas.last_error]") == [False, ""]
