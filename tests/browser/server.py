"""A Jupyter server for the tests alone: JupyterLab, Notebook 7 and Voila at one address."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

START_SECONDS = 120.0  # a busy machine is slow, which is no fault of the code
STOP_SECONDS = 20.0

SETTINGS = {
    "ServerApp": {
        "ip": "127.0.0.1",
        "open_browser": False,
        "port_retries": 0,
        "allow_root": True,
        "terminals_enabled": False,
        "log_level": "WARN",
    },
    "LabApp": {
        "expose_app_in_browser": True,
        "news_url": None,
        "extension_manager": "readonly",
    },
    "JupyterNotebookApp": {"expose_app_in_browser": True},
    "VoilaConfiguration": {"show_tracebacks": True},
}

# JupyterLab's and Notebook's own settings, by plugin.
PREFERENCES = {
    # it asks, over the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "apputils-extension/themes": {"adaptive-theme": True},  # dark where the browser's context is
}


def free_port() -> int:
    """A TCP port on this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class JupyterServer:
    """Starts on ``with``, with folders of its own under ``folder``; gone with it, kernels too.

    Raises RuntimeError, with the end of the server's log, where it does not start.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "notebooks"
        self.runtime = folder / "runtime"  # where kernels leave the files to connect by
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self._log = folder / "server.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """All that the server and its kernels have written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def write_notebook(self, name: str, cells: list[str]) -> None:
        """Put a notebook of these code cells under the server's root, as ``<name>.ipynb``."""
        code: dict[str, Any] = {"cell_type": "code", "execution_count": None}
        code |= {"metadata": {}, "outputs": []}
        notebook = {
            "cells": [{**code, "id": f"cell-{i}", "source": cell} for i, cell in enumerate(cells)],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.root / f"{name}.ipynb").write_text(json.dumps(notebook))

    def end_kernels(self) -> None:
        """End all kernels: each has loaded what its notebook needs, and keeps it."""
        for kernel in json.loads(self._ask("kernels")):
            self._ask(f"kernels/{kernel['id']}", method="DELETE")

    def __enter__(self) -> JupyterServer:
        environment = self._prepare()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", f"--port={self.port}", str(self.root)],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> dict[str, str]:
        """Make the folders and write the settings; the environment in which they are found."""
        config = self._folder / "config"
        places = {
            "JUPYTER_CONFIG_DIR": config,
            "JUPYTER_DATA_DIR": self._folder / "data",
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "IPYTHONDIR": self._folder / "ipython",
        }
        for place in (self.root, *places.values()):
            place.mkdir(parents=True, exist_ok=True)
        for app in ("server", "lab", "notebook"):  # each app reads its own file only
            (config / f"jupyter_{app}_config.json").write_text(json.dumps(SETTINGS))
        for plugin, values in PREFERENCES.items():
            file = config / f"lab/user-settings/@jupyterlab/{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        environment = {key: text for key, text in os.environ.items() if key != "PYTHONWARNINGS"}
        environment |= {key: str(place) for key, place in places.items()}
        environment["JUPYTER_TOKEN"] = self.token  # a command line can be read by all users
        environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        return environment

    def _ask(self, what: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{what}",
            headers={"Authorization": f"token {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self._ask("status")
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"the Jupyter server did not start:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """End the server and its kernels; again is harmless."""
        if self._process is None:
            return
        self._process.terminate()  # it ends its kernels, each in a process session of its own
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None
