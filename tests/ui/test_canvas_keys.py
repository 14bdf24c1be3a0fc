"""View, keys, touch, and errors of a ``DragCanvas``, through the messages that a browser sends."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from front_end import Page, send

from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.keys import key_help, known_keys

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


def tips(canvas):
    """All tooltips of the toolbar, as one text."""
    controls = [control for control, _, _ in canvas._toolbar._tips]
    # Some have the other one in ipywidgets 7.
    names = ["tooltip" if c.has_trait("tooltip") else "description_tooltip" for c in controls]
    found = [getattr(c, name, None) for c, name in zip(controls, names, strict=True)]
    return "\n".join(filter(None, found))


def test_keys_are_off_and_unnamed_where_a_notebook_acts_on_them_too(canvas, bare):
    canvas.tool = "lasso"
    assert not canvas.has_keys
    assert "(" not in tips(canvas)
    assert "Enter" not in canvas._caption.value
    assert canvas._script.known_keys == []
    bare.key("b")
    assert canvas.tool == "lasso"


def test_keys_are_on_and_named_once_the_script_keeps_them_from_the_notebook(canvas, bare):
    Page(canvas)
    assert canvas.has_keys
    for key in ("(p)", "(b)", "(e)", "(l)", "(r)", "(h)", "(Ctrl+Z)", "([ and ])", "(m)", "(0)"):
        assert key in tips(canvas)
    assert set(canvas._script.known_keys) == set(known_keys())
    bare.key("b")  # a page that is open beside it
    assert canvas.tool == "brush"


def test_the_list_of_keys_names_every_key_that_acts():
    listed = " ".join(keys for keys, _ in key_help())
    spelt = {" ": "Space", "Escape": "Esc", "Backspace": "Delete", "=": "+", "Mod+z": "Ctrl+Z"}
    spelt |= {"Mod+y": "Ctrl+Z", **{f"Arrow{way}": "Arrows" for way in ("Left", "Right")}}
    spelt |= {"ArrowUp": "Arrows", "ArrowDown": "Arrows", **dict.fromkeys("2345678", "1 to 9")}
    assert {key for key in known_keys() if spelt.get(key, key) not in listed} == set()


def test_keys_are_listed_on_the_page_where_they_act(canvas, monkeypatch):
    assert canvas._toolbar.keys.disabled
    assert canvas._script.key_help == []
    Page(canvas)
    assert not canvas._toolbar.keys.disabled
    assert [tuple(row) for row in canvas._script.key_help] == key_help()
    sent = []
    monkeypatch.setattr(canvas._script, "send", sent.append)
    canvas._toolbar.keys.click()
    assert sent == [{"show": "keys"}]


@pytest.mark.parametrize("on", [True, False])
def test_whoever_says_so_has_keys_or_has_none(canvas, bare, on):
    canvas.keyboard = on
    for _ in range(2):  # before and after there is a script
        assert canvas.has_keys == on
        assert ("(b)" in tips(canvas)) == on
        assert bool(canvas._script.known_keys) == on
        canvas.tool = "points"
        bare.key("b")
        assert canvas.tool == ("brush" if on else "points")
        Page(canvas)


@pytest.mark.slow
def test_the_script_asks_for_every_key_that_does_something_and_for_no_other(canvas, page):
    typed = [chr(code) for code in range(32, 127)]
    typed += ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Delete", "Backspace", "Enter"]
    typed += ["Escape", "Tab", "Home", "PageDown", "F5"]
    heard, found = [], set()
    canvas.on_key(heard.append)
    for command in (False, True):
        for key in typed:
            something_for_every_key(canvas, page)
            heard.clear()
            before = state(canvas)
            page.key(key, ctrl=command)
            if heard or state(canvas) != before:
                found.add(f"Mod+{key.lower()}" if command else key)
    assert found | {"l", "?"} == set(known_keys())  # the page itself acts on the last


@pytest.mark.parametrize("event", ["key", "probe"])
def test_what_others_do_at_an_event_may_wait_for_threads_that_draw(canvas, page, event):
    """A run that a key starts waits for the worker, which shows on the canvas where it is."""
    is_free = []

    def takes_the_lock():
        if canvas._lock.acquire(blocking=False):
            canvas._lock.release()
            return True
        return False

    def draws(*_):
        with ThreadPoolExecutor(1) as pool:
            is_free.append(pool.submit(takes_the_lock).result())

    canvas.on_key(draws)
    canvas.on_probe(draws)
    if event == "key":
        page.key("s")
    else:
        canvas.tool = "probe"
        page.click((20, 20))
    assert is_free == [True]
    assert canvas.last_error == ""


def something_for_every_key(canvas, page):
    canvas.image = np.zeros((96, 128, 3), np.uint8)
    canvas.pairs = [((9 * k, 20), (9 * k, 30)) for k in range(1, 10)]
    canvas.add_pair((1, 1), (5, 5))
    canvas.undo()
    canvas.select(3, "handle")
    canvas.zoom = 2
    canvas.tool = "lasso"  # so its own key changes nothing
    for xy in [(60, 60), (90, 60), (90, 80)]:
        page.click(xy)


def state(canvas):
    """All that a key may change."""
    return (
        canvas.pairs, canvas.mask_version, canvas.selected, canvas.selected_end, canvas.tool,
        canvas.brush_size, canvas.zoom, canvas.mask_style, str(canvas.pointer.unfinished),
    )  # fmt: skip


def test_every_key_does_what_it_says(canvas, page):
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
        "pwbelrh",
        ("points", "select", "brush", "eraser", "lasso", "rectangle", "pan"),
        strict=True,
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


@pytest.mark.parametrize(
    "content",
    [
        {"event": "press", "x": None, "y": 3.0, "touch": False},
        {"event": "press", "x": 3.0},
        {"event": "ink"},
        {"event": "zoom", "x": 3.0, "y": 3.0, "dy": "far"},
        {},
        "press",
    ],
)
def test_a_message_of_the_script_that_makes_no_sense_is_told_too(canvas, page, caplog, content):
    data = {"method": "custom", "content": content}
    canvas._script._handle_msg({"content": {"data": data}, "buffers": []})
    assert "Error" in canvas.last_error
    assert canvas.last_error.replace("'", "&#x27;") in canvas._caption.value
    assert caplog.text
    page.drag((90, 30), (100, 50))
    assert len(canvas.pairs) == 1
    assert canvas.last_error == ""


def test_the_wheel_zooms_about_the_pointer(canvas, page):
    at = canvas.viewport.to_canvas((30, 40))
    page.tell(event="zoom", x=at[0], y=at[1], dy=-200.0)
    assert canvas.zoom > 1.3
    assert canvas.viewport.to_canvas((30, 40)) == pytest.approx(at, abs=1)


def test_a_screen_reader_hears_what_is_drawn(canvas):
    assert "no pair" in canvas._script.label
    canvas.add_pair((20, 30), (60, 50))
    assert "1 pair" in canvas._script.label


# ---------------------------------------------------------------- what to do next


def hint(canvas):
    return canvas._caption.value


def test_a_lasso_that_is_clicked_says_how_to_close_it_at_every_corner(canvas, page):
    canvas.tool = "lasso"
    assert "or click its corners, the first one again to close." in hint(canvas)
    page.click((20, 20))
    page.click((80, 20))
    assert "Click the next corner; Esc cancels." in hint(canvas)
    page.key("Enter")  # too early: nothing is lost
    page.click((80, 70))
    assert "the first one again or Enter closes; Esc cancels." in hint(canvas)
    page.key("Enter")
    assert canvas.mask.any()
    assert "Draw around the editable region" in hint(canvas)


def test_escape_gives_up_a_lasso_and_a_handle_without_a_target(canvas, page):
    canvas.tool = "lasso"
    for xy in [(20, 20), (80, 20), (80, 70)]:
        page.click(xy)
    page.key("Escape")
    page.key("Enter")
    assert canvas.mask is None
    canvas.tool = "points"
    page.click((20, 20))
    assert "Click the target; Esc cancels." in hint(canvas)
    page.key("Escape")
    assert "Press a handle point" in hint(canvas)
    page.drag((50, 50), (60, 60))
    assert canvas.pairs == (PointPair((50, 50), (60, 60)),)


def test_no_hint_offers_what_a_page_without_the_script_does_not_do(canvas, bare):
    canvas.tool = "lasso"
    assert "Draw around the editable region.<" in hint(canvas)
    bare.touch("touch_start", (20, 20))
    bare.touch("touch_end")
    assert "Click the next corner; Undo reverts it." in hint(canvas)


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
