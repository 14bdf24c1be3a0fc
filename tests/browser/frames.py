"""Measures how many frames a second the live warp shows while a point is pulled.

    PYTHONPATH=tests python -m browser.frames [FRAMES]

Needs what the tests in a browser need. Each frame of the page moves the pointer once: what is
counted is how many the page shows in a second (60 at most), and the time that one takes to paint.
"""

from __future__ import annotations

import sys
from statistics import median

from browser.by_hand import chromium_and_server
from browser.conftest import WINDOW
from browser.pages import NotebookPage

FRAMES = 240
SIDE = 512  # of the image, pixels
CELLS = [
    "import numpy as np\nfrom dragwidget.ui.canvas import DragCanvas",
    f"noise = np.random.default_rng(0).integers(0, 256, ({SIDE}, {SIDE}, 3)).astype('uint8')\n"
    "canvas = DragCanvas(noise, live_warp=('mean', 2.5))",
    "canvas",
]
BEFORE = {  # what is drawn before a point is pulled
    "one pair": "canvas.clear()",
    "one pair, a mask": "canvas.clear(); canvas.rectangle((100, 100), (400, 400))",
    "ten pairs, a mask": "canvas.pairs = [((40 * k, 450), (40 * k, 430)) for k in range(1, 10)]",
}
READY = "() => document.querySelector('.dragwidget-ink')?.layer?.draws()"
PULL = """async (frames) => {
    const canvas = document.querySelector('.dragwidget-canvas canvas');
    const { layer } = document.querySelector('.dragwidget-ink');
    const box = canvas.getBoundingClientRect();
    const fire = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
        pointerId: 7, isPrimary: true, pointerType: 'mouse', bubbles: true, cancelable: true,
        button: 0, buttons: type === 'pointerup' ? 0 : 1,
        clientX: box.left + x * box.width, clientY: box.top + y * box.height,
    }));
    const frame = () => new Promise(requestAnimationFrame);
    fire('pointerdown', 0.4, 0.4);
    await frame();
    const spent = [];
    const start = performance.now();
    for (let k = 0; k < frames; k += 1) {
        const before = performance.now();
        fire('pointermove', 0.5 + 0.1 * Math.cos(k / 20), 0.5 + 0.1 * Math.sin(k / 20));
        spent.push(performance.now() - before);
        await frame();
    }
    const rate = (1000 * frames) / (performance.now() - start);
    const { isWarped } = layer;
    fire('pointerup', 0.5, 0.5);
    return { rate, spent, isWarped };
}"""


def main(frames: int) -> None:
    """Print a table: what is drawn, frames a second, and the time of one."""
    print(f"{frames} frames of an image of {SIDE} x {SIDE}: frames a second, ms to paint one")
    with chromium_and_server() as (browser, server):
        page = NotebookPage(
            browser.new_context(viewport=WINDOW).new_page(), server, "frames", seconds=600
        )
        page.open(CELLS).run_all()
        page.kernel.wait_for("canvas.has_keys")
        page.wait_for(READY)
        for name, draw in BEFORE.items():
            page.kernel.run(draw)
            page.page.wait_for_timeout(1500)
            seen = page.page.evaluate(PULL, frames)
            if not seen["isWarped"]:
                raise SystemExit(f"{name}: the image was not warped")
            print(f"{name:20s} {seen['rate']:5.1f} {median(seen['spent']):5.1f}", flush=True)
            page.page.wait_for_timeout(1500)
        page.close()
        browser.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else FRAMES)
