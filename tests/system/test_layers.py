"""Imports run one way, files stay short, and a light import stays light."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dragwidget

ROOT = Path(__file__).parents[2]
PACKAGE = Path(dragwidget.__file__).parent

# What each part of the package may import from the others. Lowest first.
DATA = {
    "quoting",
    "frames",
    "instructions_json",
    "instructions",
    "dragbench",
    "image",
    "settings",
}
SESSION = DATA | {
    "drag", "diffusion",
    "stages", "history", "source", "dragging", "rendering", "store", "storing", "making",
    "estimating", "session", "files", "spilling", "tensorfile", "archive", "journal",
}  # fmt: skip
STANDS_ON = {
    "quoting": set(),
    "frames": set(),
    "instructions_json": {"frames", "quoting"},
    "instructions": {"frames", "instructions_json", "quoting"},
    "dragbench": {"frames", "instructions"},
    "image": {"frames"},
    "settings": {"quoting"},
    "drag": DATA,
    "diffusion": DATA | {"drag"},
    "stages": DATA,
    "history": DATA | {"drag", "spilling"},
    "source": DATA | {"drag", "diffusion", "stages"},
    "dragging": DATA | {"drag", "diffusion", "stages", "history", "source"} | {"store", "storing"},
    "rendering": DATA | {"drag", "diffusion", "stages", "source"},
    "files": set(),
    "store": {"files", "tensorfile"},
    "spilling": {"files", "store"},
    "storing": DATA | {"drag", "diffusion", "source", "store"},
    "making": DATA
    | {"drag", "diffusion", "stages", "history", "source", "dragging", "rendering"}
    | {"store", "storing"},
    "estimating": DATA | {"drag", "diffusion", "stages", "source"},
    "session": SESSION,
    "tensorfile": set(),
    "archive": SESSION,
    "journal": SESSION,
    "demo": SESSION,
    "bench": SESSION | {"demo", "bench.networks"},
    "bench.networks": SESSION | {"bench"},
    "bench.soak_command": SESSION | {"bench", "demo", "ui.widget"},  # which it wears out, too
    "bench.widget_command": SESSION | {"bench", "demo", "ui.canvas", "ui.widget"},
    "ui": set(),
    "ui.styles": set(),
    "ui.tooltips": set(),
    "ui.still": set(),
    "ui.drawing": {"frames"},
    "ui.canvas": DATA | {"ui.drawing", "ui.still", "ui.tooltips"},  # drawing loads no torch
    "ui.controls": DATA | {"ui.styles", "ui.tooltips"},
    "ui.plots": {"ui.styles"},
    "ui.runner": {"stages", "ui.drawing"},
    "ui.widget": SESSION
    | {"ui.canvas", "ui.controls", "ui.plots", "ui.runner", "ui.styles", "ui.still", "ui.tooltips"},
    "bars": {"stages"},
    "cli": SESSION | {"bars", "demo", "bench"},
    "__main__": {"cli", "demo", "bench"},  # by name, when they are called
    "__init__": SESSION | {"ui.canvas", "ui.widget"},  # lazily; what is loaded when is tested below
}

# The whole of what these parts may import from outside the standard library.
ONLY = {
    "quoting": set(),
    "frames": {"numpy"},
    "instructions_json": {"numpy"},
    "instructions": {"numpy"},
    "dragbench": {"numpy"},
    "image": {"numpy", "PIL"},
    "settings": set(),
    "drag": {"torch", "numpy"},  # numpy for what leaves it: points are plain data
    "__init__": set(),
}
MODELS = {"diffusers", "transformers", "peft"}
JUPYTER = {
    "IPython", "comm", "ipycanvas", "ipykernel", "ipywidgets", "jupyter_client", "jupyter_core",
    "jupyterlab", "nbformat", "notebook", "traitlets",
}  # fmt: skip
MAX_LINES = 400


def part_of(module: str) -> str:
    """The entry of ``STANDS_ON`` that rules a module, both named from inside the package."""
    parts = module.split(".")
    room = ".".join(parts[:2])
    return room if room in STANDS_ON else parts[0]


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, at any depth of the code."""
    package = ["dragwidget", *module.split(".")][:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                parents = package[: len(package) + 1 - level] if level else []
                base = ".".join([*parents, *([base] if base else [])])
                # ``from a import b`` may import the module ``a.b``
                inside = base.partition(".")[0] == "dragwidget"
                yield from ((node.lineno, f"{base}.{a.name}" if inside else base) for a in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def breaches(source: str, module: str) -> list[str]:
    """What a module imports against the layers; ``module`` is named from inside the package."""
    part = part_of(module)
    if part not in STANDS_ON:
        return [f"{module}: in no layer; name it in STANDS_ON"]
    found = []
    for line, name in imports(source, module):
        first, _, inside = name.partition(".")
        if first == "dragwidget":
            target = part_of(inside)
            allowed = target == part or target in STANDS_ON[part] or inside == "__version__"
        elif first in sys.stdlib_module_names:
            allowed = True
        else:
            allowed = (
                first in ONLY.get(part, {first})
                and (first not in MODELS or part in ("diffusion", "demo", "bench.networks"))
                and (first not in JUPYTER or part.startswith("ui"))
                and (first != "torch" or not part.startswith("ui"))
            )
        if not allowed:
            found.append(f"{module}, line {line}: must not import {name}")
    return found


def module_name(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def too_long(files: list[Path]) -> list[str]:
    return [file.name for file in files if len(file.read_text().splitlines()) > MAX_LINES]


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_from_its_own_layer_and_below(path):
    assert breaches(path.read_text(), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("instructions", "import torch"),
        ("instructions", "import PIL.Image"),
        ("instructions", "from dragwidget.data.settings import DragSettings"),
        ("settings", "import numpy as np"),
        ("image", "from dragwidget import session"),
        ("drag.loop", "def f():\n    if True:\n        import diffusers"),
        ("drag.loop", "from ..diffusion import model"),
        ("drag.loop", "from ..diffusion.model import load_model"),
        ("drag.loop", "from .. import diffusion"),
        ("drag", "import dragwidget.session.session"),
        ("diffusion.model", "from dragwidget.session.session import DragSession"),
        ("diffusion.model", "class A:\n    def f(self):\n        from IPython import display"),
        ("session", "from transformers import CLIPTextModel"),
        ("session", "import ipywidgets as widgets"),
        ("session", "from dragwidget.ui.canvas import DragCanvas"),
        ("session", "from dragwidget import DragCanvas"),
        ("session", "import importlib\nimportlib.import_module('ipycanvas')"),
        ("session", "try:\n    import traitlets\nexcept ImportError:\n    pass"),
        ("demo.scenes", "from dragwidget.ui import widget"),
        ("bench.sweep", "from dragwidget.ui import widget"),
        ("bench.speed", "from diffusers import AutoencoderKL"),
        ("ui.canvas", "async def f():\n    import torch"),
        ("ui.canvas", "from dragwidget.session.session import DragSession"),
        ("ui.canvas.sketch", "from dragwidget.ui import widget"),
        ("ui.runner.runner", "from dragwidget.session.session import DragSession"),
        ("ui.widget.view", "import torch"),
        ("ui.controls", "from dragwidget.drag import loop"),
        ("ui.widget", "import peft"),
        ("cli.edit", "import ipywidgets"),
        ("__main__", "from dragwidget.session.session import DragSession"),
        ("__init__", "import torch"),
        ("drawer", "x = 1"),
    ],
)
def test_a_breach_is_found(module, source):
    assert len(breaches(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "instructions",
            "import json\nimport numpy.typing as npt\nfrom dragwidget.data.frames import XY",
        ),
        ("drag.loop", "from dragwidget.data.settings import DragSettings\nfrom . import tracking"),
        (
            "diffusion.lora",
            "import peft\nfrom dragwidget.drag import ddim\nfrom .model import Model",
        ),
        ("session", "from dragwidget import __version__\nfrom dragwidget.diffusion import model"),
        ("demo.train", "from diffusers import DDIMScheduler"),
        ("bench.networks", "from diffusers import AutoencoderKL"),
        (
            "ui.canvas",
            "import ipycanvas\nfrom dragwidget.data.instructions import DragInstructions",
        ),
        (
            "ui.widget.view",
            "from dragwidget.session.session import DragSession\nfrom ..canvas import DragCanvas",
        ),
        (
            "cli.edit",
            "from dragwidget.session.session import DragSession\nfrom dragwidget.cli.bars import Bars",
        ),
    ],
)
def test_an_import_from_below_is_no_breach(module, source):
    assert breaches(source, module) == []


def test_every_file_can_be_read_in_one_sitting():
    assert too_long([*SOURCES, *Path(__file__).parents[1].rglob("*.py")]) == []


def test_a_file_that_is_too_long_is_found(tmp_path):
    (tmp_path / "long.py").write_text("\n" * (MAX_LINES + 1))
    (tmp_path / "short.py").write_text("\n" * MAX_LINES)
    assert too_long([tmp_path / "long.py", tmp_path / "short.py"]) == ["long.py"]


# ---------------------------------------------------------------- what an import loads


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def loaded_by(statement: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has loaded after the statement."""
    names = json.loads(python(f"{statement}\nimport json, sys\nprint(json.dumps([*sys.modules]))"))
    return {name.partition(".")[0] for name in names}


def test_what_was_loaded_can_be_seen():
    assert "wave" in loaded_by("import wave") - loaded_by("pass")


def test_importing_the_package_loads_no_torch_and_no_jupyter():
    heavy = {"torch", "numpy", "PIL"} | MODELS | JUPYTER
    assert not loaded_by("import dragwidget") & heavy


def test_drawing_and_tuning_load_no_torch():
    assert not loaded_by("from dragwidget import DragInstructions, DragSettings") & (
        {"torch", "PIL"} | MODELS | JUPYTER
    )


def test_the_session_loads_no_widgets():
    assert not loaded_by("from dragwidget import DragSession") & {"ipywidgets", "ipycanvas"}


def test_importing_the_package_is_quick():
    code = (
        "from time import perf_counter\nstart = perf_counter()\nimport dragwidget\n"
        "print(perf_counter() - start)"
    )
    assert min(float(python(code)) for _ in range(5)) < 0.2  # seconds; the best of several runs


# ---------------------------------------------------------------- the public names


@pytest.mark.parametrize("name", dragwidget.__all__)
def test_a_public_name_can_be_used(name):
    assert getattr(dragwidget, name) is not None
    assert name in dir(dragwidget)


def test_the_public_names_are_those_that_are_loaded_lazily():
    assert set(dragwidget.__all__) == {*dragwidget._MODULE_OF, "__version__"}
    assert dragwidget.__all__ == sorted(dragwidget.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dragwidget' has no attribute 'Drag'"):
        _ = dragwidget.Drag


def test_the_version_is_the_one_that_is_packaged():
    packaged = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert packaged
    assert packaged[1] == dragwidget.__version__
