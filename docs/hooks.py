"""Puts into the pages what the code knows better: tables of settings, and the help of commands.

In a page, ``<!-- settings drag -->`` becomes a table, and ``<!-- help edit -->`` what
``dragwidget edit --help`` prints.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any
from unittest import mock

from dragwidget.__main__ import main
from dragwidget.data.settings import Settings
from dragwidget.ui.controls.fields import FIELDS, Choice, shown

HELP_WIDTH = "80"  # columns


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    markdown = re.sub(r"<!-- settings (\w+) -->", lambda m: settings_table(m[1]), markdown)
    return re.sub(r"<!-- help ([\w ]+) -->", lambda m: help_of(m[1]), markdown)


def settings_table(stage: str) -> str:
    """All settings of a stage, with default, range, meaning and source."""
    record = getattr(Settings(), stage)
    lines = ["| setting | in the widget | default | what it does |", "|---|---|---|---|"]
    for name, field in FIELDS[stage].items():
        text = field.help
        if isinstance(field, Choice):
            words = " or ".join(f'`"{word}"` ({label})' for label, word in field.options)
            text = f"{text} One of {words}."
        default = shown(getattr(record, name))
        lines.append(f"| `{name}` | {field.label} | `{default}` | {text} |")
    return "\n".join(lines)


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
    return f"```text\n{printed.getvalue()}```"
