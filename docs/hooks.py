"""Puts into the pages what the code knows better: tables of settings, and the help of commands.

In a page, ``<!-- settings drag -->`` becomes a table, and ``<!-- help edit -->`` what
``dragwidget edit --help`` prints. Formulas become MathML, which browsers draw without a script.
Code in tables may be broken after a slash, a dot, an underscore, a bracket or an equals sign.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import re
from typing import Any
from unittest import mock

from latex2mathml.converter import convert

from dragwidget.__main__ import main
from dragwidget.data.settings import Settings
from dragwidget.diffusion.loading import CRITTERS
from dragwidget.ui.controls.fields import FIELDS, Choice, shown

HELP_WIDTH = "80"  # columns
# What arithmatex makes of $..$ and of $$..$$
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
CELL = re.compile(r"<td\b.*?</td>", re.S)
CODE = re.compile(r"<code>([^<]{16,})</code>")
MODELS = {"critters": "dragwidget.json", "critters-base": "dragwidget.base.json"}


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
    return f'<{tag} class="arithmatex">{convert(latex.strip(), display=display)}</{tag}>'


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
