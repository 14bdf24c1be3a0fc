"""Proves ``binder/`` without Docker: makes its environment, and runs every notebook in JupyterLab.

    PYTHONPATH=tests/support python tests/system/binder_proof.py [--keep DIR] [NOTEBOOK ...]

A copy of the project, a fresh environment from ``binder/requirements.txt`` alone, ``postBuild``,
and a JupyterLab begun by ``start``, as repo2docker does it; then each notebook is opened and run,
cell by cell, in a kernel of that server. Prints time and peak memory of each; exits with 1 where a
cell fails or the memory is more than Binder grants. Needs a package index, and ``psutil``.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from jupyter_client import BlockingKernelClient
from notebook_runs import PEAK, Measured, notebooks, peak_in, read

ROOT = Path(__file__).parents[2]
KERNEL = 1.6 * 2**30  # bytes that one kernel may hold at its peak
WHOLE = 2.0 * 2**30  # and the server with it: what Binder grants
SECONDS = 600  # a notebook may take


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="make it there, leave it, use it again"
    )
    parser.add_argument("names", metavar="NOTEBOOK", nargs="*", help="start of its name")
    chosen = parser.parse_args(arguments)
    paths = [p for p in notebooks() if p.name.startswith(tuple(chosen.names) or "")]
    wanted = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    if wanted != f"{sys.version_info.major}.{sys.version_info.minor}":
        parser.error(f"binder/runtime.txt asks for Python {wanted}: run this with it")
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep.absolute() if chosen.keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        image = Image(folder)
        image.make()
        rows = image.run(paths)
    say("\n" + table(rows))
    return int(any(row[-1] != "passed" for row in rows))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: Sequence[Sequence[str]]) -> str:
    """The results in Markdown."""
    head = ["notebook", "seconds", "kernel's peak, MiB", "all processes' peak, MiB", "result"]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f.ljust(w) for f, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


class Image:
    """What repo2docker would make of the project, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.venv = folder / "venv"
        self.port = free_port()
        self.token = secrets.token_hex(16)
        self.environment = self._environment()

    def _environment(self) -> dict[str, str]:
        """That of a fresh machine, but for what reaches the package index."""
        gone = ("PYTHON", "VIRTUAL_ENV", "JUPYTER", "IPYTHON", "OMP", "HF_", "MPL")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(gone)}
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        # An index that does not answer is passed over at once: there may be no such network.
        environment |= {"HOME": str(home), "PIP_RETRIES": "0", "JUPYTER_TOKEN": self.token}
        return environment | {"PATH": f"{self.venv / 'bin'}{os.pathsep}{environment['PATH']}"}

    def make(self) -> None:
        """The copy, the packages and ``postBuild``; packages that are there already stay."""
        shutil.rmtree(self.project, ignore_errors=True)
        listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
        for name in filter(None, names.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.project / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.project / name)
        start = time.monotonic()
        if not self.venv.exists():
            venv.create(self.venv, with_pip=True)
        self.call("pip", "install", "-q", "--no-cache-dir", "-r", "binder/requirements.txt")
        self.call("binder/postBuild")
        size = sum(f.stat().st_size for f in self.venv.rglob("*") if f.is_file())
        say(f"environment made in {time.monotonic() - start:.0f} s, {size / 1e6:.0f} MB")

    def call(self, *words: str) -> None:
        """Run a command of the environment in the project."""
        found = shutil.which(words[0], path=self.environment["PATH"]) or str(
            self.project / words[0]
        )
        subprocess.run([found, *words[1:]], cwd=self.project, env=self.environment, check=True)

    def run(self, paths: Sequence[Path]) -> list[list[str]]:
        """These notebooks, in one JupyterLab."""
        flags = [
            f"--port={self.port}",
            "--ip=127.0.0.1",
            "--no-browser",
            "--ServerApp.port_retries=0",
        ]
        lab = ["jupyter", "lab", *flags, "--allow-root", "--LabApp.news_url="]
        runtime = self.folder / "runtime"
        with (self.folder / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [self.project / "binder" / "start", *lab],
                cwd=self.project,
                env={**self.environment, "JUPYTER_RUNTIME_DIR": str(runtime)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers(server)
            say(f"JupyterLab answers, {held_by(server.pid) / 2**20:.0f} MiB")
            return [self._row(path, server.pid, runtime) for path in paths]
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)

    def _row(self, path: Path, server: int, runtime: Path) -> list[str]:
        peak = self.folder / "peak.txt"
        peak.unlink(missing_ok=True)
        where = {"path": f"notebooks/{path.name}", "name": "", "type": "notebook"}
        self._ask("contents/" + where["path"])  # opened, as the page does
        session = self._ask("sessions", {**where, "kernel": {"name": "python3"}})
        start = time.monotonic()
        with Watch(server) as watch:
            failed = run_cells(runtime / f"kernel-{session['kernel']['id']}.json", path, peak)
        measured = Measured(path.stem, time.monotonic() - start, peak_in(peak))
        self._ask(f"sessions/{session['id']}", method="DELETE")
        result = failed or "passed"
        if measured.peak is None or measured.peak > KERNEL or watch.peak > WHOLE:
            result = failed or "failed: memory"
        say(f"{measured}: {result}")
        kernel = "" if measured.peak is None else f"{measured.peak / 2**20:.0f}"
        return [path.stem, f"{measured.seconds:.0f}", kernel, f"{watch.peak / 2**20:.0f}", result]

    def _ask(self, what: str, body: Any = None, method: str | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{what}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or "null")

    def _wait_until_it_answers(self, server: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 180
        while True:
            try:
                self._ask("status")
                return
            except OSError:
                if server.poll() is not None or time.monotonic() > end:
                    log = (self.folder / "server.log").read_text()[-4000:]
                    raise RuntimeError(f"JupyterLab does not answer:\n{log}") from None
                time.sleep(0.5)


def free_port() -> int:
    """A TCP port on this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_cells(connection: Path, path: Path, peak: Path) -> str:
    """Run a notebook's cells in a kernel that is there; why it failed, or nothing."""
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels(iopub=False, stdin=False, hb=False)
    try:
        code = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
        for number, source in enumerate([*code, PEAK.format(file=str(peak))], start=1):
            asked = client.execute(source, allow_stdin=False)
            answer = client.get_shell_msg(timeout=SECONDS)
            while answer["parent_header"].get("msg_id") != asked:
                answer = client.get_shell_msg(timeout=SECONDS)
            content = answer["content"]
            if content["status"] != "ok":
                return f"failed: cell {number}: {content.get('ename')}: {content.get('evalue')}"
    finally:
        client.stop_channels()
    return ""


def held_by(pid: int) -> int:
    """Bytes that a process and all below it hold; what they share counts for each of them."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


class Watch:
    """Looks at the memory of a tree of processes while the context lasts; ``peak`` in bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.2):
            self.peak = max(self.peak, held_by(self._pid))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


if __name__ == "__main__":
    sys.exit(main())
