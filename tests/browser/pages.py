"""A notebook in the browser, as a test speaks to it."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from browser.canvases import CanvasOnPage
from browser.kernel import KernelDoor
from browser.server import JupyterServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

T = TypeVar("T")

APPS = ("lab", "notebook", "voila")

# The idle sign shows before the kernel is attached, and a cell that is run then is not run, in
# silence: so ask the notebook itself.
READY = """cells => {
    const panel = window.jupyterapp?.shell?.currentWidget;
    const context = panel?.sessionContext;
    return Boolean(context?.isReady && context.session?.kernel?.connectionStatus === 'connected'
        && context.session.kernel.status === 'idle' && panel.content?.widgets?.length === cells);
}"""
CODE_CELLS = """window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === 'code')"""
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
IDLE = f"""() => {KERNEL}.status === 'idle'
    && {CODE_CELLS}.every(cell => cell.model.executionCount !== null)"""
OUTPUTS = f"() => {CODE_CELLS}.map(cell => cell.model.outputs.toJSON())"


class NotebookPage:
    """One notebook in one app, ``"lab"``, ``"notebook"`` or ``"voila"``, in one page.

    page: Playwright's own, for all that has no method here.
    """

    def __init__(
        self, page: Page, server: JupyterServer, name: str, app: str = "lab", seconds: float = 180.0
    ) -> None:
        assert app in APPS
        self.page = page
        self.app = app
        self.name = name
        self.server = server
        self.port = server.port  # another one leads through a slow line
        self.seconds = seconds  # how long anything here is waited for
        self.said: list[str] = []  # the page's console: errors and warnings
        self._kernel: KernelDoor | None = None
        self._cells = 0
        page.set_default_timeout(seconds * 1000)
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{message.type}: {message.text}")

    # ---------------------------------------------------------------- the notebook

    def open(self, cells: Iterable[str]) -> NotebookPage:
        """Write these code cells into a notebook of this test's own and open it; Voila runs it."""
        cells = list(cells)
        self._cells = len(cells)
        self.server.write_notebook(self.name, cells)
        self._go_to()
        return self

    def reload(self) -> None:
        """Save and load the page again, as a user does. In Voila that starts another kernel."""
        if self.app == "voila":
            self._leave_kernel()
        else:  # what a cell has shown comes back from the file, and its widgets from the kernel
            self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self._go_to()

    def _go_to(self) -> None:
        place = {
            "lab": f"lab/workspaces/{self.name}/tree/{self.name}.ipynb",
            "notebook": f"notebooks/{self.name}.ipynb",
            "voila": f"voila/render/{self.name}.ipynb",
        }[self.app]
        self.page.goto(f"http://127.0.0.1:{self.port}/{place}?token={self.server.token}")
        if self.app == "voila":
            self.wait_for("() => document.querySelector('#jupyter-config-data') !== null")
        else:
            self.wait_for(READY, self._cells)

    def run_all(self) -> None:
        """Run all cells, where the app did not itself; raises AssertionError where one fails."""
        if self.app == "voila":
            failed = self.page.locator("[data-mime-type='application/vnd.jupyter.stderr']")
            assert not failed.count(), failed.all_inner_texts()
            return
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.wait_idle()

    def wait_idle(self) -> None:
        """Wait until every cell was run and the kernel does nothing; no cell may have failed."""
        self.wait_for(IDLE)
        for outputs in self.outputs():
            for output in outputs:
                if output["output_type"] == "error":
                    lines = "\n".join(output["traceback"])
                    raise AssertionError(re.sub(r"\x1b\[[\d;]*m", "", lines))

    def outputs(self) -> list[list[dict[str, Any]]]:
        """What each code cell has put out, as nbformat has it."""
        return list(self.page.evaluate(OUTPUTS))

    # ---------------------------------------------------------------- the kernel

    @property
    def kernel(self) -> KernelDoor:
        """The kernel behind this page, to ask what it holds."""
        if self._kernel is None:
            file = self.server.runtime / f"kernel-{self.kernel_id}.json"
            self._kernel = KernelDoor(file, self.seconds)
        return self._kernel

    @property
    def kernel_id(self) -> str:
        if self.app == "voila":
            config = self.page.locator("#jupyter-config-data").text_content()
            return str(json.loads(config or "{}")["kernelId"])
        return str(self.page.evaluate(f"() => {KERNEL}.id"))

    def _leave_kernel(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    def close(self) -> None:
        """Let go of the kernel; whoever owns the server ends it."""
        self._leave_kernel()

    # ---------------------------------------------------------------- looking and waiting

    def canvas(self, nth: int = 0, css_class: str = "") -> CanvasOnPage:
        """The nth canvas on the page; of those in a box with this class name, if given.

        Waits until it is there and has a size.
        """
        found = self.page.locator(f".{css_class} canvas" if css_class else "canvas").nth(nth)
        found.wait_for(state="visible")
        canvas = CanvasOnPage(found)
        self.until(lambda: canvas.size[0] > 0 and canvas.box[2] > 0, "the canvas has a size")
        return canvas

    def control(self, css_class: str) -> Any:
        """Playwright's locator of the control with one of our class names, e.g. dragwidget-run."""
        return self.page.locator(f".{css_class}").first

    def click(self, css_class: str) -> None:
        """Click the control with this class name, once it can be clicked."""
        self.control(css_class).click()

    def wait_for(self, predicate: str, argument: Any = None) -> None:
        """Wait until a JavaScript function (synchronous, of one argument) returns true."""
        self.page.wait_for_function(predicate, arg=argument, polling=50)

    def until(self, predicate: Callable[[], T], what: str, seconds: float | None = None) -> T:
        """Ask until it is true; what it returned. ``what`` says in the error what did not happen.

        For what a test can see from here only: pixels, the kernel's state. The page goes on.
        """
        limit = self.seconds if seconds is None else seconds
        end = time.monotonic() + limit
        while not (value := predicate()):
            if time.monotonic() > end:
                raise TimeoutError(f"it did not happen in {limit:g} s that {what}")
            self.page.wait_for_timeout(30)
        return value

    def image(self) -> npt.NDArray[np.uint8]:
        """The page as it looks, (H, W, 3)."""
        with Image.open(io.BytesIO(self.page.screenshot())) as image:
            return np.asarray(image.convert("RGB"))

    def screenshot(self, title: str, css_class: str = "") -> Path | None:
        """Keep an image of the page in the folder DRAGWIDGET_SCREENSHOTS, where it is given.

        css_class: of what alone is to be seen, in full; by default the page as it is scrolled.
        """
        folder = os.environ.get("DRAGWIDGET_SCREENSHOTS")
        if not folder:
            return None
        path = Path(folder) / f"{title}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not css_class:
            self.page.screenshot(path=path)
            return path
        control, window = self.control(css_class), self.page.viewport_size
        box = control.bounding_box()
        assert window is not None
        assert box is not None
        # An app scrolls within its page: only in a window that is tall enough nothing is cut off.
        self.page.set_viewport_size({**window, "height": window["height"] + ceil(box["height"])})
        control.screenshot(path=path)
        self.page.set_viewport_size(window)
        return path
