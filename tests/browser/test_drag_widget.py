"""A whole edit by hand in a browser: draw, run, pause, adjust, go on, rewind, branch, render."""

from __future__ import annotations

import numpy as np
import pytest

from browser.canvases import ImageOnPage

pytestmark = pytest.mark.timeout(600)

SIZE = (128, 128)
CELLS = [
    """
from dataclasses import replace
import torch
from PIL import Image
from dragwidget import DragWidget
from dragwidget.demo.scenes import render, sample_scenes
torch.set_num_threads(1)  # one core for the drag, one for the browser
pixels = (render(sample_scenes([7]), 128)[0].permute(1, 2, 0) * 255).byte().numpy()
Image.fromarray(pixels).save("image.png")
widget = DragWidget("image.png", prompt="a critter")
drag = replace(widget.settings.drag, start="inverted", steps=300, stop_distance=0.01)
widget.settings = replace(widget.settings, drag=drag)
canvas = widget.canvas""",
    "widget",
]
STROKE = [(30.0, 60.0), (60.0, 50.0), (90.0, 60.0), (70.0, 80.0), (40.0, 80.0)]
PAIRS = [((50.0, 60.0), (75.0, 55.0)), ((62.0, 75.0), (90.0, 75.0))]
# Milliseconds from a click to its effect on the page.
TIMED = """async ([clicked, predicate]) => {
    const holds = new Function('return ' + predicate);
    const start = performance.now();
    document.querySelector(clicked).click();
    while (!holds()) {
        if (performance.now() - start > 30000) throw new Error('no effect: ' + predicate);
        await new Promise(requestAnimationFrame);
    }
    return performance.now() - start;
}"""


def opened(page):
    page.open(CELLS).run_all()
    canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, SIZE)
    page.until(lambda: canvas.shows((5, 120))[3] == 255, "the image shows")
    return canvas


def draw(page, canvas):
    """A mask by the brush, and two pairs."""
    page.click("dragwidget-tool-brush")
    page.kernel.wait_for("canvas.tool == 'brush'")
    canvas.drag(STROKE)
    page.kernel.wait_for("canvas.mask is not None")
    page.click("dragwidget-tool-points")
    page.kernel.wait_for("canvas.tool == 'points'")
    for count, pair in enumerate(PAIRS, start=1):
        canvas.drag(list(pair))
        page.kernel.wait_for(f"len(canvas.pairs) == {count}")


def timed(page, css_class, predicate):
    """Click, and how long until the page shows that it was heard, in milliseconds."""
    return page.page.evaluate(TIMED, [f".{css_class}", predicate])


def is_disabled(css_class):
    return f"document.querySelector('.{css_class}').disabled"


def is_chosen(tool):
    return f"document.querySelector('.dragwidget-tool-{tool}').classList.contains('mod-active')"


def idle(page):
    page.kernel.wait_for("widget.state == 'idle'", 300)


def assert_repeated_without_a_page(page):
    """``result`` is what a session alone makes of the same edit, to the bit."""
    page.kernel.run("alone = {}; exec(widget.code(), alone)")
    assert page.kernel.get("widget.error") == ""
    result = page.kernel.array("widget.result")
    np.testing.assert_array_equal(result, page.kernel.array("alone['result']"))
    source, mask = page.kernel.array("widget.image"), page.kernel.array("canvas.mask")
    changed = np.abs(result.astype(int) - source).sum(-1)
    assert changed[mask].mean() > 2
    assert changed[mask].mean() > 2 * changed[~mask].mean()


def test_a_whole_edit_by_hand(lab):
    page, canvas = lab, opened(lab)
    empty = page.kernel.get("[len(canvas.pairs), canvas.mask is None]")
    page.screenshot("widget/empty", "dragwidget")
    draw(page, canvas)
    page.screenshot("widget/drawn", "dragwidget")
    before = canvas.pixels()

    page.click("dragwidget-run")
    page.kernel.wait_for("widget.index >= 3", 300)
    page.until(lambda: not np.array_equal(canvas.pixels(), before), "handles move on the canvas")
    page.screenshot("widget/running", "dragwidget")
    # The kernel takes the other tool's mark away.
    tool = timed(page, "dragwidget-tool-lasso", f"!{is_chosen('points')}")
    chosen = timed(page, "dragwidget-tool-points", f"!{is_chosen('lasso')}")
    paused = timed(page, "dragwidget-pause", is_disabled("dragwidget-pause"))
    print(f"while it drags, ms: tools {tool:.0f} and {chosen:.0f}, Pause {paused:.0f}")
    page.kernel.wait_for("widget.state == 'paused' and widget._editing.runner._driver is None")
    at = page.kernel.get("widget.index")
    page.screenshot("widget/paused", "dragwidget")

    canvas.drag([PAIRS[0][1], (80.0, 70.0)])
    page.kernel.wait_for("abs(canvas.pairs[0].target[1] - 70) < 2")
    page.click("dragwidget-step")
    page.kernel.wait_for(f"widget.index == {at + 1}")
    moved = page.kernel.get("widget.session.history.current.pairs[0].target")
    assert abs(moved[0] - 80) < 2

    page.click("dragwidget-run")
    page.kernel.wait_for(f"widget.index >= {at + 3}", 300)
    page.page.evaluate("() => { window.stopped = performance.now(); }")
    page.click("dragwidget-stop")
    idle(page)
    took = page.page.evaluate("() => performance.now() - window.stopped")
    print(f"Stop: {took:.0f} ms")

    page.kernel.run("widget.rewind(2)")
    page.kernel.wait_for("widget.index == 2 and widget.state == 'idle'")
    page.click("dragwidget-step")
    page.kernel.wait_for("len(widget.session.history.tips) == 2 and widget.state == 'idle'")
    page.click("dragwidget-render")
    page.kernel.wait_for("widget.result is not None and widget.state == 'idle'", 300)
    page.screenshot("widget/rendered", "dragwidget")
    assert_repeated_without_a_page(page)

    while page.kernel.get("canvas.can_undo"):
        page.click("dragwidget-undo")
        page.page.wait_for_timeout(100)
    assert page.kernel.get("[len(canvas.pairs), canvas.mask is None]") == empty
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]


@pytest.mark.parametrize("app", ["notebook", "voila"])
def test_draw_run_and_render_in(new_page, app):
    page = new_page(app)
    canvas = opened(page)
    draw(page, canvas)
    page.click("dragwidget-step")
    page.kernel.wait_for("widget.index == 1 and widget.state == 'idle'", 300)
    page.click("dragwidget-render")
    page.kernel.wait_for("widget.result is not None and widget.state == 'idle'", 300)
    page.screenshot(f"widget/{app}", "dragwidget")
    assert_repeated_without_a_page(page)


def test_a_page_loaded_again_during_a_run_shows_how_it_stands(lab):
    page, canvas = lab, opened(lab)
    draw(page, canvas)
    page.click("dragwidget-run")
    page.kernel.wait_for("widget.index >= 1", 300)
    page.reload()
    canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, SIZE)
    page.until(lambda: canvas.shows((64, 64))[3] == 255, "the image shows")
    page.wait_for(f"() => {is_disabled('dragwidget-run')} && !{is_disabled('dragwidget-stop')}")
    page.click("dragwidget-stop")
    idle(page)
    page.wait_for(f"() => !{is_disabled('dragwidget-run')}")
    assert page.kernel.get("widget.index") >= 1
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]


def test_a_second_view_shows_the_same(lab):
    page = lab
    page.open([*CELLS, "widget"]).run_all()
    places = [page.canvas(nth, "dragwidget-canvas") for nth in (0, 1)]
    first, second = (ImageOnPage(place.element, SIZE) for place in places)
    page.until(lambda: second.shows((5, 120))[3] == 255, "the second view has the image")
    draw(page, first)
    page.until(lambda: np.array_equal(first.pixels(), second.pixels()), "it shows what is drawn")
    page.click("dragwidget-run")
    page.kernel.wait_for("widget.index >= 2", 300)
    page.wait_for(f"() => {in_both_views('run')} && !{in_both_views('stop')}")
    page.page.locator(".dragwidget-stop").nth(1).click()
    idle(page)
    page.wait_for(f"() => !{in_both_views('run')} && {in_both_views('stop')}")
    page.until(lambda: np.array_equal(first.pixels(), second.pixels()), "both show the drag")
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]


def in_both_views(button):
    """Whether this button is disabled in both."""
    disabled = f"[...document.querySelectorAll('.dragwidget-{button}')].map(b => b.disabled)"
    return f"({disabled}.join() === 'true,true')"


def test_a_step_that_fails_is_told_and_what_was_dragged_is_kept(lab):
    page, canvas = lab, opened(lab)
    draw(page, canvas)
    page.click("dragwidget-step")
    page.kernel.wait_for("widget.index == 1 and widget.state == 'idle'", 300)
    page.kernel.run(
        "def refuse(*_):\n"
        "    raise RuntimeError('out of memory, as a full GPU says it')\n"
        "hook = widget.session.model.unet.register_forward_pre_hook(refuse)"
    )
    page.click("dragwidget-run")
    page.kernel.wait_for("widget.error and widget.state == 'idle'", 300)
    shown = page.page.locator(".dragwidget-error-text")
    shown.first.wait_for(state="visible")
    page.screenshot("widget/error", "dragwidget")
    page.kernel.run("hook.remove()")
    at = page.kernel.get("widget.index")
    page.click("dragwidget-step")
    page.kernel.wait_for(f"widget.index == {at + 1} and widget.state == 'idle'", 300)
    shown.first.wait_for(state="detached")


def test_the_page_says_how_far_the_preparation_is(lab):
    page, canvas = lab, opened(lab)
    draw(page, canvas)
    page.kernel.run(
        "lora = replace(widget.settings.lora, steps=400)\n"
        "widget.settings = replace(widget.settings, lora=lora)"
    )
    page.page.get_by_text("Preparation", exact=True).click()
    page.click("dragwidget-prepare")
    status = page.control("dragwidget-status")
    page.until(lambda: " of 400" in status.inner_text(), "the status counts the LoRA's steps", 300)
    page.screenshot("widget/preparing", "dragwidget")
    page.click("dragwidget-stop")
    idle(page)
    assert page.kernel.get("[widget.error, canvas.last_error]") == ["", ""]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide", {}),
        ("narrow", {"viewport": {"width": 700, "height": 1200}}),
        ("dark", {"color_scheme": "dark"}),
    ],
)
def test_nothing_is_wider_than_the_page_when(new_page, name, options):
    page = new_page("lab", **options)
    canvas = opened(page)
    draw(page, canvas)
    overflow = page.page.evaluate(
        "() => { const box = document.querySelector('.dragwidget');"
        " return box.scrollWidth - box.clientWidth; }"
    )
    assert overflow <= 0
    page.kernel.run("widget._failed(ValueError('an error, as it looks'))")
    page.page.wait_for_timeout(500)
    page.screenshot(f"widget/{name}", "dragwidget")
