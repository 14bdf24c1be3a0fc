"""What the tests in a browser need: Chromium, Playwright, JupyterLab, Notebook 7 and Voila.

Where one is missing they are skipped, and say so. With DRAGWIDGET_BROWSER=required they fail.

DRAGWIDGET_CHROMIUM names another Chromium; DRAGWIDGET_SCREENSHOTS a folder for images of the
pages, those of every test that failed among them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

    from browser.pages import NotebookPage
    from browser.server import JupyterServer

NEEDED = ("playwright", "jupyterlab", "notebook", "voila")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers have little of it
)
REPORT = pytest.StashKey[pytest.TestReport]()
WINDOW = {"width": 1280, "height": 900}


def chromium_path() -> str | None:
    return os.environ.get("DRAGWIDGET_CHROMIUM") or shutil.which("chromium")


def what_is_missing() -> str:
    """Why no browser test can run here; empty where they can."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"no {', '.join(missing)} here: pip install '.[browser]'"
    if not chromium_path():
        return "no Chromium here: apt-get install chromium, or name one by DRAGWIDGET_CHROMIUM"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Last and together: so a server and a browser start once, and Playwright's event loop is in
    # nobody's way. Each keeps its shuffled place among its own.
    items.sort(key=lambda item: "browser" in item.keywords)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[REPORT] = report
    return report


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One Chromium for all tests."""
    missing = what_is_missing()
    if missing:
        if os.environ.get("DRAGWIDGET_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(),
            args=list(FLAGS),
            chromium_sandbox=False,
            timeout=120_000,
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def server(
    chromium: Browser,  # noqa: ARG001 - without a browser there is no use for a server
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[JupyterServer]:
    """One Jupyter server for all tests."""
    from browser.server import JupyterServer

    with JupyterServer(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


@pytest.fixture(scope="package")
def windows(chromium: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """``windows(**context)``: a context of Playwright's; the same for the same words.

    Shared, as each has a cache of its own and JupyterLab is large: it halves a test's time.
    """
    made: dict[str, BrowserContext] = {}

    def window(**options: Any) -> BrowserContext:
        options = {"viewport": WINDOW, **options}
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = chromium.new_context(**options)
        return made[key]

    yield window
    for context in made.values():
        context.close()


@pytest.fixture
def new_page(
    windows: Callable[..., BrowserContext], server: JupyterServer, request: pytest.FixtureRequest
) -> Iterator[Callable[..., NotebookPage]]:
    """``new_page(app="lab", **context)``: a page of this test's own.

    What is named besides goes to Playwright's ``new_context``: ``device_scale_factor=2``,
    ``color_scheme="dark"``, ``has_touch=True``, ``viewport={"width": .., "height": ..}``.
    """
    from browser.pages import NotebookPage

    title = re.sub(r"\W+", "-", request.node.name).strip("-")
    pages: list[NotebookPage] = []

    def make(app: str = "lab", **options: Any) -> NotebookPage:
        # One name for each: a kernel outlives its page.
        made = NotebookPage(windows(**options).new_page(), server, f"{title}-{len(pages)}", app)
        pages.append(made)
        return made

    yield make
    report = request.node.stash.get(REPORT, None)
    for page in pages:
        if report is not None and report.failed:
            with contextlib.suppress(Exception):  # what failed first is what is to be told
                page.screenshot(f"failed-{page.name}")
            report.sections.append((f"console of {page.name}", "\n".join(page.said)))
        page.close()
        page.page.close()
    server.end_kernels()
    if report is not None and report.failed:
        report.sections.append(("Jupyter server", server.log[-4000:]))


@pytest.fixture
def lab(new_page: Callable[..., NotebookPage]) -> NotebookPage:
    """An empty page, on which to open a notebook in JupyterLab."""
    return new_page("lab")
