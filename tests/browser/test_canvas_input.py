"""What the canvas' own script does on a page: keys, focus, buttons, fingers, the wheel, sizes."""

from __future__ import annotations

import pytest

from browser.canvases import ImageOnPage
from browser.test_drag_canvas import SIZE, opened, shown

pytestmark = pytest.mark.timeout(900)

TOOLS = ("points", "brush", "eraser", "lasso", "rectangle", "pan")
CELLS = [
    "import numpy as np\nfrom dragwidget.ui.canvas import DragCanvas",
    f"canvas = DragCanvas(np.full(({SIZE[1]}, {SIZE[0]}, 3), 200, dtype='uint8'))",
    "canvas",
    "'below'",
]
# What a notebook holds: every cell's kind and text.
NOTEBOOK = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .map(cell => [cell.model.type, cell.model.sharedModel.getSource()])"""
FOCUS = """() => { const at = document.activeElement;
    return at.tagName === 'CANVAS' ? 'canvas' : at.className + ' ' + at.innerText; }"""
CHOSEN = """tool => [...document.querySelectorAll('[class*=dragwidget-tool-].mod-active')]
    .every(button => button.classList.contains(`dragwidget-tool-${tool}`))"""
STATE = """[canvas.tool, canvas.mask is None, len(canvas.pairs), len(canvas.pointer.unfinished),
    canvas._controller.gesture is None, canvas.last_error]"""
EMPTY = [True, 0, 0, True, ""]


@pytest.fixture(params=["lab", "notebook"])
def page(new_page, request):
    return new_page(request.param)


def ready(page, cells=CELLS):
    """The canvas on the page, once its image shows and the script is at work."""
    canvas = opened(page, cells)
    page.kernel.wait_for("canvas.has_keys")
    return canvas


def state(page):
    """The tool, and whether anything was drawn: once the kernel has all that was sent."""
    page.page.wait_for_timeout(300)
    return page.kernel.get(STATE)


def use(page, tool):
    # A key has changed the tool, perhaps: a click on a button that still looks chosen unchooses it.
    now = page.kernel.get("canvas.tool")
    page.wait_for(CHOSEN, now)
    if now != tool:
        page.click(f"dragwidget-tool-{tool}")
        page.kernel.wait_for(f"canvas.tool == '{tool}'")


def test_no_key_reaches_the_notebook_and_each_does_what_its_tooltip_says(page):
    ready(page)
    before = page.page.evaluate(NOTEBOOK)
    keys = page.page.keyboard
    for tool in TOOLS:
        use(page, "pan" if tool == "points" else "points")  # so that there is something to click
        use(page, tool)
        page.until(lambda: page.page.evaluate(FOCUS) == "canvas", "the canvas has the focus")
        style = page.kernel.get("canvas.mask_style")
        for key in ("d", "d", "a", "y", "c", "v", "Shift+M", "Control+Enter", "Shift+Enter", "j"):
            keys.press(key)
        keys.press("m")
        page.kernel.wait_for(f"canvas.mask_style != '{style}'")
        keys.press("x")
        page.kernel.wait_for(f"canvas.tool == '{'brush' if tool == 'eraser' else 'eraser'}'")
        keys.press("b")
        page.kernel.wait_for("canvas.tool == 'brush'")
        assert page.page.evaluate(NOTEBOOK) == before
    button = page.control("dragwidget-tool-lasso")
    assert button.get_attribute("title").endswith("(l)")
    # Whoever comes to a button by keyboard stays there; keys do not reach the notebook either.
    button.focus()
    keys.press("Enter")
    page.kernel.wait_for("canvas.tool == 'lasso'")
    for key in ("x", "d", "d", "b", "m", "a"):
        keys.press(key)
    assert state(page) == ["lasso", *EMPTY]
    assert page.page.evaluate(NOTEBOOK) == before
    assert "tool-lasso" in page.page.evaluate(FOCUS)


LISTED = """() => { const box = document.querySelector('.dragwidget-keys');
    return box.style.display === 'none' ? '' : box.innerText; }"""


def test_a_question_mark_lists_the_keys_over_the_image_until_they_are_not_needed(page):
    canvas = ready(page)
    canvas.click((64.0, 10.0))
    keys = page.page.keyboard
    drawn = page.kernel.get("len(canvas.pairs)")
    for close in ("?", "Escape", "mouse"):
        keys.press("?")
        page.until(lambda: "Tool: Brush" in page.page.evaluate(LISTED), "the list shows")
        if close == "mouse":
            page.page.locator(".dragwidget-keys").click()
        else:
            keys.press(close)
        page.until(lambda: page.page.evaluate(LISTED) == "", f"{close} closes the list")
    assert page.kernel.get("[len(canvas.pairs), canvas.last_error]") == [drawn, ""]
    page.kernel.run("canvas.show_keys()")
    page.until(lambda: "Undo" in page.page.evaluate(LISTED), "the button shows it, too")
    page.screenshot("canvas/keys")
    page.kernel.run("canvas.show_keys()")
    page.until(lambda: page.page.evaluate(LISTED) == "", "and hides it")


def test_the_keyboard_goes_on_past_the_canvas_and_the_apps_own_shortcuts_act(page):
    below = "ipywidgets.VBox([canvas, ipywidgets.Button(description='Run')])"
    canvas = ready(page, [*CELLS[:2], "import ipywidgets", below])
    keys = page.page.keyboard
    use(page, "brush")
    keys.press("Tab")
    page.until(lambda: page.page.evaluate(FOCUS).endswith("Run"), "Run has the focus", 10)
    keys.press("Shift+Tab")
    page.until(lambda: page.page.evaluate(FOCUS) == "canvas", "back on the canvas", 10)
    keys.press("Shift+Tab")
    page.until(lambda: "button" in page.page.evaluate(FOCUS), "on a button over it", 10)
    assert canvas.element.get_attribute("role") == "application"
    assert "no pair" in canvas.element.get_attribute("aria-label")
    canvas.element.focus()
    page.page.evaluate("""() => { window.saved = 0;
        window.jupyterapp.shell.currentWidget.context.saveState
            .connect((_, how) => { window.saved += how === 'completed'; }); }""")
    keys.press("Control+s")
    page.wait_for("() => window.saved > 0")


def test_only_the_left_button_and_what_is_not_taken_away_draw(page):
    canvas = ready(page)
    mouse = page.page.mouse
    for tool in ("points", "brush", "lasso"):
        use(page, tool)
        for button in ("right", "middle"):
            canvas.hover((60.0, 60.0))
            mouse.down(button=button)
            mouse.up(button=button)
            canvas.hover((90.0, 60.0))
            mouse.down(button=button)
            canvas.hover((90.0, 90.0))
            mouse.up(button=button)
            page.page.keyboard.press("Escape")  # the menu, if any
        assert state(page) == [tool, *EMPTY]
    use(page, "brush")
    left, top, width, _ = canvas.box
    canvas.press((60.0, 60.0))
    mouse.move(left + width + 50, top + 5)  # outside, and let go there
    mouse.up()
    canvas.hover((60.0, 90.0))
    canvas.hover((90.0, 90.0))
    page.kernel.wait_for("canvas.mask is not None")
    assert not page.kernel.get("bool(canvas.mask[85:, :].any())")
    canvas.click((30.0, 100.0))  # a dab
    page.kernel.wait_for("bool(canvas.mask[100, 30])")
    assert page.kernel.get("canvas.last_error") == ""


def test_a_finger_draws_two_do_not_and_a_cancelled_one_does_not(new_page):
    page = new_page("lab", has_touch=True)
    canvas = ready(page)
    touch = page.page.context.new_cdp_session(page.page)

    def fingers(kind, *points):
        at = [dict(zip("xy", canvas.on_page(point), strict=True)) for point in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    for tool in ("points", "brush"):
        use(page, tool)
        fingers("touchStart", (30.0, 30.0))
        fingers("touchMove", (60.0, 60.0))
        fingers("touchCancel")
        assert state(page) == [tool, *EMPTY]
        fingers("touchStart", (30.0, 30.0))
        fingers("touchStart", (30.0, 30.0), (90.0, 90.0))
        fingers("touchMove", (20.0, 20.0), (110.0, 110.0))
        fingers("touchEnd")
        assert state(page) == [tool, *EMPTY]
    fingers("touchStart", (30.0, 30.0))
    fingers("touchMove", (60.0, 60.0))
    fingers("touchEnd")
    page.kernel.wait_for("canvas.mask is not None and bool(canvas.mask[45, 45])")


def test_the_wheel_scrolls_the_page_and_zooms_with_ctrl(page):
    canvas = ready(page, [*CELLS, *["print('\\n' * 60)"] * 3])
    top = canvas.box[1]
    canvas.hover((60.0, 60.0))
    page.page.mouse.wheel(0, 120)
    page.until(lambda: canvas.box[1] < top - 50, "the page is scrolled")
    assert page.kernel.get("canvas.zoom") == 1
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -120)
    page.page.keyboard.up("Control")
    page.kernel.wait_for("canvas.zoom > 1")


def test_a_canvas_with_a_border_and_scaled_by_the_page_is_drawn_on_where_it_is_seen(new_page):
    page = new_page("lab")
    canvas = ready(page)
    canvas.element.evaluate("""canvas => { Object.assign(canvas.style,
        {border: '7px solid red', padding: '11px', width: '300px', transform: 'scale(1.2)'}); }""")
    use(page, "points")
    left, top, width, height = canvas.element.evaluate("""canvas => {
        const box = canvas.getBoundingClientRect(), edge = 18 * 1.2;
        return [box.left + edge, box.top + edge, box.width - 2 * edge, box.height - 2 * edge]; }""")
    ends = []
    for share in (0.4, 0.6):
        x, y = round(left + share * width), round(top + share * height)
        at = (x - left) * canvas.size[0] / width, (y - top) * canvas.size[1] / height
        ends += [(value - canvas.PADDING) / canvas.scale for value in at]
        page.page.mouse.move(x, y)
        page.page.mouse.down()
    page.page.mouse.up()
    page.kernel.wait_for("len(canvas.pairs) == 1")
    drawn = page.kernel.get("[*canvas.pairs[0].handle, *canvas.pairs[0].target]")
    assert drawn == pytest.approx(ends, abs=0.3)


@pytest.mark.parametrize("window", [(1280, 900), (1000, 640)])
def test_a_tall_image_fits_the_windows_height_and_a_wide_one_its_width(new_page, window):
    page = new_page("lab", viewport=dict(zip(("width", "height"), window, strict=True)))
    sizes = [(300, 2000), (2000, 300)]
    cells = [f"DragCanvas(np.zeros(({h}, {w}, 3), 'uint8'), width=700)" for w, h in sizes]
    page.open([CELLS[0], *cells]).run_all()
    tall, wide = (page.canvas(nth, "dragwidget-canvas").box for nth in (0, 1))
    assert 0.6 * window[1] < tall[3] < 0.85 * window[1]
    assert 500 < wide[2] < window[0]
    for (_, _, width, height), canvas in zip((tall, wide), (0, 1), strict=True):
        columns, rows = page.canvas(canvas, "dragwidget-canvas").size
        assert width / height == pytest.approx(columns / rows, rel=0.01)


def test_without_anywidget_the_canvas_goes_on_with_ipycanvas_alone(new_page):
    page = new_page("lab")
    without = "import sys\nsys.modules['anywidget'] = None"
    page.open([without, *CELLS]).run_all()
    canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, SIZE)
    shown(page)
    assert page.kernel.get("canvas._script is None and not canvas.has_keys")
    assert "(" not in page.control("dragwidget-tool-brush").get_attribute("title")
    use(page, "brush")
    canvas.element.click(button="right")
    page.page.keyboard.press("Escape")
    assert state(page) == ["brush", *EMPTY]
    canvas.drag([(30.0, 40.0), (60.0, 60.0)])
    page.kernel.wait_for("canvas.mask is not None and canvas.last_error == ''")
