"""Runs what tests the widget in environments of other releases of Jupyter's parts.

    python tests/system/environments.py [--keep DIR] [--only NAME ...]

Each environment is made by ``venv``, the project installed into it as a wheel, first without torch:
all that must work without is tested there, torch then lent from the environment of this Python for
the rest. Prints a table in Markdown; exits with 1 where anything failed. Needs what
``pip install -c binder/constraints.txt -e ".[test]"`` installs, and a package index.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]

KERNELS = {"6.31": "ipykernel==6.31.*", "7.3": "ipykernel==7.3.*", "latest": "ipykernel"}
# The oldest of both that we promise to work with, and the newest.
WIDGETS = {
    "7.7.1": ("ipywidgets==7.7.1", "ipycanvas==0.13.2"),
    "8": ("ipywidgets>=8,<9", "ipycanvas<0.15"),
}
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    f"kernel-{kernel}-widgets-{widgets}": (KERNELS[kernel], *WIDGETS[widgets])
    for kernel, widgets in product(KERNELS, WIDGETS)
}
# What Google Colab pins.
ENVIRONMENTS["colab"] = ("ipykernel==6.17.1", "ipython==7.34.0", *WIDGETS["7.7.1"])

NEEDED = ("numpy", "pillow", "traitlets", "anywidget")  # of the project, where nothing is dragged
TOOLS = ("pytest", "pytest-randomly", "pytest-timeout", "hypothesis", "nbclient")
SHOWN = ("ipykernel", "ipywidgets", "ipycanvas", "ipython")

# Tests by the part of the package they hold, see the names in tests/.
WITHOUT_TORCH = ("sketch", "marks", "viewport", "canvas", "runner", "controls", "plots")
WITH_TORCH = ("widget", "recipe", "editing")

# A notebook as a user has it, to be executed by nbclient: no front end answers.
NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient

cells = [
    '''
import numpy as np
from dragwidget.ui.canvas import DragCanvas
canvas = DragCanvas(np.full((60, 80, 3), 128, dtype="uint8"))
canvas
''',
    '''
canvas.add_pair((10, 20), (40, 30))
canvas.stroke([(10, 10), (50, 40)], size=8)
assert canvas.instructions.mask.any() and len(canvas.pairs) == 1
canvas.undo(), canvas.undo()
assert canvas.instructions is None and canvas.last_error == ""
''',
    '''
import sys
from dragwidget.editor import Runner
runner = Runner(on_item=lambda item: None)
runner.start(lambda: iter(range(3)), name="count")
runner.wait(60)
assert runner.state == "idle" and "torch" not in sys.modules
''',
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
shown = notebook.cells[0].outputs[0]["data"]
assert "application/vnd.jupyter.widget-view+json" in shown, shown
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", metavar="DIR", type=Path, help="make them there, and leave them")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=ENVIRONMENTS)
    chosen = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep.absolute() if chosen.keep else Path(temporary)
        for name in chosen.only or ENVIRONMENTS:
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            rows.append(Environment(name, place).row())
            print(f"{name}: {', '.join(rows[-1][1 + len(SHOWN) :])}", flush=True)
    print("\n" + table(rows))
    return int(any("failed" in field for row in rows for field in row))


def table(rows: Sequence[Sequence[str]]) -> str:
    """The results in Markdown, aligned to be read as it is."""
    head = ["environment", *SHOWN, "without torch", "notebook", "with torch"]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f.ljust(w) for f, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


class Environment:
    """One of ENVIRONMENTS, made in a folder; what happens there is kept in its ``log.txt``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "log.txt"
        self.log.write_text("")
        self.venv = folder / "venv"
        self.bin = self.venv / ("Scripts" if os.name == "nt" else "bin")

    def row(self) -> list[str]:
        """Make it and run everything in it: its name, its versions, and how the parts went."""
        if not self.make():
            return [self.name, *["" for _ in SHOWN], "not installed: failed", "", ""]
        row = [self.name, *self.versions(), self.tests(WITHOUT_TORCH), self.notebook()]
        self.lend()
        return [*row, self.tests(WITH_TORCH)]

    def make(self) -> bool:
        venv.create(self.venv, clear=True, with_pip=True)
        pins = self.folder / "constraints.txt"
        text = (ROOT / "binder" / "constraints.txt").read_text()
        # Jupyter's parts are for the environment to say, and for what it says to ask for.
        pins.write_text("\n\n".join(p for p in text.split("\n\n") if "# Jupyter" not in p))
        pip = (self.bin / "python", "-m", "pip", "install", "-q")
        return self.call(
            [*pip, "-c", pins, *ENVIRONMENTS[self.name], *NEEDED, *TOOLS]
        ) and self.call([*pip, "--no-deps", ROOT])

    def versions(self) -> list[str]:
        code = f"import importlib.metadata as m; print(*[m.version(n) for n in {SHOWN}])"
        return self.ask(code).split()

    def tests(self, parts: Sequence[str]) -> str:
        """Run the tests of these parts; how many passed, and how long it took."""
        files = sorted(path for part in parts for path in (ROOT / "tests").glob(f"test_{part}*.py"))
        if not files:
            return "no tests"
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        words = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        if self.name != "kernel-latest-widgets-8":
            words += ["-W", "default"]  # older releases warn of newer ones: not ours to mend
        passed = self.call([self.bin / "pytest", *words, *files])
        if not report.exists():
            return "failed: no report"
        suite = ElementTree.parse(report).getroot()[0].attrib
        bad = int(suite["failures"]) + int(suite["errors"])
        good = int(suite["tests"]) - bad - int(suite["skipped"])
        fields = [f"{good} passed"] + [f"{bad} failed"] * bool(bad or not passed)
        fields += [f"{suite['skipped']} skipped"] * (suite["skipped"] != "0")
        return f"{', '.join(fields)}, {float(suite['time']):.0f} s"

    def notebook(self) -> str:
        """Execute a notebook by nbclient in this environment's kernel."""
        start = time.monotonic()
        passed = self.call([self.bin / "python", "-W", "ignore", "-c", NOTEBOOK])
        return f"{'passed' if passed else 'failed'}, {time.monotonic() - start:.0f} s"

    def lend(self) -> None:
        """Let it find what it has not, torch above all, where this Python has it.

        Last in the path: what the environment has of its own comes first.
        """
        (lender,) = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        own = self.ask("import sysconfig; print(sysconfig.get_path('purelib'))")
        (Path(own.strip()) / "lent.pth").write_text(lender)

    def ask(self, code: str) -> str:
        """What its Python prints."""
        words = [str(self.bin / "python"), "-c", code]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def call(self, words: Sequence[str | Path]) -> bool:
        """Run a command at the project's root; whether it went well. Its end is shown if not."""
        # The folder of tests is all that is to be found beside what is installed.
        gone = ("PYTHONPATH", "PYTHONWARNINGS", "JUPYTER_PATH")
        environment = {key: text for key, text in os.environ.items() if key not in gone}
        for kind in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
            environment[f"JUPYTER_{kind}"] = str(self.folder / "jupyter" / kind.lower())
        environment |= {
            "IPYTHONDIR": str(self.folder / "ipython"),
            "PATH": f"{self.bin}{os.pathsep}{environment['PATH']}",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        run = subprocess.run(
            words,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(map(str, words))}\n{run.stdout}\n")
        if run.returncode:
            print(f"--- {self.name}\n{run.stdout[-4000:]}", file=sys.stderr, flush=True)
        return run.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
