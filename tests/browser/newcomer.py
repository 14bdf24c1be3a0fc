"""Counts what a newcomer does from ``DragWidget()`` to a finished edit, and how long it takes.

    PYTHONPATH=tests python -m browser.newcomer

Needs what the tests in a browser need. It does what the hint line says and nothing else, in one
order for each arrow: draw it, take the mask that is offered (or not), press *Run*. An action is one
press or one drag of the mouse. The seconds are those of the machine, without any for thinking. The
edit is good where what was at the handle is at the target afterwards: the correlation of the two
patches, and in brackets that of what was at the target before. Two actions, arrow and Run, took 19
to 29 s on two busy cores and gave 0.96 and 0.93; with the offered mask 0.87 and 0.35.
"""

from __future__ import annotations

import time

import numpy as np

from browser.by_hand import chromium_and_server
from browser.canvases import ImageOnPage
from browser.conftest import WINDOW
from browser.pages import NotebookPage

SIZE = (128, 128)
CELLS = ["from dragwidget import DragWidget\nwidget = DragWidget()\nwidget"]
ARROWS = {  # of the first sample, a fox
    "the muzzle to the left": [(66.0, 78.0), (54.0, 78.0)],
    "the right ear up": [(84.0, 42.0), (84.0, 28.0)],
    "the tail out": [(98.0, 92.0), (112.0, 84.0)],
}
PATCH = 7  # pixels from its middle to its edge


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of two patches, -1 to 1."""
    a, b = (patch.astype(float) - patch.mean() for patch in (first, second))
    return float((a * b).sum() / max(1e-9, np.sqrt((a * a).sum() * (b * b).sum())))


def patch(image: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    x, y = (round(v) for v in point)
    padded = np.pad(image, [(PATCH, PATCH), (PATCH, PATCH), (0, 0)], mode="edge")
    return padded[y : y + 2 * PATCH + 1, x : x + 2 * PATCH + 1]


class Hand:
    """Does one thing after the other, counts it, and waits for what it brings about."""

    def __init__(self, page: NotebookPage, canvas: ImageOnPage) -> None:
        self.page, self.canvas = page, canvas
        self.actions: list[str] = []

    @property
    def hint(self) -> str:
        return str(self.page.control("dragwidget-hint").inner_text())

    def draw(self, arrow: list[tuple[float, float]]) -> None:
        self.canvas.drag(arrow)
        self.actions.append("arrow")
        self.page.kernel.wait_for("len(widget.canvas.pairs) == 1")

    def press(self, css_class: str) -> None:
        self.page.click(css_class)
        self.actions.append(css_class.removeprefix("dragwidget-"))


def main() -> None:
    """Print a table: the arrow, the actions, seconds, and what became of it."""
    with chromium_and_server() as (browser, server):
        for k, (name, arrow) in enumerate(ARROWS.items()):
            for with_mask in (True, False):
                page = NotebookPage(
                    browser.new_context(viewport=WINDOW).new_page(),
                    server, f"newcomer-{k}-{int(with_mask)}", seconds=600,
                )  # fmt: skip
                page.open(CELLS).run_all()
                canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, SIZE)
                page.until(lambda c=canvas: c.shows((5, 120))[3] == 255, "the image shows")
                start, hand = time.monotonic(), Hand(page, canvas)
                hand.draw(arrow)
                if with_mask:
                    hand.press("dragwidget-select-part")
                    page.kernel.wait_for("widget.canvas.mask is not None")
                hand.press("dragwidget-run")
                page.kernel.wait_for("widget.result is not None and widget.state == 'idle'", 600)
                took = time.monotonic() - start
                page.page.wait_for_timeout(1000)  # the page shows it
                source, result = (page.kernel.array(f"widget.{of}") for of in ("image", "result"))
                (handle, target), status = arrow, page.control("dragwidget-status").inner_text()
                before = likeness(patch(source, handle), patch(source, target))
                after = likeness(patch(source, handle), patch(result, target))
                print(
                    f"{name:24s} {len(hand.actions)} actions ({', '.join(hand.actions)}) "
                    f"{took:5.0f} s, {after:.2f} ({before:.2f}); {status} | {hand.hint}",
                    flush=True,
                )
                page.screenshot(f"newcomer/{k}-{int(with_mask)}", "dragwidget")
                page.kernel.run("widget._view.compare.mode.value = 'slider'")
                page.page.wait_for_timeout(500)
                page.screenshot(f"newcomer/{k}-{int(with_mask)}-compared", "dragwidget")
                page.close()
                server.end_kernels()
        browser.close()


if __name__ == "__main__":
    main()
