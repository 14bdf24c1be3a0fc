"""What the widget shows on a page: a warning, a pause in step, clicks on thumbnails, a restore."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(600)

CELLS = [
    """
from dataclasses import replace
import numpy as np, torch
from PIL import Image, ImageDraw
from dragwidget import DragWidget
torch.set_num_threads(1)  # one core for the drag, one for the browser
page = Image.new("RGB", (320, 240), "white")
draw = ImageDraw.Draw(page)
for y in range(8, 230, 12):
    draw.text((8, y), "def edit(image): return drag(image) # " * 2, fill="black")
draw.ellipse((90, 60, 190, 160), fill="#c04020")
page.save("page.png")
widget = DragWidget("page.png", prompt="a ball", journal="journal")
drag = replace(widget.settings.drag, start="inverted", steps=300, stop_distance=0.01)
widget.settings = replace(widget.settings, drag=drag)
widget.canvas.add_pair((140, 110), (200, 110))
widget.canvas.set_mask(np.ones((240, 320), bool))""",
    "widget",
]


def text(page, css_class):
    return page.page.locator(f".{css_class}").first.inner_text()


def test_the_states_of_a_drag_are_seen(lab):
    page = lab
    page.open(CELLS).run_all()
    page.until(lambda: page.page.locator(".dragwidget-warning").count() == 1, "the warning")
    assert "does not know images like this one" in text(page, "dragwidget-warning")
    assert "critters" in text(page, "dragwidget-model")
    page.page.wait_for_timeout(500)
    page.screenshot("states/warning", "dragwidget")

    page.click("dragwidget-run")
    page.kernel.wait_for("widget.index >= 3", 300)
    page.click("dragwidget-pause")
    page.kernel.wait_for("widget.state == 'paused' and widget._editing.runner._driver is None")
    at = page.kernel.get("widget.index")
    page.until(
        lambda: text(page, "dragwidget-status").startswith(f"Paused at step {at}."), "the pause"
    )
    frames = page.page.locator(".dragwidget-frame button")
    page.until(lambda: f"▸ {at}" in frames.all_inner_texts(), "the filmstrip is in step")
    page.screenshot("states/paused", "dragwidget")

    first = next(k for k, name in enumerate(frames.all_inner_texts()) if name.strip() == "1")
    frames.nth(first).click()
    page.kernel.wait_for("widget.index == 1 and widget.state == 'idle'")
    page.until(lambda: text(page, "dragwidget-status").startswith("At step 1."), "the rewind")
    page.screenshot("states/rewound", "dragwidget")
    images = page.page.locator(".dragwidget-frame img").first.bounding_box()
    button = frames.first.bounding_box()
    assert button["x"] <= images["x"] + 3
    assert button["y"] <= images["y"] + 3
    assert button["height"] >= 60

    page.kernel.run("steps = widget.session.history.tip.index; widget.close()")
    page.until(lambda: page.page.locator(".dragwidget-frame").count() == 0, "it is gone")
    page.kernel.run("widget = DragWidget.restore('journal')")
    page.kernel.wait_for("widget.state == 'idle'", 300)
    assert page.kernel.get("[widget.index, widget.prompt, len(widget.canvas.pairs)]") == [
        1,
        "a ball",
        1,
    ]


def test_a_page_goes_on_drawing_after_another_canvas_was_closed(lab):
    """Commands that were on their way to the closed canvas do not stop the others."""
    page = lab
    page.open(
        [
            """
import numpy as np
from dragwidget import DragCanvas
first = DragCanvas(np.zeros((96, 128, 3), np.uint8))
second = DragCanvas(np.full((96, 128, 3), 200, np.uint8))""",
            "first",
            "second",
        ]
    ).run_all()
    page.until(lambda: page.page.locator(".dragwidget-canvas canvas").count() == 2, "both show")
    page.kernel.wait_for("first.scene.is_live and second.scene.is_live")
    alive = "len(__import__('ipywidgets').widgets.widget._instances)"
    page.kernel.run("before = " + alive)
    # A page that is slow to draw has commands on their way when the canvas is closed.
    speed = page.page.context.new_cdp_session(page.page)
    speed.send("Emulation.setCPUThrottlingRate", {"rate": 20})
    page.kernel.run(
        "for k in range(20):\n"
        "    first.show_image(np.full((96, 128, 3), 10 * k, np.uint8)); first.flush()\n"
        "first.close()"
    )
    page.kernel.wait_for(f"{alive} < before - 50")
    page.until(lambda: page.page.locator(".dragwidget-canvas canvas").count() == 1, "one is gone")
    speed.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    page.kernel.run("second.show_image(np.full((96, 128, 3), (250, 0, 0), np.uint8))")
    page.until(
        lambda: (
            page.page.evaluate(
                "() => { const c = document.querySelector('.dragwidget-canvas canvas'); return [..."
                "c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data][0]; }"
            )
            > 240
        ),
        "the other one is drawn on",
    )
