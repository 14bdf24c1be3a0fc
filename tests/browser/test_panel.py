"""The panel in a browser: what is in view, that nothing moves, hold to compare, open an image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from browser.canvases import ImageOnPage

pytestmark = pytest.mark.timeout(600)

SIZE = (128, 128)
CELLS = [
    """
from dataclasses import replace
import torch
from dragwidget import DragWidget
from dragwidget.demo.scenes import sample_images
torch.set_num_threads(1)  # one core for the drag, one for the browser
image, prompt = sample_images()[0]
widget = DragWidget(image, prompt=prompt, journal=False, store=None)
drag = replace(widget.settings.drag, start="inverted", steps=6, stop_distance=0.01)
widget.settings = replace(widget.settings, drag=drag)
canvas = widget.canvas""",
    "widget",
]
PAIR = [(50.0, 60.0), (75.0, 55.0)]
SCHEMES = ["light", "dark"]
WINDOWS = [(480, 1000), (700, 1000), (1100, 900), (1600, 900)]
# What a user can press or type in, and sees without scrolling inside the widget.
CONTROLS = """() => [...document.querySelector('.dragwidget').querySelectorAll(
    'button, input, select, textarea, .ui-slider, .noUi-target, .jp-Collapse-header')]
    .filter(e => e.checkVisibility({ visibilityProperty: true }) && e.offsetWidth > 0)
    .map(e => e.textContent.trim() || e.type || e.className)"""
# Where everything is that may not move: the corner and the size of each part, whole pixels.
PLACES = """() => {
    const widget = document.querySelector('.dragwidget');
    const home = widget.getBoundingClientRect();
    const parts = widget.querySelectorAll(
        '.dragwidget-hint, .dragwidget-actions, .dragwidget-run, .dragwidget-render, '
        + '.dragwidget-canvas, .dragwidget-caption, .dragwidget-history, .dragwidget-essentials, '
        + '.dragwidget-status, .widget-hprogress, .dragwidget-undo, .jp-Collapse-header');
    return [[home.width, home.height], ...[...parts].map(part => {
        const box = part.getBoundingClientRect();
        const rest = part.matches('.dragwidget-hint, .dragwidget-status') ? [] : [box.height];
        return [part.className.slice(0, 60), box.left - home.left, box.top - home.top, ...rest]
            .map(v => typeof v === 'number' ? Math.round(v) : v);
    })];
}"""


# Buttons, labels, lists and captions whose text does not fit them.
CLIPPED = """() => [...document.querySelector('.dragwidget').querySelectorAll(
    'button, .widget-label, .jp-Collapse-header, select, .dragwidget-caption div, '
    + '.dragwidget-hint span, .dragwidget-status')]
    .filter(e => e.checkVisibility({ visibilityProperty: true }) && e.offsetWidth > 0)
    .filter(e => !e.matches('.dragwidget-open'))  // ipywidgets adds a count, which is cut to "..."
    .filter(e => {
        if (e.tagName !== 'SELECT') {
            return getComputedStyle(e).display !== 'inline'
                && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 4);
        }
        const pen = document.createElement('canvas').getContext('2d');
        pen.font = getComputedStyle(e).font;
        const text = e.selectedOptions[0]?.textContent ?? '';
        return pen.measureText(text).width > e.clientWidth - 20;  // its arrow
    })
    .map(e => e.tagName === 'SELECT' ? e.value : e.textContent.trim())"""
SECTIONS = ["Settings", "Points", "Compare", "Features", "Export", "Preparation", "Model", "Image"]


def opened(page, cells=CELLS):
    page.open(cells)
    if page.app == "lab":
        page.page.evaluate(
            "() => window.jupyterapp.commands.execute('application:toggle-left-area')"
        )
    page.run_all()
    canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, SIZE)
    page.until(lambda: canvas.shows((5, 120))[3] == 255, "the image shows")
    return canvas


def into_view(page):
    page.page.evaluate("() => document.querySelector('.dragwidget').scrollIntoView()")
    page.page.wait_for_timeout(300)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: str(window[0]))
def test_run_is_in_view_with_the_image_and_nothing_moves_while_it_runs(new_page, window, scheme):
    page = new_page("lab", viewport={"width": window[0], "height": window[1]}, color_scheme=scheme)
    canvas = opened(page)
    into_view(page)
    name = f"panel/{window[0]}-{scheme}"
    controls = page.page.evaluate(CONTROLS)
    print(f"{window[0]} px: {len(controls)} controls before the first stroke: {controls}")
    page.screenshot(f"{name}-empty")
    canvas.drag(PAIR)
    page.kernel.wait_for("len(canvas.pairs) == 1")
    page.until(lambda: "may drift" in page.control("dragwidget-hint").inner_text(), "the hint")
    page.screenshot(f"{name}-drawn")
    assert page.page.evaluate(CLIPPED) == []
    overflow = page.page.evaluate(
        "() => { const box = document.querySelector('.dragwidget');"
        " return box.scrollWidth - box.clientWidth; }"
    )
    assert overflow <= 0
    box = page.page.evaluate(
        "() => ['run', 'pause', 'step', 'undo', 'render', 'canvas'].map(name => {"
        " const box = document.querySelector('.dragwidget-' + name).getBoundingClientRect();"
        " return [box.left, box.top, box.right, box.bottom]; })"
    )
    for left, top, right, bottom in box:
        assert 0 <= left < right <= window[0]
        assert 0 <= top < bottom <= window[1]

    page.click("dragwidget-select-part")
    page.kernel.wait_for("canvas.mask is not None")
    into_view(page)
    before = page.page.evaluate(PLACES)
    page.click("dragwidget-run")
    page.kernel.wait_for("widget.index >= 2", 300)
    page.screenshot(f"{name}-running")
    during = page.page.evaluate(PLACES)
    page.kernel.wait_for("widget.state == 'idle' and widget.result is not None", 300)
    page.page.wait_for_timeout(500)
    after = page.page.evaluate(PLACES)
    page.screenshot(f"{name}-rendered")
    page.screenshot(f"{name}-whole", "dragwidget")
    assert during == before
    assert after == before
    page.kernel.run("widget._failed(ValueError('an error of several lines, as it looks: ' * 5))")
    page.control("dragwidget-error-text").wait_for(state="visible")
    assert page.page.evaluate(PLACES) == before
    page.kernel.run("widget._clear_error()")
    for title in SECTIONS:
        page.page.locator(".dragwidget").get_by_text(title, exact=True).last.click()
        page.page.wait_for_timeout(400)
        assert (title, page.page.evaluate(CLIPPED)) == (title, [])
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]


def test_in_forced_colours_buttons_have_borders_and_the_tool_in_use_stands_out(new_page):
    page = new_page("lab", forced_colors="active")
    opened(page)
    page.kernel.run("canvas.add_pair((50, 60), (75, 55)); widget._view.status._bar.value = 0.5")
    into_view(page)
    page.screenshot("panel/forced-colours")
    style = "(e, name) => getComputedStyle(e)[name]"
    for name in ("run", "pause", "tool-points", "tool-brush", "select-part"):
        button = page.control(f"dragwidget-{name}")
        assert button.evaluate(style, "borderTopWidth") == "1px", name
        assert button.evaluate(style, "borderTopStyle") == "solid", name
    points, brush = (page.control(f"dragwidget-tool-{name}") for name in ("points", "brush"))
    colours = [tool.evaluate(style, "backgroundColor") for tool in (points, brush)]
    assert colours[0] != colours[1]
    box = page.page.locator(".dragwidget .progress")
    bar = page.page.locator(".dragwidget .progress-bar")
    assert box.evaluate(style, "borderTopWidth") == "1px"
    assert bar.evaluate(style, "backgroundColor") == colours[0]


def test_the_source_shows_as_long_as_the_button_is_held(lab):
    page, canvas = lab, opened(lab)
    canvas.drag(PAIR)
    page.kernel.wait_for("len(canvas.pairs) == 1")
    page.kernel.run(
        "import numpy as np\n"
        "canvas.fill_mask(); canvas.invert_mask()\n"
        "canvas.show_image(np.full((128, 128, 3), (250, 0, 250), np.uint8))"
    )
    source = page.kernel.array("widget.image").astype(int)
    place = (100, 100)

    def is_edited():
        red, green, *_ = canvas.shows(place)
        return red > green + 60  # darkened by the mask; the source is as green as it is red

    page.until(is_edited, "the edited image shows")
    edited = canvas.shows(place)
    marked = canvas.shows((50, 60))

    def is_source(at):
        shown = np.array(canvas.shows(at)[:3], int)
        return np.abs(shown - source[at[1], at[0]]).max() < 24

    box = page.control("dragwidget-source").bounding_box()
    mouse = page.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mouse.down()
    page.until(lambda: is_source(place) and is_source((50, 60)), "the source shows, without marks")
    page.screenshot("panel/source-held", "dragwidget")
    mouse.move(5, 5)  # held, wherever the pointer goes
    page.page.wait_for_timeout(300)
    assert is_source(place)
    mouse.up()
    page.until(
        lambda: canvas.shows(place) == edited and canvas.shows((50, 60)) == marked, "all is back"
    )
    page.control("dragwidget-source").focus()
    page.page.keyboard.press("Enter")  # by keyboard it stays until it is pressed again
    page.kernel.wait_for("canvas.shows_source")
    page.page.keyboard.press("Enter")
    page.kernel.wait_for("not canvas.shows_source")
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]


def test_another_model_is_loaded_and_what_was_drawn_stays(lab):
    page, canvas = lab, opened(lab)
    canvas.drag(PAIR)
    page.kernel.wait_for("len(canvas.pairs) == 1")
    page.click("dragwidget-select-part")
    page.kernel.wait_for("canvas.mask is not None")
    marked = canvas.shows((50, 60))
    page.page.get_by_text("Model", exact=True).last.click()
    name = page.control("dragwidget-model-name").locator("input")
    name.fill("crittres")
    page.click("dragwidget-load")
    page.control("dragwidget-error-text").wait_for(state="visible")
    assert "'crittres'" in page.control("dragwidget-error-text").inner_text()
    assert "critters stays in use" in page.control("dragwidget-status").inner_text()
    page.screenshot("panel/model-wrong", "dragwidget")
    name.fill("critters-base")
    page.click("dragwidget-load")
    shown = page.control("dragwidget-model")
    page.until(lambda: shown.inner_text().startswith("Model critters-base"), "it is in use")
    page.until(
        lambda: "Loaded critters-base" in page.control("dragwidget-status").inner_text(), "said"
    )
    assert page.page.locator(".dragwidget-error-text").count() == 0
    page.screenshot("panel/model-loaded", "dragwidget")
    assert page.kernel.get("[len(canvas.pairs), canvas.mask is None]") == [1, False]
    assert canvas.shows((50, 60)) == marked
    assert page.kernel.get("widget.session.model.name") == "critters-base"
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]


BRING = """([type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], 'a.png', { type: 'image/png' }));
    const canvas = document.querySelector('.dragwidget-canvas canvas');
    canvas.focus();
    const more = { bubbles: true, cancelable: true };
    canvas.dispatchEvent(type === 'drop'
        ? new DragEvent('drop', { dataTransfer: data, ...more })
        : new ClipboardEvent('paste', { clipboardData: data, ...more }));
}"""


def test_without_an_image_a_sample_is_edited_and_a_file_is_opened(lab):
    page = lab
    made = "from dragwidget import DragWidget\nwidget = DragWidget(journal=False, store=None)"
    canvas = opened(page, [f"{made}\ncanvas = widget.canvas", "widget"])
    into_view(page)
    page.screenshot("panel/samples")
    page.page.locator(".dragwidget-sample button").nth(1).click()
    page.kernel.wait_for("canvas.image_number == 2")
    page.until(lambda: canvas.shows((5, 120))[3] == 255, "the sample shows")
    canvas.drag(PAIR)
    page.kernel.wait_for("len(canvas.pairs) == 1")
    file = io.BytesIO()
    Image.new("RGB", SIZE, (200, 30, 40)).save(file, "PNG")
    with page.page.expect_file_chooser() as chooser:
        page.click("dragwidget-open")
    chooser.value.set_files({"name": "red.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.until(lambda: canvas.shows((60, 60))[:3] == (200, 30, 40), "the file shows")
    assert page.kernel.get("[len(canvas.pairs), widget.prompt, widget.error]") == [0, "", ""]
    page.screenshot("panel/opened")
    for type_, colour in (("drop", (30, 200, 40)), ("paste", (40, 30, 200))):
        file = io.BytesIO()
        Image.new("RGB", SIZE, colour).save(file, "PNG")
        page.page.evaluate(BRING, [type_, list(file.getvalue())])
        page.until(lambda c=colour: canvas.shows((60, 60))[:3] == c, f"{type_} opens an image")
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]
