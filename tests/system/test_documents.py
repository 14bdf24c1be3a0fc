"""What README, SECURITY and the pages name is there; limits are those that SECURITY states."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from fractions import Fraction
from pathlib import Path

import pytest

import dragwidget
from dragwidget import DragCanvas, DragSession, DragWidget, load_model
from dragwidget.diffusion.loading import LoadOptions

ROOT = Path(__file__).parents[2]
TOP = [ROOT / f"{name}.md" for name in ("README", "SECURITY", "CHANGELOG")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = [name for _, name, _ in pkgutil.walk_packages(dragwidget.__path__, "dragwidget.")]
FOLDERS = r"(?:tests|docs|dragwidget|notebooks|binder|\.ci|\.github)"


def text_of(page: Path) -> str:
    """Return a page, or all that is written in a notebook's cells of text and code."""
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def paths_in(text: str) -> set[str]:
    """Return what a text names of the repository's files, in backticks, patterns included."""
    return set(re.findall(rf"`(?:python )?({FOLDERS}/[\w./*-]+)", text))


def found(name: str) -> object:
    """Return what a dotted name stands for; AttributeError or ImportError where there is none."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        if ".".join(words[:count]) in {"dragwidget", *MODULES}:
            value: object = importlib.import_module(".".join(words[:count]))
            for word in words[count:]:
                value = getattr(value, word)
            return value
    raise ImportError(name)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_every_file_and_module_that_a_page_names_is_there(page):
    text = text_of(page)
    assert [path for path in paths_in(text) if not list(ROOT.glob(path))] == []
    for name in set(re.findall(r"\bdragwidget(?:\.[a-zA-Z_]\w*)+", text)):
        if not name.endswith((".json", ".log", ".png", ".drag")):
            found(name)


def test_what_is_not_there_is_noticed():
    (path,) = paths_in("see `tests/test_nothing*.py` for it")
    assert list(ROOT.glob(path)) == []
    for name in ("dragwidget.diffusion.model", "dragwidget.data.settings.Nothing"):
        with pytest.raises((ImportError, AttributeError)):
            found(name)


def test_the_options_of_a_model_that_a_session_takes_are_all_there_are():
    assert "``load_model``" in inspect.getdoc(DragSession.from_pretrained)
    wanted = list(inspect.signature(load_model).parameters)[1:]  # the first is the model's name
    assert sorted(LoadOptions.__annotations__) == sorted(wanted)


# What each button of a widget does, by the method that does it too.
ACTIONS = {
    DragWidget: "prepare step run pause stop reset render rewind go_to code gif save snapshot",
    DragCanvas: "undo redo zoom_by zoom_to fit grow shrink invert_mask fill_mask set_mask nudge "
    "select add_pair move_handle move_target delete_pair clear clear_pairs stroke lasso "
    "close_lasso cancel_gesture rectangle probe_at on_probe load save",
}


@pytest.mark.parametrize("owner", ACTIONS, ids=lambda owner: owner.__name__)
def test_every_action_has_a_method_that_is_explained(owner):
    for name in ACTIONS[owner].split():
        assert inspect.getdoc(getattr(owner, name)), name


# ---------------------------------------------------------------- the table of limits

SIZES = {"": 1, "Mi": 2**20, "Gi": 2**30, "million": 10**6}
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and "`" in line
]


def numbers(cell: str) -> list[Fraction]:
    """Return the numbers of a cell, as "64 Mi" or "a million"."""
    cell = cell.replace("a million", "1 million").replace("a quarter of that", "0.25")
    wanted = re.findall(r"(\d[\d,]*(?:\.\d+)?)(?: (Mi|Gi|million)\b)?", cell)
    return [Fraction(number.replace(",", "")) * SIZES[unit] for number, unit in wanted]


def limits(cell: str) -> list[Fraction]:
    """Return the values of the names of a cell; a name alone is of the module before it."""
    values, module = [], ""
    for name in re.findall(r"`([^`]+)`", cell):
        if call := re.fullmatch(r"(\w+)\((\w+)=\)", name):
            (called,) = {
                value
                for full in ("dragwidget.data.image_reading", "dragwidget.storage.cache")
                if (value := getattr(importlib.import_module(full), call[1], None))
            }
            value = inspect.signature(called).parameters[call[2]].default
        else:
            *path, word = name.split(".")
            if path:
                (module,) = [m for m in MODULES if f".{m}".endswith("." + ".".join(path))]
            value = getattr(importlib.import_module(module), word)
        values.append(Fraction(len(value) if isinstance(value, tuple) else value))
    return values


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_limit_is_the_one_that_security_states(row):
    _, stated, names = row
    wanted, held = numbers(stated), limits(names)
    assert held
    assert held == (wanted * len(held) if len(wanted) == 1 else wanted)


def test_every_limit_is_read():
    assert len(ROWS) >= 17
    assert numbers("10, and 4 Mi") == [10, 4 * 2**20]
    assert limits("`dragbench.MAX_BYTES`") != numbers("33 Mi")
