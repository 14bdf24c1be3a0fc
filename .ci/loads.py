"""Writes the table of what loads into docs/guide/models.md, from the tests that hold it.

    python .ci/loads.py           writes it
    python .ci/loads.py --check   fails if the page would change

A row is a mark on the test that shows it, ``@pytest.mark.loads(PART, FORM, FAMILY, RESULT)``, four
texts; or on one of its parameters, ``pytest.param(.., marks=pytest.mark.loads(..))``. A test that
goes takes its rows along. The block in the page is from ``<!-- loads -->`` to ``<!-- end -->``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = Path("docs") / "guide" / "models.md"
BLOCK = re.compile(r"(<!-- loads -->\n)(.*?)(<!-- end -->)", re.S)
PARTS = ("model", "autoencoder", "LoRA")  # these come first, and others by name
HEAD = ("what", "form", "family", "what happens", "test")


class Row(NamedTuple):
    """One form of file, and what happens to it.

    Attributes:
        part: what the file holds: a model, an autoencoder, a LoRA, ..
        form: its layout, or the program that wrote it.
        family: of the model that it belongs to.
        result: what loading it does.
        test: file and name of the test that shows it.
    """

    part: str
    form: str
    family: str
    result: str
    test: str


def rows(root: Path = ROOT) -> list[Row]:
    """Return all rows, by part and then in the order of the tests."""
    found = [row for path in sorted((root / "tests").rglob("test_*.py")) for row in marked(path)]
    names = {row.part for row in found}
    order = [*(part for part in PARTS if part in names), *sorted(names - set(PARTS))]
    return sorted(found, key=lambda row: order.index(row.part))


def marked(path: Path) -> Iterator[Row]:
    """Yield the rows of the marks in a file.

    Raises SystemExit where a mark is no four texts, or stands on no test.
    """
    text = path.read_text(encoding="utf-8")
    if "mark.loads" not in text:
        return
    tree, tests = ast.parse(text), {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            for part in function.decorator_list:
                tests |= {id(node): function.name for node in ast.walk(part)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_mark(node)]
    for call in sorted(calls, key=lambda node: node.lineno):
        words = [node.value for node in call.args if isinstance(node, ast.Constant)]
        texts = [word for word in words if isinstance(word, str) and word]
        if len(texts) != 4 or len(call.args) != 4 or call.keywords or id(call) not in tests:
            raise SystemExit(
                f"{path.name}, line {call.lineno}: mark.loads takes four texts and is on a test"
            )
        yield Row(*texts, f"{path.name}: {tests[id(call)]}")


def _is_mark(call: ast.Call) -> bool:
    return ast.unparse(call.func).endswith("mark.loads")


def table(found: list[Row]) -> str:
    """Return rows in Markdown; a part is named once, and of a test the file, and its name on it."""
    lines = [HEAD, ("---",) * len(HEAD)]
    last = ""
    for row in found:
        file, name = row.test.split(": ")
        shown = f'<span title="{name}">`{file}`</span>'
        lines.append((row.part if row.part != last else "", *row[1:4], shown))
        last = row.part
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(check: bool, root: Path = ROOT) -> int:
    """Write the page, or only tell whether it differs; return the exit status."""
    page = root / PAGE
    text = page.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise SystemExit(f"{PAGE} has no block from <!-- loads --> to <!-- end -->")
    written = BLOCK.sub(lambda match: match[1] + table(rows(root)) + match[3], text)
    if written == text:
        return 0
    print(PAGE)
    if not check:
        page.write_text(written, encoding="utf-8")
    return int(check)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
