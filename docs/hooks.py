"""Puts into the site what stands elsewhere: tables of settings, help of commands, the notebooks.

In a page, ``<!-- settings drag -->`` becomes a table, and ``<!-- help edit -->`` what
``dragwidget edit --help`` prints. Each notebook becomes a page with its stored outputs. Formulas
become MathML, which browsers draw without a script.
Code in tables may be broken after a slash, a dot, an underscore, a bracket or an equals sign.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from dragwidget.__main__ import main
from dragwidget.data.settings import Settings
from dragwidget.diffusion.loading import CRITTERS
from dragwidget.ui.controls.fields import FIELDS, Choice, shown

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
HELP_WIDTH = "80"  # columns
# What arithmatex makes of $..$ and of $$..$$
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
CELL = re.compile(r"<td\b.*?</td>", re.S)
CODE = re.compile(r"<code>([^<]{16,})</code>")
MODELS = {"critters": "dragwidget.json", "critters-base": "dragwidget.base.json"}


def on_files(files: Files, config: Any) -> Files:
    """Called by MkDocs with all files; the notebooks' pages and figures are added."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        figures: dict[str, bytes] = {}
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title, *parts = (part for cell in cells for part in parts_of(cell, path.stem, figures))
        about = f"*The notebook `notebooks/{path.name}` with its stored outputs.*"
        text = "\n\n".join([title.replace("\n", f"\n\n{about}\n", 1), *parts])
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, content in figures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def parts_of(cell: dict[str, Any], stem: str, figures: dict[str, bytes]) -> Iterator[str]:
    """A cell of a notebook and its stored outputs, as Markdown; its images go to ``figures``."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield in_a_page(source)
        return
    yield f"````python\n{source}\n````"
    for output in cell["outputs"]:
        data = output.get("data", {})
        kinds = [kind for kind in data if kind.startswith("image/")]
        if kinds:
            name = f"{stem}_{len(figures) + 1}.{kinds[0].partition('/')[2]}"
            figures[name] = base64.b64decode("".join(data[kinds[0]]))
            yield f"![Output {len(figures)} of this notebook]({name})"
        elif "text/markdown" in data:
            yield in_a_page("".join(data["text/markdown"]))
        elif text := "".join(output.get("text", data.get("text/plain", ""))).strip("\n"):
            yield f"````text\n{text}\n````"


def in_a_page(markdown: str) -> str:
    """A notebook's Markdown as MkDocs reads it."""
    return markdown.replace("<details>", "<details markdown>").replace(".ipynb)", ".md)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    markdown = re.sub(r"<!-- settings (\w+) -->", lambda m: settings_table(m[1]), markdown)
    return re.sub(r"<!-- help ([\w ]+) -->", lambda m: help_of(m[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of every page."""
    content = CELL.sub(lambda m: CODE.sub(lambda code: breakable(code[1]), m[0]), content)
    return FORMULA.sub(lambda m: formula(m[1], html.unescape(m[2])), content)


def breakable(code: str) -> str:
    """Code of a table, which may go on in a new line between its parts."""
    return f"<code>{re.sub(r'(?<=[/.=(])(?=[a-z])|(?<=[a-z]_)(?=[a-z])', '<wbr>', code)}</code>"


def recommended(file: str) -> Settings:
    """What an embedded model recommends."""
    return Settings.from_dict(json.loads((CRITTERS / file).read_text())["recommended"])


def settings_table(stage: str) -> str:
    """All settings of a stage, with default, models' values, range, meaning and source."""
    records = [
        getattr(settings, stage) for settings in (Settings(), *map(recommended, MODELS.values()))
    ]
    models = " | ".join(f"`{name}`" for name in MODELS)
    lines = [f"| setting | in the widget | paper | {models} | what it does |", "|---" * 6 + "|"]
    for name, field in FIELDS[stage].items():
        text = field.help
        if isinstance(field, Choice):
            words = " or ".join(f'`"{word}"` ({label})' for label, word in field.options)
            text = f"{text} One of {words}."
        values = " | ".join(f"`{shown(getattr(record, name))}`" for record in records)
        lines.append(f"| `{name}` | {field.label} | {values} | {text} |")
    return '<div class="settings" markdown>\n\n' + "\n".join(lines) + "\n\n</div>"


def formula(tag: str, latex: str) -> str:
    """A formula as MathML: in a ``span`` within a line, in a ``div`` on lines of its own."""
    display = "block" if tag == "div" else "inline"
    known = re.sub(r"\\[lr]Vert(?![A-Za-z])", lambda _: r"\|", latex.strip())
    return f'<{tag} class="arithmatex">{convert(known, display=display)}</{tag}>'


def help_of(command: str) -> str:
    """What a command says of itself, as a block of text."""
    printed = io.StringIO()
    plain = {"COLUMNS": HELP_WIDTH, "NO_COLOR": "1"}
    with (
        mock.patch.dict(os.environ, plain),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*command.split(), "--help"])
    return f'<div class="help" markdown>\n\n```text\n{printed.getvalue()}```\n\n</div>'
