"""Makes the README's animation: a drag as it happens in the widget, in JupyterLab, by mouse.

    PYTHONPATH=tests python -m browser.animation [OUT.gif]

Needs what the tests in a browser need. Shown is the canvas, with a line that says what happens;
settings are the defaults. Waiting is cut: an image is kept only where something has changed, and
each phase has a limiter of its own.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from browser.canvases import ImageOnPage
from browser.conftest import FLAGS, chromium_path, what_is_missing
from browser.pages import NotebookPage
from browser.server import JupyterServer
from dragwidget.bench.scenes import to_image
from dragwidget.demo.tasks import DragTask, drag_task
from dragwidget.ui.canvas.marks import HANDLE, TARGET

if TYPE_CHECKING:
    from playwright.sync_api import Page

OUT = Path(__file__).parents[2] / "docs" / "images" / "drag.gif"
TASK = ("mountain", 900_033)
# The brush over the mountain and the sky above it, (x, y) in pixels of the image.
STROKE = [(50.0, 48.0), (60.0, 31.0), (58.0, 50.0), (72.0, 42.0), (70.0, 58.0), (86.0, 54.0)]
STROKE += [(82.0, 68.0), (100.0, 66.0), (94.0, 80.0), (110.0, 82.0), (113.0, 89.0)]
WINDOW = {"width": 1300, "height": 1000}  # CSS pixels
CANVAS, MARGIN = 600, 24  # CSS pixels: side of the canvas, around the image
LINE, FONT = 36, 20  # height of the line below it, and of its text
LARGEST = 3_000_000  # bytes
COLOURS = 255
# Thresholds of a 4 x 4 Bayer matrix, as levels about 0.
PATTERN = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) // 2 - 4
BRUSH = 22  # pixels of the image
SHOW, PAINT, WAIT, STEP, REST = 900, 70, 110, 160, 2600  # how long an image is shown, ms
MOST, FEW = 36, 8  # images of the drag, and of inverting and rendering

CELLS = [  # settings are the defaults
    """
import torch
from dragwidget import DragWidget
torch.set_num_threads(1)  # one core for the drag, one for the browser
widget = DragWidget("fox.png", prompt={prompt!r}, width={width})
widget.canvas.brush_size = {brush}""",
    "widget",
]


@dataclass
class Camera:
    """Takes images of the canvas, one after the other.

    Attributes:
        words: what happens, in the line below.
        frames: images, each with how long it is shown, ms.
    """

    page: Page
    words: str = ""
    frames: list[tuple[Image.Image, int]] = field(default_factory=list)

    def shoot(self, milliseconds: int) -> None:
        """Keep how the canvas looks; where it looks as before, that is enough."""
        box: Any = self.page.locator(".dragwidget-canvas").bounding_box()
        with Image.open(io.BytesIO(self.page.screenshot(clip=box))) as image:
            self.show(image, milliseconds)

    def show(self, image: Image.Image, milliseconds: int) -> None:
        """Keep an image of the canvas with the line below it."""
        frame = Image.new("RGB", (CANVAS, CANVAS + LINE), "white")
        frame.paste(image.convert("RGB"), (0, 0))
        pen, font = ImageDraw.Draw(frame), ImageFont.load_default(FONT)
        pen.text((CANVAS / 2, CANVAS + LINE / 2 - 6), self.words, "#222222", font, anchor="mm")
        if self.frames and ImageChops.difference(self.frames[-1][0], frame).getbbox() is None:
            return
        self.frames.append((frame, milliseconds))

    def hold(self, milliseconds: int) -> None:
        """Show the last image that long."""
        image, _ = self.frames.pop()
        self.frames.append((image, milliseconds))

    def thin(self, since: int, most: int) -> None:
        """Of the images from the one with this number on, leave ``most``, evenly chosen."""
        taken = self.frames[since:]
        if len(taken) > most:
            kept = sorted({round(k * (len(taken) - 1) / (most - 1)) for k in range(most)})
            self.frames[since:] = [taken[k] for k in kept]

    def save(self, path: Path) -> None:
        """Write all that was taken, in colours that they share: so only what changes is stored."""
        chosen = [frame for frame, _ in self.frames[:: max(1, len(self.frames) // 6)]]
        chosen.append(self.frames[-1][0])
        chosen += [Image.new("RGB", (CANVAS, LINE), marker) for marker in (HANDLE, TARGET)]  # small
        sheet = Image.new("RGB", (CANVAS, sum(frame.height for frame in chosen)), "white")
        top = 0
        for frame in chosen:
            sheet.paste(frame, (0, top))
            top += frame.height
        palette = sheet.quantize(COLOURS, Image.Quantize.MEDIANCUT)
        images = [
            dithered(image).quantize(palette=palette, dither=Image.Dither.NONE)
            for image, _ in self.frames
        ]
        times = [milliseconds for _, milliseconds in self.frames]
        images[0].save(
            path, save_all=True, append_images=images[1:], duration=times, loop=0, disposal=1
        )


def dithered(frame: Image.Image) -> Image.Image:
    """A frame whose image has a faint pattern, always the same, so that no colours step.

    What does not change from frame to frame then still is the same, unlike after diffusing errors.
    """
    pixels = np.asarray(frame).astype(int)
    canvas = pixels[:CANVAS]
    tiles = np.tile(PATTERN, (CANVAS // 4, CANVAS // 4))[..., None]
    canvas += np.where((canvas == 255).all(-1, keepdims=True), 0, tiles)  # white stays white
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@contextmanager
def laboratory(folder: Path) -> Iterator[NotebookPage]:
    """A light JupyterLab without its side bar, and a notebook to be opened in it."""
    from playwright.sync_api import sync_playwright

    with JupyterServer(folder) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=list(FLAGS), chromium_sandbox=False
        )
        context: Any = browser.new_context(viewport=WINDOW, color_scheme="light")
        page = NotebookPage(context.new_page(), server, "animation", seconds=600)
        try:
            yield page
        finally:
            page.close()
            browser.close()


def drag_slowly(camera: Camera, canvas: ImageOnPage, path: list[tuple[float, float]]) -> None:
    """Press at the first point and go through all, with images on the way."""
    canvas.press(path[0])
    for (x0, y0), (x1, y1) in pairwise(path):
        for share in (0.5, 1.0):
            canvas.hover((x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
            camera.page.wait_for_timeout(150)
            camera.shoot(PAINT)
    canvas.release()
    camera.page.wait_for_timeout(400)
    camera.shoot(PAINT)


def play(page: NotebookPage, task: DragTask) -> Camera:
    """The whole edit by mouse."""
    prompt = task.instructions.prompt
    page.open([cell.format(prompt=prompt, brush=BRUSH, width=CANVAS) for cell in CELLS])
    page.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.run_all()
    canvas = ImageOnPage(page.canvas(0, "dragwidget-canvas").element, task.instructions.size)
    page.until(lambda: canvas.shows((5, 120))[3] == 255, "the image shows")
    page.page.evaluate("() => document.querySelector('.dragwidget-canvas').scrollIntoView()")
    page.page.wait_for_timeout(1000)
    camera = Camera(page.page, "The image")
    camera.shoot(SHOW)

    page.click("dragwidget-tool-brush")
    page.kernel.wait_for("widget.canvas.tool == 'brush'")
    camera.words = "Paint what is editable"
    drag_slowly(camera, canvas, STROKE)
    page.kernel.wait_for("widget.canvas.mask is not None")
    page.page.wait_for_timeout(500)
    camera.shoot(SHOW // 2)
    page.click("dragwidget-tool-points")
    page.kernel.wait_for("widget.canvas.tool == 'points'")
    camera.words = "Pull a point to its target"
    for pair in task.instructions.pairs:
        drag_slowly(camera, canvas, [pair.handle, pair.target])
    page.page.mouse.move(5, 5)
    page.page.wait_for_timeout(500)
    camera.shoot(SHOW)
    camera.hold(SHOW)

    page.click("dragwidget-run")
    page.page.mouse.move(5, 5)
    camera.words = "Run: the image is inverted"
    watch(page, camera, "widget.index >= 1 or widget.state == 'idle'", WAIT, FEW)
    camera.words = "Run: the diffusion model drags"
    watch(page, camera, "widget.session.ended is not None", STEP, MOST)
    camera.words = "The final render"
    watch(page, camera, "widget.state == 'idle' and widget.result is not None", WAIT, FEW)
    assert page.kernel.get("[widget.error, widget.canvas.last_error]") == ["", ""]
    print(f"{page.kernel.get('widget.index')} steps, {page.kernel.get('widget.session.ended')}")
    reveal(page, camera)
    return camera


def reveal(page: NotebookPage, camera: Camera) -> None:
    """The result where the canvas has it, without mask and arrows."""
    result = Image.fromarray(page.kernel.array("widget.result"))
    canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
    side = CANVAS - 2 * MARGIN
    canvas.paste(result.resize((side, side), Image.Resampling.BICUBIC), (MARGIN, MARGIN))
    camera.show(canvas, REST)


def watch(page: NotebookPage, camera: Camera, until: str, milliseconds: int, most: int) -> None:
    """Take images until something holds in the kernel; of many, leave ``most``."""
    since = len(camera.frames)
    while not page.kernel.get(f"bool({until})"):
        camera.shoot(milliseconds)
        page.page.wait_for_timeout(60)
    camera.shoot(milliseconds)
    camera.thin(since, most)


def main(out: Path) -> None:
    """Make the animation."""
    if missing := what_is_missing():
        raise SystemExit(missing)
    task = drag_task(*TASK)
    with tempfile.TemporaryDirectory() as folder, laboratory(Path(folder)) as page:
        to_image(task.source).save(page.server.root / "fox.png")
        camera = play(page, task)
    camera.save(out)
    size = out.stat().st_size
    width, height = camera.frames[0][0].size
    seconds = sum(milliseconds for _, milliseconds in camera.frames) / 1000
    print(f"{out}: {width} x {height}, {len(camera.frames)} images, {seconds:.0f} s, {size} bytes")
    if size > LARGEST:
        raise SystemExit(f"more than {LARGEST} bytes: take fewer colours or images")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
