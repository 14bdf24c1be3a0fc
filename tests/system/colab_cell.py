"""Runs a tutorial's first cell as on Google Colab: in a folder that is no clone, from an address.

    python tests/system/colab_cell.py [--python PYTHON]

PYTHON is that of an environment with Colab's releases and IPython, and without dragwidget. A copy
of the project has its own folder as the repository's address, and its links are written from that.
The cell is run by IPython in an empty folder; then an image is drawn and edited there. Exits with 1
where that fails, or where the cell has changed a release that was installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".venv", ".git", "build", ".*_cache", "__pycache__")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="of an environment like Colab's")
    python = parser.parse_args(arguments).python
    with tempfile.TemporaryDirectory() as temporary:
        clone, empty = Path(temporary, "clone"), Path(temporary, "content")
        empty.mkdir()
        cell = first_cell(clone)
        before = releases(python)
        if "dragwidget" in before:
            raise SystemExit(f"dragwidget is installed for {python}: name another environment")
        run([python, "-m", "IPython", "--colors=NoColor", "-c", cell], empty)
        after = releases(python)
        run([python, "-m", "dragwidget", "demo", "image", "fox.png", "--task", "mouth"], empty)
        run([python, "-m", "dragwidget", "edit", "fox.png", "--instructions", "fox.json"], empty)
    new = {name: version for name, version in after.items() if name not in before}
    changed = {name: after.get(name) for name in before if after.get(name) != before[name]}
    sys.stdout.write(f"installed: {new}\nchanged: {changed or 'none'}\n")
    return int(bool(changed))


def first_cell(clone: Path) -> str:
    """Copy the project and write its links; return what installs it in the first tutorial."""
    shutil.copytree(ROOT, clone, ignore=LEFT_OUT)
    settings = clone / "pyproject.toml"
    head, section, rest = settings.read_text(encoding="utf-8").partition("\n[project.urls]\n")
    if not section:
        raise SystemExit("pyproject.toml has no [project.urls]")
    settings.write_text(f'{head}{section}Repository = "{clone.as_uri()}"\n{rest}', encoding="utf-8")
    run([sys.executable, clone / ".ci" / "links.py"], clone)
    cells = json.loads((clone / "notebooks" / "01_quickstart.ipynb").read_text(encoding="utf-8"))
    return "".join(next(c["source"] for c in cells["cells"] if c["cell_type"] == "code"))


def releases(python: str) -> dict[str, str]:
    """Return what is installed for a Python, by name."""
    found = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    return {row["name"]: row["version"] for row in json.loads(found.stdout)}


def run(words: Sequence[str | Path], folder: Path) -> None:
    """Run a command, and show what it prints."""
    subprocess.run(words, cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main())
