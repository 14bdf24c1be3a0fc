"""Any events in any order leave a canvas with what a plain model says.

``DRAGWIDGET_EVENTS=2000 DRAGWIDGET_RUNS=50`` makes the long run of it.
"""

import os
import random

import numpy as np
import pytest
from front_end import Page, messages
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from plain_canvas import PlainCanvas, same

from dragwidget.data.instructions import DragInstructions, PointPair
from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.canvas.tools import TOOLS

EVENTS = int(os.environ.get("DRAGWIDGET_EVENTS", 150))
RUNS = int(os.environ.get("DRAGWIDGET_RUNS", 4))
SIZES = [(40, 30), (24, 48), (1, 1), (7, 3)]
MOST_MESSAGES = 10  # for one event of a hand
BY_HAND = {
    "mouse_down", "mouse_move", "mouse_up", "mouse_out", "wheel", "touch", "key", "button",
    "tool_button", "drag", "bare_drag", "second", "abandon",
}  # fmt: skip


def image(size):
    width, height = size
    ramp = np.linspace(0, 255, width * height * 3).astype(np.uint8)
    return ramp.reshape(height, width, 3)


class Driver:
    """Fires an event at a canvas and at its plain model, and compares them."""

    def __init__(self):
        self.canvas = DragCanvas(image(SIZES[0]), brush_size=6, probe=True)
        self.page = Page(self.canvas)
        self.bare = Page(self.canvas, has_script=False)
        self.plain = PlainCanvas(self.canvas)
        self.fired = 0

    def fire(self, name, *args):
        """Do ``name`` to both."""
        self.fired += 1
        ends_a_gesture = name == "key" and self.plain.gesture is not None  # two events in one
        with messages() as sent:
            getattr(self, name)(*args)
        assert self.canvas.last_error == ""
        most = MOST_MESSAGES * (2 if ends_a_gesture else 1 if name in BY_HAND else 4)
        assert len(sent) <= most * max(1, "drag" in name and len(args) + 1), (name, len(sent))
        self.compare()

    def compare(self):
        canvas, plain = self.canvas, self.plain
        assert [(pair.handle, pair.target) for pair in canvas.pairs] == plain.pairs
        assert same(canvas.mask, plain.mask)
        assert (canvas.selected, canvas.tool) == (plain.selected, plain.tool)
        assert canvas.can_undo == bool(plain.past)
        assert canvas.can_redo == bool(plain.future)
        assert (canvas._controller.gesture is None) == (plain.gesture is None)

    def close(self):
        """Undo back to the start restores the start, redo what was there, bit for bit."""
        plain, canvas = self.plain, self.canvas
        canvas.cancel_gesture()
        plain.cancel()
        last = canvas.pairs, canvas.mask
        while canvas._controller.step_back():
            pass
        plain.forget()
        steps = 0
        while canvas.undo():
            plain.undo()
            self.compare()
            steps += 1
        assert canvas.pairs == ()
        assert canvas.mask is None
        for _ in range(steps):
            canvas.redo()
        assert canvas.pairs == last[0]
        assert same(canvas.mask, last[1])
        assert canvas.last_error == ""
        canvas.close()

    # ------------------------------------------------------------ pointer; points are canvas points

    def mouse_down(self, xy):
        self.plain.press(xy, is_known=self.page is not self.bare)
        self.page.event("mouse_down", *xy)

    def mouse_move(self, xy):
        self.plain.move_to(xy)
        self.page.event("mouse_move", *xy)

    def mouse_up(self, xy):
        self.plain.release(xy)
        self.page.event("mouse_up", *xy)

    def mouse_out(self, xy):
        self.plain.release(xy)
        self.bare.event("mouse_out", *xy)

    def wheel(self, xy):
        self.bare.event("mouse_wheel", *xy)
        self.page.tell(event="zoom", x=xy[0], y=xy[1], dy=-xy[1])

    def second(self, xy):
        self.plain.second(xy)
        self.page.tell(event="second", x=xy[0], y=xy[1])

    def abandon(self):
        self.plain.abandon()
        self.page.tell(event="cancel")

    def bare_drag(self, *points):
        """By a button that nobody knows."""
        self.page, ours = self.bare, self.page
        self.drag(*points)
        self.page = ours

    def drag(self, *points):
        self.mouse_down(points[0])
        for xy in points[1:]:
            self.mouse_move(xy)
        self.mouse_up(points[-1])

    def touch(self, name, *points):
        at = self.canvas.viewport.to_image
        if name == "touch_start" and len(points) == 1:
            self.plain.press(points[0], is_touch=True)
        elif name == "touch_move" and points:
            self.plain.move_to(points[0])
        elif name in ("touch_end", "touch_cancel"):
            self.plain.release(None) if name == "touch_end" else self.plain.abandon()
        if name in ("touch_start", "touch_move") and len(points) > 1:
            self.plain.second(points[1])
        self.page.touch(name, *(at(xy) for xy in points))

    # ------------------------------------------------------------ keys and buttons

    def key(self, key, shift=False, ctrl=False):
        plain, edits = self.plain, not self.plain.read_only
        if ctrl:
            if key == "z" and not shift and edits:
                plain.undo()
            elif key in "zy" and edits:
                plain.redo()
        elif key in "pbelrh":
            plain.use(next(tool for tool in TOOLS if tool[0] == key or (key, tool) == ("h", "pan")))
        elif key == "x":
            plain.use("brush" if plain.tool == "eraser" else "eraser")
        elif key in "123" and int(key) <= len(plain.pairs):
            plain.selected, plain.end = int(key) - 1, "target"
        elif key == "Delete" and plain.selected is not None and edits:
            plain.delete(plain.selected)
        elif key == "Enter" and edits:
            plain.close_lasso()
        elif key == "Escape" and edits:
            plain.cancel()
        elif key == "ArrowLeft" and plain.selected is not None and edits:
            self.plain_nudge(-10 if shift else -1)
        self.page.key(key, shift=shift, ctrl=ctrl)

    def plain_nudge(self, dx):
        plain = self.plain
        x, y = plain.pairs[plain.selected][plain.end == "target"]
        plain.move(plain.selected, plain.end, plain.point(plain.on_screen((x + dx, y))))

    def button(self, name):
        if name == "undo":
            self.plain.undo()
        else:
            self.plain.redo()
        getattr(self.canvas._toolbar, name).click()

    def tool_button(self, name):
        self.plain.use(name)
        self.canvas._toolbar.tools[name].value = True

    # ------------------------------------------------------------ from Python

    def load_page(self):
        self.page.load()

    def set_tool(self, tool):
        self.plain.use(tool)
        self.canvas.tool = tool

    def set_read_only(self, read_only):
        if read_only and not self.plain.read_only:
            self.plain.forget()
        self.plain.read_only = read_only
        self.canvas.read_only = read_only

    def set_look(self, style, brush, zoom):
        self.canvas.mask_style = style
        self.canvas.brush_size = brush
        self.canvas.zoom = zoom

    def set_pairs(self, pairs):
        self.plain.set_pairs(pairs)
        self.canvas.pairs = tuple(PointPair(*pair) for pair in pairs)

    def set_instructions(self, pairs, noise):
        mask = self.noise(noise)
        mask[0, 0] = True
        given = DragInstructions(
            tuple(PointPair(*pair) for pair in pairs), size=self.plain.size, mask=mask
        )
        self.plain.forget()
        self.plain.become(list(pairs), mask)
        self.canvas.instructions = given

    def noise(self, noise):
        return np.random.default_rng(noise).random(self.plain.shape) < 0.5

    def set_mask(self, noise):
        mask = None if noise % 3 == 0 else self.noise(noise)
        self.plain.set_mask(mask)
        self.canvas.set_mask(mask)

    def stroke(self, points, size, erase):
        self.plain.stroke(points, size, erase)
        self.canvas.stroke(points, erase, size)

    def lasso(self, points, erase):
        self.plain.lasso(points, erase)
        self.canvas.lasso(points, erase)

    def rectangle(self, a, b, erase):
        self.plain.rectangle(a, b, erase)
        self.canvas.rectangle(a, b, erase)

    def grow(self, radius):
        self.plain.grow(radius)
        (self.canvas.grow if radius > 0 else self.canvas.shrink)(abs(radius))

    def simple(self, name):
        getattr(self.plain, {"invert_mask": "invert"}.get(name, name))()
        getattr(self.canvas, name)()

    def lay_over(self, xy):
        self.canvas.show_image(image((20, 15)))
        self.canvas.show_tracks([xy], [[xy, (0.0, 0.0)]])
        self.canvas.flush()

    def swap(self, size):
        self.canvas.image = image(size)
        self.plain.start()


def random_event(rng, driver):
    """One event of any kind, as a name and its arguments."""
    width, height = driver.plain.size
    canvas = driver.canvas.viewport.canvas

    def at():  # also outside the canvas
        return tuple(
            rng.choice([rng.uniform(-20, side + 20), rng.uniform(0, side)]) for side in canvas
        )

    def near(xy):
        return xy[0] + rng.uniform(-9, 9), xy[1] + rng.uniform(-9, 9)

    def inside():
        return rng.uniform(0, width - 0.01), rng.uniform(0, height - 0.01)

    def pairs():
        return [(inside(), inside()) for _ in range(rng.randrange(4))]

    def points(least):
        return [(rng.uniform(-5, width + 5), rng.uniform(-5, height + 5))
                for _ in range(rng.randrange(least, least + 4))]  # fmt: skip

    xy = at()
    gesture = driver.plain.gesture
    if gesture is not None and rng.random() < 0.7:  # go on with it
        name = rng.choice(["mouse_move"] * 5 + ["mouse_up"] * 3 + ["mouse_out", "second"])
        return name, rng.choice([xy, near(gesture["last"])])
    if driver.plain.pairs and rng.random() < 0.2:  # meet what is there
        xy = near(driver.plain.on_screen(rng.choice(rng.choice(driver.plain.pairs))))
    if driver.plain.corners and rng.random() < 0.3:
        xy = near(driver.plain.on_screen(rng.choice(driver.plain.corners)))
    has_room = driver.plain.pairs or rng.random() < 0.5
    return rng.choice(
        [
            *[("mouse_down", xy)] * 8,
            *[("drag", xy, near(xy))] * 3,
            *[("drag", xy)] * 6,
            *[("bare_drag", xy, *more) for more in ((), (near(xy),), (at(), at()))],
            *[("drag", xy, at(), at())] * 4,
            *[(name, xy) for name in ("mouse_move", "mouse_up", "mouse_out", "wheel", "second")],
            *[("touch", "touch_start", xy)] * 3,
            ("touch", "touch_start", xy, at()),
            *[("touch", "touch_move", xy), ("touch", "touch_move")],
            *[("touch", "touch_end"), ("touch", "touch_end", xy), ("touch", "touch_cancel")],
            *[("abandon",), ("key", "ArrowLeft")],
            *[("key", key) for key in (*"pbelrhxq120m[", "Delete", "Enter", "Escape", "Tab")],
            ("key", "ArrowLeft", True),
            *[("key", "z", False, True)] * 2,
            ("key", "Z", True, True) if rng.random() < 0 else ("key", "y", False, True),
            ("button", "undo") if not driver.plain.read_only else ("load_page",),
            ("button", "redo") if not driver.plain.read_only else ("load_page",),
            ("tool_button", rng.choice(list(TOOLS))),
            ("load_page",),
            *[("set_tool", rng.choice(list(TOOLS)))] * 3,
            ("set_read_only", rng.random() < 0.3),
            ("set_read_only", False),
            ("set_look", rng.choice(["darken", "tint", "hidden"]), rng.uniform(1, 12),
             rng.choice([1.0, 1.0, rng.uniform(1, 9)])),
            ("set_pairs", pairs()),
            ("set_instructions", [(inside(), inside())], rng.randrange(99)),
            ("set_mask", rng.randrange(99)),
            ("stroke", points(1), rng.uniform(1, 9), rng.random() < 0.5),
            ("lasso", points(3), rng.random() < 0.5),
            ("rectangle", inside(), inside(), rng.random() < 0.5),
            ("grow", rng.choice([-2.5, -1.0, 1.0, 3.0])),
            ("simple", rng.choice(["undo", "redo", "invert_mask"])),
            ("simple", "clear") if not has_room else ("simple", "undo"),
            ("lay_over", inside()),
            ("swap", rng.choice(SIZES)) if rng.random() < 0.1 else ("load_page",),
        ]
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(7200)  # the long run takes a quarter of an hour
@settings(max_examples=RUNS, database=None)
@given(st.integers(0, 2**32 - 1))
def test_thousands_of_events_in_any_order_leave_what_a_plain_model_says(number):
    rng = random.Random(number)
    driver = Driver()
    for _ in range(EVENTS):
        driver.fire(*random_event(rng, driver))
    driver.close()


@pytest.mark.parametrize("key", ["x", "Delete", "Escape", "Enter", "1", "ArrowLeft"])
def test_a_key_that_ends_a_gesture_sends_what_two_events_may(key):
    driver = Driver()
    driver.fire("drag", (0.0, 0.0))
    driver.fire("mouse_down", (0.0, 0.0))
    driver.fire("key", key)
    driver.close()


COORDINATES = st.tuples(st.floats(-20, 500), st.floats(-20, 400))


class CanvasMachine(RuleBasedStateMachine):
    """The same in small, so that a failure is shrunk to the few events that make it."""

    def __init__(self):
        super().__init__()
        self.driver = Driver()

    @rule(name=st.sampled_from(["mouse_down", "mouse_move", "mouse_up", "mouse_out", "second"]),
          xy=COORDINATES)  # fmt: skip
    def pointer(self, name, xy):
        self.driver.fire(name, xy)

    @rule(name=st.sampled_from(["drag", "bare_drag"]),
          points=st.lists(COORDINATES, min_size=1, max_size=4))  # fmt: skip
    def drag(self, name, points):
        self.driver.fire(name, *points)

    @rule(name=st.sampled_from(["touch_start", "touch_move", "touch_end", "touch_cancel"]),
          points=st.lists(COORDINATES, max_size=2))  # fmt: skip
    def touch(self, name, points):
        self.driver.fire("touch", name, *points)

    @rule(tool=st.sampled_from(list(TOOLS)))
    def use(self, tool):
        self.driver.fire("set_tool", tool)

    @rule(key=st.sampled_from(["z", "y"]))
    def undo_or_redo(self, key):
        self.driver.fire("key", key, False, True)

    @rule(key=st.sampled_from(["Escape", "Enter", "Delete", "1", "x", "ArrowLeft"]))
    def key(self, key):
        self.driver.fire("key", key)

    @precondition(lambda self: len(self.driver.plain.pairs) < 50)
    @rule(noise=st.integers(0, 99))
    def set_mask(self, noise):
        self.driver.fire("set_mask", noise)

    @rule(read_only=st.booleans())
    def set_read_only(self, read_only):
        self.driver.fire("set_read_only", read_only)

    @rule()
    def load_page(self):
        self.driver.fire("load_page")

    @invariant()
    def nothing_went_wrong(self):
        assert self.driver.canvas.last_error == ""

    def teardown(self):
        self.driver.close()


CanvasMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=30, database=None)
TestCanvasMachine = CanvasMachine.TestCase
