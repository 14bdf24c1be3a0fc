"""The examples in the README and the documentation, and how each is run.

An example is a fenced block with a language. One that cannot be run here is marked on the line
before it, where readers do not see it: ``<!-- not run: needs a model from the hub -->``.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragwidget.__main__ import main
from dragwidget.data.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]*?) -->\n\n?)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
NOT_EXAMPLES = ("text", "bibtex")


@dataclass(frozen=True)
class Snippet:
    """An example; ``not_run``: why it cannot be run, empty where it is."""

    language: str
    code: str
    not_run: str
    place: str

    def run(self, names: dict[str, Any]) -> None:
        """Run it in the present folder; ``names``: what earlier ones of the page have defined."""
        if self.language == "python":
            exec(compile(self.code, self.place, "exec"), names)
        elif self.language == "json":
            Settings.from_dict(json.loads(self.code))
        elif self.language == "sh":
            for line in self.code.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line)
                assert program == "dragwidget", f"{self.place}: only dragwidget is run, not {line}"
                assert main(words) == 0, f"{self.place}: {line}"
        else:
            raise AssertionError(f"{self.place}: nobody knows how to run {self.language}")


def snippets(page: Path) -> list[Snippet]:
    """All examples of a page, in order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        line = text[: match.start("code")].count("\n") + 1
        place = f"{page.relative_to(ROOT)}:{line}"
        if match["language"] not in NOT_EXAMPLES:
            found.append(Snippet(match["language"], match["code"], match["why"] or "", place))
    return found


def in_docstrings(path: Path) -> Iterator[Snippet]:
    """Indented blocks of Python in a module's docstrings; ``doctest`` finds those with prompts."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            continue
        for block in re.findall(r"\n\n((?:    .+\n?)+)", ast.get_docstring(node) or ""):
            code = textwrap.dedent(block)
            if _is_python(code):
                name = getattr(node, "name", "module")
                yield Snippet("python", code, "", f"{path.name}: {name}")


def _is_python(text: str) -> bool:
    try:
        return any(not isinstance(part, ast.Expr) for part in ast.parse(text).body)
    except SyntaxError:
        return False
