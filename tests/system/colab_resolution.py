"""Proves that installing dragwidget on Google Colab changes nothing that Colab brings.

    python tests/system/colab_resolution.py [--python python3.13] [--constraints FILE]

Two environments without a single byte of torch, and pip's own resolver:

1. *As it stands*: every release of ``colab_constraints.txt`` is there, by name and version. What
   would ``pip install`` of dragwidget install?
2. *As it was released*: only torch and numpy are there, by name. Can dragwidget, diffusers, peft
   and all they ask for be had in exactly these releases, by what each release says itself?

Prints a table; exits with 1 where a release of Colab's would be changed. Needs a package index and
a Python of Colab's version.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONSTRAINTS = Path(__file__).with_name("colab_constraints.txt")
# Taken as there: gigabytes, and what they ask for as well; and numpy, of which the release that was
# reported last, still with Python 3.12, was never built for 3.13.
BY_NAME = ("torch", "triton", "numpy")
PARTS = ("diffusers", "peft", "transformers", "ipywidgets", "ipykernel", "ipython")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default="python3.13", help="the Python to resolve for")
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS, metavar="FILE")
    chosen = parser.parse_args(arguments)
    pins = read_pins(chosen.constraints)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = build(folder)
        standing = resolve(chosen.python, folder / "standing", pins, [wheel])
        stubs = {name: pins[name] for name in BY_NAME if name in pins}
        words = [wheel, *(f"{name}=={pins[name]}" for name in PARTS), "-c", chosen.constraints]
        released = resolve(chosen.python, folder / "released", stubs, words)
        asked = requirements_of(wheel)
    changed = sorted(set(standing) & set(pins))
    moved = sorted(n for n, v in released.items() if n in pins and v != pins[n])
    sys.stdout.write(table(pins, asked, standing, released) + "\n\n")
    new = [f"{name} {version}" for name, version in sorted(standing.items())]
    sys.stdout.write(f"installing dragwidget would install: {', '.join(new)}\n")
    sys.stdout.write(f"of Colab's {len(pins)} releases it would change: {changed or 'none'}\n")
    known = len(set(released) & set(pins))
    sys.stdout.write(f"by their own words {known} of them go together; moved: {moved or 'none'}\n")
    more = len(set(released) - set(pins) - set(standing))
    sys.stdout.write(f"{more} more belong to them, and are not listed: the notebook server\n")
    return int(bool(changed or moved))


def read_pins(path: Path) -> dict[str, str]:
    """Version by normalised name."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    pins = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pins}


def build(folder: Path) -> Path:
    """The wheel that an index would offer."""
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT]
    subprocess.run(words, check=True)
    return next(folder.glob("dragwidget-*.whl"))


def requirements_of(wheel: Path) -> dict[str, Requirement]:
    """What the wheel asks for, by normalised name."""
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    found = (Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", text, re.M))
    return {canonicalize_name(r.name): r for r in found if r.marker is None}


def resolve(
    python: str, folder: Path, there: Mapping[str, str], words: list[Any]
) -> dict[str, str]:
    """What pip would install in a fresh environment where the releases ``there`` are already."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    own = [
        folder / "bin" / "python",
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'))",
    ]
    site = Path(subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip())
    for name, version in there.items():
        stub = site / f"{name.replace('-', '_')}-{version}.dist-info"
        stub.mkdir()
        (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (stub / "RECORD").write_text("")
    report = folder / "report.json"
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--dry-run"]
    pip += ["--only-binary=:all:"]  # a release that must be compiled is none that Colab has
    subprocess.run([*pip, "--report", report, *words], check=True)
    entries = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    found = {canonicalize_name(entry["name"]): entry["version"] for entry in entries}
    found.pop("dragwidget", None)
    return found


def table(
    pins: Mapping[str, str],
    asked: Mapping[str, Requirement],
    standing: Mapping[str, str],
    released: Mapping[str, str],
) -> str:
    """Markdown: what dragwidget asks for by name, and the kernel that it runs in."""
    head = ["package", "Colab has", "dragwidget asks for", "after installing", "its own words"]
    rows = []
    for name in [*asked, *(n for n in PARTS if n not in asked)]:
        wanted = str(asked[name].specifier or "any") if name in asked else ""
        after = standing.get(name, pins.get(name, ""))
        mark = "new" if name not in pins else "as it was" if after == pins[name] else "CHANGED"
        own = "not asked" if name in BY_NAME else released.get(name, "")
        rows.append([name, pins.get(name, "-"), wanted, f"{after} ({mark})", own])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f.ljust(w) for f, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
