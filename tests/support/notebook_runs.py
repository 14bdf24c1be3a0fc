"""Runs notebooks from the first cell to the last, and measures what that takes.

    python tests/support/notebook_runs.py [--write] [--cells] [--cwd DIR] [NOTEBOOK ...]

Prints time and peak memory of each kernel; by default of all notebooks; with ``--cells`` also the
time of each cell that takes a second or more. With ``--write`` the
notebooks are kept as they were run, without what a reader has no use for. Nothing is answered by a
page, and what the cells write lies in a folder of its own, or in DIR.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[2] / "notebooks"
VIEW = "application/vnd.jupyter.widget-view+json"
LARGE = 60_000  # characters of an image's base64, from which on fewer colours will do

# As a last cell: what the kernel has held at its peak, in bytes, where the system tells.
PEAK = """
import re
from pathlib import Path
status = Path("/proc/self/status")
found = re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text()) if status.exists() else None
Path({file!r}).write_text(str(int(found[1]) * 1024) if found else "")
"""


@dataclass(frozen=True)
class Measured:
    """What one run took. ``peak`` is of the kernel, bytes; ``None`` where the system hides it."""

    name: str
    seconds: float
    peak: int | None

    def __str__(self) -> str:
        peak = "" if self.peak is None else f", peak {self.peak / 2**20:.0f} MiB"
        return f"{self.name}: {self.seconds:.0f} s{peak}"


def notebooks() -> list[Path]:
    """All of them, in the order in which they are to be read."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    """The notebook in a file."""
    return nbformat.read(path, as_version=4)


def sections(notebook: Any) -> dict[str, Any]:
    """Each section that has code, by its heading, as a notebook of its own.

    A section begins with a cell whose first line is ``## heading``; what stands before the first
    belongs to each.
    """
    setup: list[Any] = []
    found: dict[str, list[Any]] = {}
    cells = setup
    for cell in notebook.cells:
        if heading := cell.cell_type == "markdown" and re.match("## (.+)", cell.source):
            cells = found[heading[1]] = []
        cells.append(cell)
    return {
        heading: nbformat.from_dict({**notebook, "cells": deepcopy([*setup, *cells])})
        for heading, cells in found.items()
        if any(cell.cell_type == "code" for cell in cells)
    }


def held_texts(notebook: Any) -> list[str]:
    """What each cell prints whose output nbval compares, in order."""
    return [
        "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if "nbval-check-output" in cell.metadata.get("tags", ())
    ]


def with_probe(notebook: Any, file: Path) -> Any:
    """The same with one more cell at its end, which writes the kernel's peak to ``file``."""
    probe = nbformat.v4.new_code_cell(PEAK.format(file=str(file)), id="peak")
    probe.execution_count = len([c for c in notebook.cells if c.cell_type == "code"]) + 1
    return nbformat.from_dict({**notebook, "cells": [*notebook.cells, probe]})


def peak_in(file: Path) -> int | None:
    """What the probe wrote."""
    text = file.read_text() if file.exists() else ""
    return int(text) if text else None


def run(path: Path, cwd: Path) -> tuple[Any, Measured]:
    """Execute a notebook's file in a fresh kernel; raise what a cell raises."""
    return execute(read(path), cwd, path.stem)


def execute(notebook: Any, cwd: Path, name: str) -> tuple[Any, Measured]:
    """Execute a notebook in a fresh kernel; raise what a cell raises. The given one stays."""
    file = cwd / "peak.txt"
    notebook = with_probe(notebook, file)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(cwd)}},
    )
    start = time.monotonic()
    client.execute()
    seconds = time.monotonic() - start
    del notebook.cells[-1]
    peak = peak_in(file)
    file.unlink()
    return notebook, Measured(name, seconds, peak)


def slow_cells(notebook: Any) -> list[str]:
    """One line for each cell of an executed notebook that took a second or more."""
    lines = []
    for number, cell in enumerate(notebook.cells):
        times = cell.metadata.get("execution", {})
        start, end = (times.get(f"iopub.{name}") for name in ("execute_input", "status.idle"))
        if start and end:
            first, last = (datetime.fromisoformat(at.replace("Z", "+00:00")) for at in (start, end))
            taken = (last - first).total_seconds()
            if taken >= 1:
                lines.append(f"  cell {number}, {taken:.0f} s: {cell.source.splitlines()[0]}")
    return lines


def tidy(notebook: Any) -> Any:
    """A notebook as it is kept: what reads well without a kernel, and nothing of this machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            # No page finds its model again; a still image stands for it, if there is one.
            if data.pop(VIEW, None) is not None and "image/png" not in data:
                data.clear()
            if len(data.get("image/png", "")) > LARGE:
                data["image/png"] = _fewer_colours(data["image/png"])
            if "image/png" in data or "image/jpeg" in data:
                data["text/plain"] = re.sub(r" at 0x[0-9A-Fa-f]+", "", data.get("text/plain", ""))
        cell.outputs = [output for output in cell.outputs if output.get("data", True)]
    return notebook


def _fewer_colours(png: str) -> str:
    """A PNG of 256 colours, where that is smaller; base64 both."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    smaller = base64.b64encode(file.getvalue()).decode()
    return min(smaller, png, key=len)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="NOTEBOOK", nargs="*", help="file, or start of its name")
    parser.add_argument("--write", action="store_true", help="keep them as they were run")
    parser.add_argument("--cells", action="store_true", help="the time of each slow cell, too")
    parser.add_argument("--cwd", metavar="DIR", type=Path, help="where they run")
    chosen = parser.parse_args(arguments)
    # No cell needs a network, and none is to be told of tools that an editor would use.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    names = [Path(name).name for name in chosen.names]
    for path in notebooks():
        if names and not any(path.name.startswith(name) for name in names):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            notebook, measured = run(path, chosen.cwd or Path(temporary))
        if chosen.cells:
            sys.stdout.write("\n".join([*slow_cells(notebook), ""]))
        if chosen.write:
            nbformat.write(tidy(notebook), path)
        sys.stdout.write(f"{measured}, file {path.stat().st_size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
