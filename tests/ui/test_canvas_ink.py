"""A gesture that the page drew by itself, sent whole: what it does, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import traitlets
from front_end import HEIGHT, WIDTH, Page, drawings, messages

from dragwidget.data.instructions import MAX_PAIRS
from dragwidget.ui.canvas import DragCanvas, ink, input, marks, sketch, viewport
from dragwidget.ui.canvas.tools import TOOLS, lasso, tool

pytestmark = pytest.mark.usefixtures("page")

ZIGZAG = [(20, 30), (35, 31), (50, 60), (30, 70), (90, 80)]


def image(value=100):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def gesture_of(canvas, *points, brush=None, **more):
    """The message of one gesture through points of the image, and its buffer."""
    view = canvas.viewport
    size = canvas.brush_size if brush is None else brush
    sizes = np.broadcast_to(size, len(points))
    rows = [(*view.to_canvas(xy), one) for xy, one in zip(points, sizes, strict=True)]
    content = {
        "event": "gesture", "tool": canvas.tool, "image": canvas.image_number, "touch": False,
        "zoom": view.zoom, "centre": list(view.centre), "view": "page", "n": 1, **more,
    }  # fmt: skip
    return content, [np.array(rows, "<f8").tobytes()]


def draw(canvas, *points, **more):
    """The page sends a gesture."""
    content, buffers = gesture_of(canvas, *points, **more)
    send(canvas, content, buffers)


def send(canvas, content, buffers):
    data = {"method": "custom", "content": content}
    canvas._script._handle_msg({"content": {"data": data}, "buffers": buffers})


def what_is_drawn(canvas):
    mask = canvas.mask
    return canvas.pairs, canvas.selected, None if mask is None else mask.tobytes(), canvas.viewport


@pytest.mark.parametrize("zoom", [1.0, 2.3])
@pytest.mark.parametrize("name", list(TOOLS))
def test_a_gesture_does_bit_for_bit_what_its_events_do(canvas, name, zoom):
    other = DragCanvas(canvas.image, brush_size=9, probe=True)
    probed = []
    for made in (canvas, other):
        made.stroke([(10, 10), (100, 80)], size=30)
        made.add_pair((90, 20), (100, 40))
        made.zoom_to(zoom, (50, 50))
        made.tool = name
        made.on_probe(lambda *xy: probed.append(xy))
    paths = [ZIGZAG, ZIGZAG[:1] * 2, [(90, 20), (80, 25), (70, 20)], [(-9, 3), (140, 99)], ZIGZAG]
    hand = Page(other)
    for path in paths:
        draw(canvas, *path)
        hand.press(path[0])
        hand.move(*path[1:-1])
        hand.release(path[-1])
    assert what_is_drawn(canvas) == what_is_drawn(other)
    assert probed[::2] == probed[1::2]
    assert bool(probed) == (name == "probe")
    while other.undo():
        assert canvas.undo()
        assert what_is_drawn(canvas) == what_is_drawn(other)
    assert not canvas.undo()
    other.close()


def test_a_gesture_is_painted_once_however_many_points_it_has(canvas):
    canvas.tool = "brush"
    line = [(20 + i / 10, 30) for i in range(500)]
    with messages() as sent:
        draw(canvas, *line)
    assert len(drawings(sent)) == 1
    assert len(sent) <= 8
    assert canvas.mask[30, 20:69].all()


def test_the_state_says_that_a_gesture_is_in_it_once_it_is_painted(canvas):
    canvas.tool = "brush"
    states = []
    canvas._script.observe(lambda change: states.append(change["new"]), "state")
    with messages() as sent:
        draw(canvas, *ZIGZAG, view="a page", n=7)
    (state,) = states
    assert state["answered"] == {"a page": 7}
    assert state["hasMask"]
    painted = max(i for i, entry in enumerate(sent) if entry is not None)
    assert painted < len(sent) - 1  # the state comes after it


def test_a_pen_paints_as_wide_as_it_is_pressed(canvas):
    canvas.tool = "brush"
    draw(canvas, (20, 40), (60, 40), (100, 40), brush=[4, 4, 20])
    thin, wide = canvas.mask[:, 40].sum(), canvas.mask[:, 80].sum()
    assert (thin, wide) == (4, 12)  # a segment is as wide as the mean of its ends
    canvas.undo()
    draw(canvas, (20, 40), (60, 40), (100, 40), brush=[9, 9, 9])
    even = canvas.mask
    canvas.undo()
    canvas.stroke([(20, 40), (60, 40), (100, 40)])
    np.testing.assert_array_equal(canvas.mask, even)


def test_a_gesture_is_of_the_tool_the_view_and_the_image_that_were_seen(canvas):
    canvas.tool = "brush"
    content, buffers = gesture_of(canvas, (20, 30), (60, 50))
    canvas.tool = "eraser"  # which the page does not know yet
    canvas.zoom_to(3, (100, 80))
    before = canvas.viewport
    send(canvas, content, buffers)
    assert canvas.mask[40, 40]
    assert canvas.mask.sum() < 1000
    assert (canvas.tool, canvas.viewport) == ("eraser", before)
    canvas.image = image(7)
    send(canvas, content, buffers)
    assert canvas.mask is None


def test_a_read_only_canvas_takes_no_gesture_that_draws(canvas):
    canvas.read_only = True
    for name in ("points", "brush", "eraser", "lasso", "rectangle"):
        canvas.tool = name
        draw(canvas, *ZIGZAG)
    assert (canvas.pairs, canvas.mask) == ((), None)


def broken(name, value):
    return lambda content, buffers: ({**content, name: value}, buffers)


MALFORMED = {
    "no such tool": broken("tool", "axe"),
    "a tool that is no word": broken("tool", ["brush"]),
    "no zoom": broken("zoom", None),
    "a zoom that is nothing": broken("zoom", float("nan")),
    "one coordinate": broken("centre", [1.0]),
    "an image that is a word": broken("image", "1"),
    "no points": lambda content, _: (content, []),
    "half a point": lambda content, buffers: (content, [buffers[0][:-8]]),
    "one point": lambda content, buffers: (content, [buffers[0][:24]]),
    "too many points": lambda content, _: (content, [bytes(24 * (sketch.MAX_STROKE_POINTS + 1))]),
    "a point nowhere": lambda content, _: (content, [np.full((2, 3), np.nan).tobytes()]),
    "a point too far": lambda content, _: (content, [np.full((2, 3), 1e7).tobytes()]),
    "a brush of nothing": lambda content, _: (content, [np.zeros((2, 3)).tobytes()]),
    "another event": broken("event", "dance"),
}


@pytest.mark.parametrize("how", list(MALFORMED))
def test_a_malformed_message_is_refused_answered_and_costs_nothing(how):
    canvas = DragCanvas(image(), brush_size=9)
    page = Page(canvas)
    canvas.stroke([(10, 10), (50, 50)])
    page.click((20, 30))  # a handle that waits for its target
    before = what_is_drawn(canvas)
    content, buffers = MALFORMED[how](*gesture_of(canvas, (5, 5), (60, 60), n=3))
    send(canvas, content, buffers)
    assert canvas.last_error.startswith("ValueError: ")
    assert what_is_drawn(canvas) == before
    assert canvas._script.state["answered"] == {"page": 3}
    page.click((60, 50))
    assert [(pair.handle, pair.target) for pair in canvas.pairs] == [((20, 30), (60, 50))]
    assert canvas.last_error == ""
    canvas.close()


def test_the_protected_region_is_sampled_in_the_middle_of_each_cell():
    assert ink.protected_cells(None) == b""
    mask = np.zeros((96, 128), bool)
    mask[10:60, 33:70] = True
    cells = np.frombuffer(ink.protected_cells(mask), np.uint8).reshape(ink.mesh_of((128, 96)))
    assert cells.shape == (48, 64)
    np.testing.assert_array_equal(cells == 0, mask[1::2, 1::2])


def test_the_page_gets_the_mesh_only_where_the_image_is_to_follow(canvas):
    assert canvas._script.state["warp"] is None
    canvas.fill_mask()
    canvas.live_warp = ("winner", 1.5)
    expected = {"combine": "winner", "reach": 1.5, "mesh": [48, 64]}
    assert canvas._script.state["warp"] == expected
    assert canvas._script.protected == bytes(48 * 64)
    for wrong in (("nearest", 1.5), ("mean", 0.0), ("mean",)):
        with pytest.raises(traitlets.TraitError):
            canvas.live_warp = wrong
    assert canvas.live_warp == ("winner", 1.5)


def test_only_the_last_pages_are_answered(canvas, page):
    for number in range(40):
        page.tell(event="tool", tool="brush", view=f"page {number}", n=number + 1)
    answered = canvas._script.state["answered"]
    assert list(answered) == [f"page {number}" for number in range(24, 40)]
    assert canvas.tool == "brush"


def test_the_script_counts_in_the_same_pixels():
    code = Path(input.__file__).with_name("ink.js").read_text()
    said = dict(re.findall(r"^const ([A-Z_]+) = ([\d.]+);", code, re.MULTILINE))
    here = {
        "RATIO": viewport.RATIO, "PADDING": viewport.PADDING, "MAX_ZOOM": viewport.MAX_ZOOM,
        "LEAST_MOVE": tool.LEAST_MOVE, "LEAST_DRAG": tool.LEAST_DRAG, "REACH": tool.REACH,
        "TOUCH_REACH": tool.TOUCH_REACH, "LEAST_CORNERS": lasso.LEAST_CORNERS,
        "MAX_PAIRS": MAX_PAIRS, "MAX_STROKE_POINTS": sketch.MAX_STROKE_POINTS,
        "WHEEL_STEP": input.WHEEL_STEP,
    }  # fmt: skip
    for name, value in here.items():
        assert float(said[name]) == value, name
    for colour in (marks.HANDLE, marks.TARGET, marks.SHADE):
        assert f'"{colour}"' in code
