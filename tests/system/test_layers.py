"""Imports run one way, files stay short, and a light import stays light."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import PACKAGE, graph, imports, module_name, reached

import dragwidget

ROOT = Path(__file__).parents[2]

# What each package may import from the others, lowest first. A package imports itself freely, as
# long as its modules form no circle.
DATA = {"data", "storage", "progress"}
SESSION = DATA | {"drag", "diffusion", "session"}
STANDS_ON: dict[str, set[str]] = {
    "data": set(),
    "storage": {"data"},
    "progress": set(),
    "drag": DATA,
    "diffusion": DATA | {"drag"},
    "session": SESSION,
    "editor": SESSION,
    "demo": SESSION,
    "bench": SESSION | {"demo"},
    "bench.dev": SESSION | {"demo", "bench", "editor", "ui.canvas", "ui.widget"},  # it times those
    "ui": set(),
    "ui.styles": set(),
    "ui.tooltips": set(),
    "ui.still": set(),
    "ui.drawing": {"data", "ui.closing"},
    "ui.closing": set(),
    "ui.canvas": DATA
    | {"ui.closing", "ui.drawing", "ui.still", "ui.tooltips"},  # drawing loads no torch
    "ui.controls": DATA | {"ui.styles", "ui.tooltips"},
    "ui.plots": {"ui.styles"},
    "ui.widget": SESSION
    | {"editor", "ui.canvas", "ui.controls", "ui.drawing", "ui.plots", "ui.styles", "ui.still"}
    | {"ui.closing", "ui.tooltips", "demo"},  # the samples to try
    "cli": SESSION | {"demo", "bench"},
    "__main__": {"data", "cli", "demo", "bench"},  # the last three by name, when they are called
    "__init__": SESSION | {"ui.canvas", "ui.widget"},  # lazily; what is loaded when is tested below
}

# The whole of what these parts may import from outside the standard library.
ONLY = {
    "data": {"numpy", "PIL"},
    "storage": {"numpy", "PIL", "platformdirs", "safetensors", "torch"},
    "progress": set(),
    "drag": {"torch", "numpy"},  # numpy for what leaves it: points are plain data
    "__init__": set(),
}
MODELS = {"diffusers", "transformers", "peft"}
JUPYTER = {
    "IPython", "anywidget", "comm", "ipycanvas", "ipykernel", "ipywidgets", "jupyter_client",
    "jupyter_core", "jupyterlab", "nbformat", "notebook", "traitlets",
}  # fmt: skip
MAX_LINES = 500  # a file has one subject; one that is longer has two


def part_of(module: str) -> str:
    """The entry of ``STANDS_ON`` that rules a module, both named from inside the package."""
    parts = module.split(".")
    room = ".".join(parts[:2])
    return room if room in STANDS_ON else parts[0]


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
                and (first not in MODELS or part in ("diffusion", "demo", "bench.dev"))
                and (first not in JUPYTER or part.startswith("ui"))
                and (first != "torch" or not part.startswith(("ui", "editor")))
            )
        if not allowed:
            found.append(f"{module}, line {line}: must not import {name}")
    return found


def too_long(files: list[Path]) -> list[str]:
    return [file.name for file in files if len(file.read_text().splitlines()) > MAX_LINES]


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_from_its_own_layer_and_below(path):
    assert breaches(path.read_text(), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data.instructions", "import torch"),
        ("data.settings", "from dragwidget.storage import cache"),
        ("data.image", "from dragwidget.session import session"),
        ("progress", "import numpy"),
        ("storage.cache", "from dragwidget.session.session import DragSession"),
        ("drag.loop", "def f():\n    if True:\n        import diffusers"),
        ("drag.loop", "from ..diffusion import sd"),
        ("drag.loop", "from ..diffusion.loading import load_model"),
        ("drag.loop", "from .. import diffusion"),
        ("drag", "import dragwidget.session"),
        ("diffusion.sd", "from dragwidget.session.session import DragSession"),
        ("diffusion.sd", "class A:\n    def f(self):\n        from IPython import display"),
        ("session.session", "from transformers import CLIPTextModel"),
        ("session.session", "import ipywidgets as widgets"),
        ("session.session", "from dragwidget.ui.canvas import DragCanvas"),
        ("session.session", "from dragwidget.editor.runner import Runner"),
        ("session.session", "from dragwidget import DragCanvas"),
        ("session.session", "import importlib\nimportlib.import_module('ipycanvas')"),
        ("session.session", "try:\n    import traitlets\nexcept ImportError:\n    pass"),
        ("editor.runner", "from dragwidget.ui.widget.ticks import PlayClock"),
        ("editor.runner", "import ipywidgets"),
        ("editor.export", "import torch"),
        ("demo.scenes", "from dragwidget.ui import widget"),
        ("bench.scenes", "from dragwidget.ui import widget"),
        ("bench.scenes", "from dragwidget.bench.dev import speed"),
        ("bench.scenes", "from diffusers import AutoencoderKL"),
        ("ui.canvas", "async def f():\n    import torch"),
        ("ui.canvas", "from dragwidget.session.session import DragSession"),
        ("ui.canvas.sketch", "from dragwidget.ui import widget"),
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
            "data.instructions",
            "import json\nimport numpy.typing as npt\nfrom dragwidget.data.frames import XY",
        ),
        ("drag.loop", "from dragwidget.data.settings import DragSettings\nfrom . import tracking"),
        (
            "diffusion.lora",
            "import peft\nfrom dragwidget.drag import noise_path\nfrom .model import Model",
        ),
        (
            "session.session",
            "from dragwidget import __version__\nfrom dragwidget.diffusion import sd",
        ),
        ("demo.train", "from diffusers import DDIMScheduler"),
        ("bench.dev.networks", "from diffusers import AutoencoderKL"),
        ("ui.canvas", "import ipycanvas\nfrom dragwidget.data.instructions import PointPair"),
        (
            "ui.widget.view",
            "from dragwidget.session.session import DragSession\nfrom ..canvas import DragCanvas",
        ),
        (
            "cli.edit",
            "from dragwidget.session.session import DragSession\nfrom dragwidget.cli import bars",
        ),
    ],
)
def test_an_import_from_below_is_no_breach(module, source):
    assert breaches(source, module) == []


# ---------------------------------------------------------------- words of a foreign network

# What only ``diffusion`` and the noise path may say: how one family of networks is built.
FOREIGN = re.compile(
    r"alphas_cumprod|mid_block|attn1|(?:up|down)_blocks|encoder_hidden_states|cross_attention_dim"
)
SAYS_THEM = {
    "diffusion": "it adapts foreign networks",
    "drag.noise_path": "it knows the noise levels of DDPM",
    "bench.dev.baseline": "the plain baseline, which must share nothing with what it is held to",
    "bench.dev.networks": "it builds networks of Stable Diffusion's shape",
    "demo.training": "it builds and trains a network",
}


def foreign_words(source: str, module: str) -> list[str]:
    """The words of a foreign network in a module, comments included."""
    if any(module == allowed or module.startswith(f"{allowed}.") for allowed in SAYS_THEM):
        return []
    return FOREIGN.findall(source)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_backbones_say_how_a_network_is_built(path):
    assert foreign_words(path.read_text(), module_name(path)) == []


def test_a_foreign_word_is_found():
    source = "a = model.unet.mid_block  # and its attn1\nmodel.alphas_cumprod"
    found = ["mid_block", "attn1", "alphas_cumprod"]
    assert foreign_words(source, "session.edit") == found
    assert foreign_words(source, "bench.scenes") == found
    assert foreign_words(source, "drag.loop") == found
    assert foreign_words(source, "diffusion.sd") == foreign_words(source, "drag.noise_path") == []


def test_every_module_that_may_say_them_does():
    for allowed in SAYS_THEM:
        sources = [p for p in SOURCES if f"{module_name(p)}.".startswith(f"{allowed}.")]
        assert any(FOREIGN.search(path.read_text()) for path in sources), allowed


# ---------------------------------------------------------------- circles


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that import each other, directly or through others."""
    far, found = reached(edges), []
    for module in edges:
        circle = {other for other in far[module] if module in far[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_no_module_imports_itself_through_others():
    assert circles(graph({module_name(path): path.read_text() for path in SOURCES})) == []


def test_a_circle_is_found():
    sources = {
        "a.b": "def f():\n    from dragwidget.a.c import g",
        "a.c": "if TYPE_CHECKING:\n    from dragwidget.a import d",
        "a.d": "from dragwidget.a.b import f",
        "a.e": "from dragwidget.a.d import f",
    }
    assert circles(graph(sources)) == [{"a.b", "a.c", "a.d"}]


def test_the_drawing_of_the_imports_is_up_to_date():
    script = ROOT / "docs/images/import_graph.py"
    drawn = subprocess.run(
        [sys.executable, script, "-"], capture_output=True, text=True, check=True
    )
    assert drawn.stdout == script.with_suffix(".svg").read_text()


def test_the_top_level_has_four_modules_at_most():
    assert len(list(PACKAGE.glob("*.py"))) <= 4


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


def test_the_version_stands_in_one_place():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert 'path = "dragwidget/__init__.py"' in project
    assert not re.search(r"^version = ", project, re.M)


def test_the_citation_names_this_version():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited
    assert cited[1] == dragwidget.__version__
