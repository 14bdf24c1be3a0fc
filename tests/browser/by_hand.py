"""Chromium and a JupyterLab for scripts that are run by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from browser.conftest import FLAGS, chromium_path, what_is_missing
from browser.server import JupyterServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@contextmanager
def chromium_and_server() -> Iterator[tuple[Browser, JupyterServer]]:
    """Yield both while this lasts; exit with what is missing."""
    from playwright.sync_api import sync_playwright

    if missing := what_is_missing():
        raise SystemExit(missing)
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        JupyterServer(Path(folder)) as server,
    ):
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=list(FLAGS), chromium_sandbox=False
        )
        yield browser, server
