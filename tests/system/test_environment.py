"""The environment that README's second command makes has all that the tests import.

And what a test asserts does not depend on how busy the machine is.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="Python reads TOML since 3.11")

ROOT = Path(__file__).parents[2]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OURS = {path.stem for path in TESTS} | {"browser", "dragwidget"}
# As this checkout says, whatever was installed; the requirements of an extra carry its marker.
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = [
    *PROJECT["dependencies"],
    *(
        f"{need}; extra == '{extra}'"
        for extra, needs in PROJECT["optional-dependencies"].items()
        for need in needs
    ),
]
# Which extras the tests of a folder may count on; README's second command installs ``test``.
EXTRAS = {"browser": {"test", "browser"}}
# Scripts that are run by hand and say what they need.
BY_THEMSELVES = {"binder_proof.py": {"test", "browser"}}


def imported(source: str) -> set[str]:
    """Top-level names of everything that a file imports, at any depth of the code."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OURS


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def owned_by(name: str) -> set[str]:
    """The distributions that a top-level name belongs to; its namesake where none is installed."""
    return set(map(canonical, installed().get(name, [name])))


@cache
def brought(extras: frozenset[str]) -> set[str]:
    """Distributions that ``pip install .[extras]`` installs, theirs included."""
    found = set()
    waiting = [("dragwidget", extras)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        try:
            needs = OWN if name == "dragwidget" else requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        for need in map(Requirement, needs):
            environments = [{"extra": extra} for extra in ("", *wanted)]
            if need.marker is None or any(map(need.marker.evaluate, environments)):
                waiting.append((canonical(need.name), frozenset(need.extras)))
    return {name for name, _ in found}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_test_imports_is_brought_by_its_environment(path):
    folder = path.relative_to(ROOT / "tests").parts[0]
    extras = BY_THEMSELVES.get(path.name) or EXTRAS.get(folder, {"test"})
    there = brought(frozenset(extras))
    missing = {name for name in imported(path.read_text()) if not owned_by(name) & there}
    assert missing == set(), f"add them to the extras {sorted(extras)} in pyproject.toml"


def test_the_lowest_releases_that_are_tested_are_those_that_are_promised():
    pins = [
        line for line in (ROOT / "tests/system/lowest.txt").read_text().split("\n") if "==" in line
    ]
    pinned = {need.name: next(iter(need.specifier)).version for need in map(Requirement, pins)}
    tested = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    bounds = {
        need.name: next(s.version for s in need.specifier if s.operator == ">=")
        for need in map(Requirement, tested)
        if need.name in pinned
    }
    assert {n: v.split(".")[: len(bounds[n].split("."))] for n, v in pinned.items()} == {
        n: v.split(".") for n, v in bounds.items()
    }
    assert {Requirement(need).name for need in PROJECT["dependencies"]} <= set(pinned)


def test_what_is_not_brought_is_found():
    assert imported("import os\ndef f():\n    from nbclient.client import X") == {"nbclient"}
    assert "torch" in brought(frozenset())
    assert "nbclient" in brought(frozenset({"test"}))
    assert "playwright" not in brought(frozenset({"test"}))


# ---------------------------------------------------------------- no test depends on a clock

KINDS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
CLOCKS = {*KINDS, *(f"{kind}_ns" for kind in KINDS)}


def reads_a_clock(node: ast.AST) -> bool:
    """Whether an expression calls ``time.time()``, ``perf_counter()`` or the like."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            owner = getattr(getattr(call.func, "value", None), "id", "time")
            if (name in CLOCKS and owner == "time") or (name, owner) == ("now", "datetime"):
                return True
    return False


def timed_asserts(source: str) -> Iterator[int]:
    """Lines of asserts on what a clock says, directly or through variables."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        tainted: set[str] = set()
        for _ in range(3):  # through a few assignments and inner functions
            for node in ast.walk(function):
                if not isinstance(node, (ast.Assign, ast.Return)) or node.value is None:
                    continue
                if not (reads_a_clock(node.value) or names_in(node.value) & tainted):
                    continue
                if isinstance(node, ast.Assign):
                    tainted |= {t.id for t in node.targets if isinstance(t, ast.Name)}
                else:
                    inner = [f for f in ast.walk(function) if f is not function]
                    tainted |= {f.name for f in inner if holds(f, node)}
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and (
                reads_a_clock(node.test) or names_in(node.test) & tainted
            ):
                yield node.lineno


def names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def holds(function: ast.AST, node: ast.AST) -> bool:
    return isinstance(function, ast.FunctionDef) and any(n is node for n in ast.walk(function))


# File: (how many such asserts, why a busy machine cannot make them fail).
HARMLESS = {
    "test_harness.py": (1, "a delay takes at least as long as it was set to: a lower bound"),
}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_asserts_what_a_clock_says(path):
    allowed, _ = HARMLESS.get(path.name, (0, ""))
    assert len(list(timed_asserts(path.read_text()))) == allowed


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def f():\n    assert time.monotonic() < 3", 2),
        ("def f():\n    a = perf_counter()\n    b = perf_counter() - a\n    assert b < 5", 4),
        ("def f():\n    def g():\n        return time.time()\n    assert g() < 1", 4),
        ("def f():\n    a = time.process_time()\n    assert a < 5", 3),
    ],
)
def test_an_assert_on_a_clock_is_found(source, line):
    assert line in list(timed_asserts(source))
