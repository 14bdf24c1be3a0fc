"""Takes screenshots of every state of the widget, in every width, light and dark.

    PYTHONPATH=tests python -m browser.screens FOLDER [WIDTH ..]

Needs what the tests in a browser need. Writes ``<state>-<width>-<scheme>.png`` into FOLDER, and a
few at other device pixel ratios and in forced colours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser.by_hand import chromium_and_server
from browser.canvases import ImageOnPage
from browser.pages import NotebookPage
from browser.server import JupyterServer

SIZE = (128, 128)
HEIGHTS = {480: 900, 700: 900, 1100: 900, 1600: 1000}
START = """
from dataclasses import replace
import torch
from dragwidget import DragWidget
from dragwidget.demo.scenes import sample_images
torch.set_num_threads(1)
image, prompt = sample_images()[0]
"""
MADE = 'widget = DragWidget(image, prompt="", journal=False, store=None)\ncanvas = widget.canvas'
EMPTY = "widget = DragWidget(journal=False, store=None)\ncanvas = widget.canvas"
LONG = """
drag = replace(widget.settings.drag, start="inverted", steps=300, stop_distance=0.01)
widget.settings = replace(widget.settings, drag=drag)"""
PAIR = [(50.0, 60.0), (75.0, 55.0)]
SECTIONS = ("Settings", "Points", "Compare", "Features", "Export", "Preparation", "Model", "Image")


class Screens:
    """One page, of which screenshots are taken in state after state."""

    def __init__(self, page: NotebookPage, folder: Path, suffix: str) -> None:
        self.page, self.folder, self.suffix = page, folder, suffix
        self.kernel = page.kernel

    def take(self, state: str, *, whole: bool = False) -> None:
        """Write what the window shows; ``whole``: all of the widget."""
        control = self.page.control("dragwidget")
        self.page.page.evaluate("() => document.querySelector('.dragwidget').scrollIntoView()")
        self.page.page.mouse.move(2, 2)
        self.page.page.wait_for_timeout(350)
        path = self.folder / f"{state}-{self.suffix}.png"
        if not whole:
            self.page.page.screenshot(path=path)
            return
        window, box = self.page.page.viewport_size, control.bounding_box()
        taller = {**window, "height": window["height"] + int(box["height"])}
        self.page.page.set_viewport_size(taller)
        self.page.page.wait_for_timeout(200)
        control.screenshot(path=path)
        self.page.page.set_viewport_size(window)

    def header(self, title: str) -> Any:
        return self.page.page.locator(".dragwidget").first.get_by_text(title, exact=True).last

    def section(self, title: str) -> None:
        """Open a folded section, or close it."""
        self.header(title).click(timeout=20_000)
        self.page.page.wait_for_timeout(300)

    def idle(self) -> None:
        self.kernel.wait_for("widget.state == 'idle'", 300)


@contextmanager
def page_of(browser: Any, server: JupyterServer, name: str, made: str, **options: Any) -> Iterator:
    """A notebook that shows a widget."""
    context = browser.new_context(**options)
    page = NotebookPage(context.new_page(), server, name, seconds=300)
    page.open([START + made, "widget"])
    page.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.run_all()
    canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, SIZE)
    page.until(lambda: canvas.shows((5, 120))[3] == 255, "the image shows")
    yield page, canvas
    page.close()
    context.close()
    server.end_kernels()


def states(screens: Screens, canvas: ImageOnPage, *, all_of_them: bool) -> None:
    """Take a screenshot of each state, in the order in which an edit goes."""
    page, kernel = screens.page, screens.kernel
    screens.take("1-image")
    canvas.drag(PAIR)
    kernel.wait_for("len(canvas.pairs) == 1")
    screens.take("2-pair")
    page.click("dragwidget-select-part")
    kernel.wait_for("canvas.mask is not None")
    screens.take("3-mask")
    kernel.run(LONG)
    page.click("dragwidget-run")
    kernel.wait_for("widget.index >= 4", 300)
    screens.take("4-running")
    page.click("dragwidget-pause")
    kernel.wait_for("widget.state == 'paused' and widget._editing.runner._driver is None")
    screens.take("5-paused")
    page.click("dragwidget-stop")
    screens.idle()
    page.click("dragwidget-render")
    kernel.wait_for("widget.result is not None and widget.state == 'idle'", 300)
    screens.take("6-done", whole=True)
    kernel.run(
        'widget._failed(ValueError(\'a model is not here: there is nothing at "crittres"; wanted '
        "a folder or a file that exists, or an id of the Hugging Face hub'))"
    )
    screens.take("7-error")
    kernel.run("widget._clear_error()")
    if not all_of_them:
        return
    for title in SECTIONS:
        if screens.header(title).count():
            screens.section(title)
            screens.take(f"8-{title.lower()}", whole=True)
    screens.section("Compare")
    for mode in ("before", "slider"):
        kernel.run(f"widget._view.compare.mode.value = '{mode}'")
        screens.take(f"9-compare-{mode}", whole=True)
    kernel.run("widget._view.compare.mode.value = 'after'")
    page.click("dragwidget-more")
    screens.take("9-more", whole=True)
    page.click("dragwidget-more")
    canvas.element.focus()
    page.page.keyboard.press("?")
    screens.take("9-keys")


def main(folder: Path, widths: list[int]) -> None:
    """Take all screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium_and_server() as (browser, server):
        looks: list[tuple[str, dict[str, Any]]] = [
            (f"{width}-{scheme}", {"viewport": {"width": width, "height": HEIGHTS[width]},
                                   "color_scheme": scheme})
            for width in widths for scheme in ("light", "dark")
        ]  # fmt: skip
        window = {"width": 1100, "height": 900}
        looks += [
            ("1100-ratio1.5", {"viewport": window, "device_scale_factor": 1.5}),
            ("1100-ratio2", {"viewport": window, "device_scale_factor": 2}),
            ("1100-forced", {"viewport": window, "forced_colors": "active"}),
        ]
        for k, (suffix, options) in enumerate(looks):
            print(suffix, flush=True)
            with page_of(browser, server, f"empty-{k}", EMPTY, **options) as (page, _):
                Screens(page, folder, suffix).take("0-empty")
            with page_of(browser, server, f"image-{k}", MADE, **options) as (page, canvas):
                states(Screens(page, folder, suffix), canvas, all_of_them="light" in suffix)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(width) for width in sys.argv[2:]] or list(HEIGHTS))
