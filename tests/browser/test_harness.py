"""What the tests in a browser stand on works, with plain widgets: so a failure is the widget's."""

from __future__ import annotations

import time

import numpy as np
import pytest

from browser.proxy import SlowLine

pytestmark = pytest.mark.timeout(900)

# A canvas that notes what the mouse does and answers with one red square where it was pressed.
CELLS = [
    "from ipycanvas import MultiCanvas, hold_canvas\nfrom ipycanvas.canvas import _CANVAS_MANAGER",
    """
canvas = MultiCanvas(2, width=200, height=100, layout={"align_self": "flex-start"})
events = []
def note(kind):
    def handle(x, y):
        events.append([kind, x, y])
        if kind == "down":
            with hold_canvas():
                canvas[1].fill_style = "red"
                canvas[1].fill_rect(x - 2, y - 2, 4, 4)
    return handle
canvas.on_mouse_down(note("down"))
canvas.on_mouse_move(note("move"))
canvas.on_mouse_up(note("up"))
def paint():
    _CANVAS_MANAGER._current_canvas = None  # a page that is loaded again forgot it: ipycanvas 322
    with hold_canvas():
        canvas[0].fill_style = "blue"
        canvas[0].fill_rect(0, 0, 200, 50)
canvas.on_client_ready(paint)
canvas
""",
]
BLUE = (0, 0, 255, 255)
RED = (255, 0, 0, 255)


@pytest.mark.parametrize("app", ["lab", "notebook", "voila"])
def test_a_drag_reaches_the_kernel_and_its_answer_the_pixels(new_page, app):
    page = new_page(app).open(CELLS)
    page.run_all()
    canvas = page.canvas()
    page.until(lambda: canvas.pixel(20, 10) == BLUE, "the image is painted")
    where = canvas.drag([(20, 20), (60.4, 30), (100, 40.6)])
    down, *moves, up = page.kernel.wait_for("events if events and events[-1][0] == 'up' else []")
    moves = [move for move in moves if move[0] == "move"]
    assert down == ["move", *where[0]]  # the hover before the press
    assert moves == [["move", *where[1]], ["move", *where[2]]]
    assert up == ["up", *where[2]]
    page.until(lambda: canvas.pixel(20, 20) == RED, "the square is painted")
    page.screenshot(f"harness/{app}")


def test_what_the_kernel_holds_comes_whole(lab):
    lab.open(["import numpy", "a = numpy.arange(6, dtype='uint8').reshape(2, 3)"])
    lab.run_all()
    assert lab.kernel.get("[a.shape, a.sum().item()]") == [[2, 3], 15]
    np.testing.assert_array_equal(lab.kernel.array("a > 2"), np.arange(6).reshape(2, 3) > 2)
    lab.kernel.run("b = a + 1")
    assert lab.kernel.get("b.max().item()") == 6
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lab.kernel.get("1 / 0")
    with pytest.raises(AssertionError, match="NameError"):
        lab.kernel.run("there_is_no_such_name")


@pytest.mark.parametrize("app", ["lab", "voila"])
def test_a_cell_that_fails_fails_the_test(new_page, app):
    page = new_page(app).open(["1 + 1", "raise OSError('this is why')"])
    with pytest.raises(AssertionError, match="this is why"):
        page.run_all()


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_mouse_is_where_the_canvas_says_at_any_device_pixel_ratio(new_page, ratio):
    page = new_page(device_scale_factor=ratio).open(CELLS)
    page.run_all()
    canvas = page.canvas()
    assert page.page.evaluate("devicePixelRatio") == ratio
    where = canvas.drag([(33, 44)])
    event = page.kernel.wait_for("events[-1] if events and events[-1][0] == 'up' else []")
    assert event == ["up", *where[0]]
    page.until(lambda: canvas.pixel(33, 44) == RED, "the square is painted")


def test_a_slow_line_delays_and_loses_nothing(new_page, server):
    with SlowLine(server.port) as line:
        page = new_page()
        page.port = line.port
        page.open(CELLS).run_all()
        canvas = page.canvas()
        page.until(lambda: canvas.pixel(20, 10) == BLUE, "the image is painted")
        line.delay = 0.1
        points = [(x, 70.0) for x in range(10, 190, 10)]
        where = canvas.drag(points)
        start = time.monotonic()
        canvas.click((100, 90))
        page.until(lambda: canvas.pixel(100, 90) == RED, "the square is painted")
        assert time.monotonic() - start > 0.2
        moves = [event[1:] for event in page.kernel.get("events") if event[0] == "move"]
        assert moves[: len(where)] == [list(point) for point in where]
        line.delay = 0.0


def test_a_page_that_is_loaded_again_has_the_same_kernel(lab):
    lab.open(CELLS).run_all()
    lab.kernel.run("mark = 7")
    kernel = lab.kernel_id
    lab.reload()
    assert lab.kernel_id == kernel
    assert lab.kernel.get("mark") == 7
    canvas = lab.canvas()
    lab.until(lambda: canvas.pixel(20, 10) == BLUE, "the image is painted again")


def test_a_dark_window_shows_a_dark_page(new_page):
    dark = new_page(color_scheme="dark").open(["1"])
    dark.until(lambda: dark.image().mean() < 80, "the page turns dark")
    dark.screenshot("harness/dark")
