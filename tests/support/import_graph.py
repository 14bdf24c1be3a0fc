"""Which module of the package imports which, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dragwidget"


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """The dotted name of a module inside the package; ``""`` is ``__init__``."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


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


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which module imports which, at any depth of the code, ``TYPE_CHECKING`` included."""
    edges: dict[str, set[str]] = {}
    for module, source in sources.items():
        edges[module] = set()
        for _, name in imports(source, module):
            parts = name.removeprefix("dragwidget").lstrip(".").split(".")
            # ``a.b.c`` may be a module, or a name in the module ``a.b``.
            found = next((".".join(parts[:n]) for n in (len(parts), len(parts) - 1)
                          if ".".join(parts[:n]) in sources), None)  # fmt: skip
            if name.startswith("dragwidget.") and found not in (None, module):
                edges[module].add(found)
    return edges


def reached(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """What each node reaches, directly or through others."""
    found: dict[str, set[str]] = {start: set() for start in edges}
    for start in edges:
        waiting = [start]
        while waiting:
            for node in edges[waiting.pop()] - found[start]:
                found[start].add(node)
                waiting.append(node)
    return found


def package_of(module: str) -> str:
    """The package that a module belongs to, as it is drawn."""
    return "bench.dev" if module.startswith("bench.dev") else module.partition(".")[0]


def package_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Which package imports which, named by ``package_of``."""
    sources = {module_name(path): path.read_text() for path in package.rglob("*.py")}
    edges: dict[str, set[str]] = {}
    for module, targets in graph(sources).items():
        part = package_of(module)
        if part.startswith("__"):  # the lazy public names, and the command line's table
            continue
        found = set(map(package_of, targets))
        edges.setdefault(part, set()).update(found - {part})
    return {part: {t for t in targets if t in edges} for part, targets in edges.items()}


def without_shortcuts(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The fewest edges by which each node reaches what it reaches, where there is no circle."""
    far = reached(edges)
    return {
        node: {t for t in targets if not any(t in far[other] for other in targets)}
        for node, targets in edges.items()
    }
