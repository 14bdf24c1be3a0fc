"""The canvas is built of parts: imports run one way, and no part declares the state of another."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from dragwidget.ui import canvas

FOLDER = Path(canvas.__file__).parent
PREFIX = "dragwidget.ui.canvas"


def modules():
    """Path by dotted name."""
    names = {}
    for path in FOLDER.rglob("*.py"):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        names[".".join([PREFIX, *(part for part in parts if part != "__init__")])] = path
    return names


def imports(source, known):
    """Modules of the canvas that a source imports, anywhere in it, TYPE_CHECKING included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= deeper & known or {node.module} & known
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
    return found


def graph(sources):
    return {name: imports(source, set(sources)) - {name} for name, source in sources.items()}


def test_no_module_of_the_canvas_imports_one_that_imports_it():
    sources = {name: path.read_text() for name, path in modules().items()}
    order = list(TopologicalSorter(graph(sources)).static_order())
    assert order.index(f"{PREFIX}.sketch") < order.index(f"{PREFIX}.drag_canvas")


def test_a_circle_is_found_though_it_is_for_types_only():
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {} import b as c"
    sources = {f"{PREFIX}.a": hidden.format(PREFIX), f"{PREFIX}.b": f"import {PREFIX}.a"}
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph(sources)).static_order())


def test_no_class_of_the_canvas_declares_what_another_one_holds():
    """A bare annotation in a class's body is a promise that somebody else keeps."""
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            is_record = any("dataclass" in ast.unparse(one) for one in node.decorator_list)
            is_protocol = any(ast.unparse(base).endswith("Protocol") for base in node.bases)
            if not is_record and not is_protocol:
                bare = [n for n in node.body if isinstance(n, ast.AnnAssign) and n.value is None]
                assert bare == [], f"{name}.{node.name}: {[ast.unparse(one) for one in bare]}"
