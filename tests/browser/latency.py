"""Measures how long after a move of the mouse its stroke shows, over lines that are slow.

    PYTHONPATH=tests python -m browser.latency [MOVES]

Needs what the tests in a browser need. Measured on the page, from the event's time to the first
look at which the pixel under the pointer has changed; with the ink layer, and with the kernel
drawing every move, as it does where the layer has nothing to draw from.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from browser.by_hand import chromium_and_server
from browser.canvases import ImageOnPage
from browser.conftest import WINDOW
from browser.pages import NotebookPage
from browser.proxy import SlowLine

DELAYS = (0.0, 0.1, 0.2, 0.3)  # seconds, each way
MOVES = 50
SIDE, STEP, GREY = 128, 9, 200  # of the image, and of the path over it; image pixels
CELLS = [
    "import numpy as np\nfrom dragwidget.ui.canvas import DragCanvas",
    f"canvas = DragCanvas(np.full(({SIDE}, {SIDE}, 3), {GREY}, 'uint8'), tool='brush')\n"
    "canvas.brush_size = 4.0",
    "canvas",
]
KERNEL_DRAWS = "canvas._script.parts = {**canvas._script.parts, 'image': 'nowhere'}"
# Where the mouse comes it is dark, protected; the stroke makes it light.
WATCH = """grey => {
    window.times = [];
    const canvas = document.querySelector('.dragwidget-canvas canvas');
    const channel = new MessageChannel();
    const look = ([x, y, start]) => {
        const layer = document.querySelector('.dragwidget-ink')?.layer;
        const hasLayer = layer && layer.host.style.display !== 'none';
        const pixels = (hasLayer ? layer.element : canvas).getContext('2d');
        const is = pixels.getImageData(x, y, 1, 1).data[0];
        if (is > grey - 20) window.times.push(performance.now() - start);
        else channel.port1.postMessage([x, y, start]);
    };
    channel.port2.onmessage = (message) => look(message.data);
    canvas.addEventListener('pointermove', (event) => {
        if (!(event.buttons & 1)) return;
        const box = canvas.getBoundingClientRect();
        const x = Math.round(((event.clientX - box.left) * canvas.width) / box.width);
        const y = Math.round(((event.clientY - box.top) * canvas.height) / box.height);
        channel.port1.postMessage([x, y, event.timeStamp]);
    });
}"""


def path(moves: int) -> list[tuple[float, float]]:
    """Points of the image, from row to row to and fro, none in the reach of another."""
    columns = range(STEP, SIDE - STEP, STEP)
    points = []
    for row, y in enumerate(range(STEP, SIDE - STEP, STEP)):
        points += [(float(x), float(y)) for x in (columns if row % 2 else reversed(columns))]
    assert len(points) > moves, f"there is room for {len(points) - 1} moves, got {moves}"
    return points[: moves + 1]


def measure(
    page: NotebookPage, line: SlowLine, delay: float, moves: int, *, by_kernel: bool
) -> float:
    """Return the median of all moves, ms."""
    page.page.evaluate(WATCH, GREY)
    canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, (SIDE, SIDE))
    canvas.element.scroll_into_view_if_needed()
    line.delay = delay
    first, *others = path(moves)
    canvas.press(first)
    if by_kernel:  # until its first answer all is light
        page.until(lambda: canvas.shows((5, 5))[0] < GREY - 20, "what is protected is dark")
    for number, point in enumerate(others, start=1):
        canvas.hover(point)
        page.wait_for("count => window.times.length >= count", number)
    canvas.release()
    times: list[float] = page.page.evaluate("() => window.times")
    line.delay = 0.0
    page.kernel.wait_for("canvas.mask is not None")
    page.kernel.run("canvas.clear()")
    page.until(lambda: canvas.shows((5, 5))[0] == GREY, "the canvas is as it was")
    return median(times)


def main(moves: int) -> None:
    """Print a table: delay each way, with the layer, with the kernel drawing."""
    with chromium_and_server() as (browser, server), SlowLine(server.port) as line:
        rows = []
        for name, more in (("layer", []), ("kernel", [KERNEL_DRAWS])):
            context: Any = browser.new_context(viewport=WINDOW)
            page = NotebookPage(context.new_page(), server, name, seconds=600)
            page.port = line.port
            page.open([*CELLS[:2], *more, CELLS[2]]).run_all()
            page.kernel.wait_for("canvas.has_keys")
            page.page.wait_for_timeout(1000)
            by_kernel = name == "kernel"
            rows.append(
                [measure(page, line, delay, moves, by_kernel=by_kernel) for delay in DELAYS]
            )
            page.close()
            context.close()
        browser.close()
    print(f"median of {moves} moves, ms: the delay each way, the ink layer, the kernel")
    for delay, layer, kernel in zip(DELAYS, *rows, strict=True):
        print(f"{delay * 1000:5.0f} {layer:8.1f} {kernel:8.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MOVES)
