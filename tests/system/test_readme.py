"""What the README and the documentation promise is there, and every example in them runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from snippets import PAGES, Snippet, in_docstrings, snippets

import dragwidget
from dragwidget.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SET_UP = re.findall(r"```sh\n(.*?)```", README.split("## Set up")[1].split("\n## ")[0], re.S)
WITH_EXAMPLES = [page for page in PAGES[1:] if any(not one.not_run for one in snippets(page))]
MODULES = {
    name: Path(dragwidget.__file__).parents[1].joinpath(*name.split("."))
    for _, name, _ in pkgutil.walk_packages(dragwidget.__path__, "dragwidget.")
}
SOURCES = {
    name: path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for name, path in MODULES.items()
}
WITH_PROMPTS = [name for name, path in SOURCES.items() if ">>>" in path.read_text()]
BLOCKS = [one for path in SOURCES.values() for one in in_docstrings(path)]


@pytest.fixture
def fox(tmp_path, monkeypatch):
    """A folder with the image that the README's first command draws, where examples are run."""
    monkeypatch.chdir(tmp_path)
    assert main(re.findall(r"dragwidget (demo image .*?) &&", SET_UP[0])[0].split()) == 0
    return tmp_path / "fox.png"


def test_two_commands_of_one_line_set_everything_up():
    assert [command.count("\n") for command in SET_UP] == [1, 1]


def test_what_the_set_up_calls_is_there():
    called = re.findall(r"\.venv/bin/dragwidget (\w+(?: image)?)", SET_UP[0])
    assert called == ["demo image", "edit"]
    assert set(called) <= set(COMMANDS)


@pytest.mark.parametrize("number", [1, 2])
def test_the_checks_run_the_commands_that_the_readme_gives(number):
    script = ROOT / ".ci" / "readme_command.py"
    words = [sys.executable, str(script), str(number)]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == SET_UP[number - 1].strip()
    assert ".ci/readme_command.py" in (ROOT / ".ci" / "run").read_text()


def test_every_command_is_listed():
    page = (ROOT / "docs" / "guide" / "command-line.md").read_text()
    assert re.findall(r"^\| `dragwidget ([a-z ]+)` \|", page, re.M) == list(COMMANDS)


def test_the_version_to_cite_is_this_one():
    assert re.findall(r"version (\d+\.\d+\.\d+)", README) == [dragwidget.__version__]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_a_link_leads_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.usefixtures("fox")
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_in_their_order(page):
    names = {}
    for snippet in snippets(page):
        if not snippet.not_run:
            snippet.run(names)


def test_the_examples_of_the_readme_edit_the_image_that_its_first_command_draws(fox):
    names = {}
    for snippet in snippets(ROOT / "README.md"):
        if not snippet.not_run:
            snippet.run(names)
    with Image.open("edited.png") as edited, Image.open(fox) as source:
        assert edited.size == source.size
        change = np.asarray(edited).astype(int) - np.asarray(source)
    assert np.abs(change).max() > 64


def test_what_is_not_run_is_marked_and_counted():
    reasons = Counter(one.not_run for page in PAGES for one in snippets(page) if one.not_run)
    assert reasons == {
        "needs a model from the hub": 8,
        "needs files from the web": 1,
        "needs another library and its weights": 1,
        "takes some minutes": 2,
        "sets up an environment": 6,
        "checks everything": 2,
        "makes images for a quarter of an hour": 1,
        "serves until it is stopped": 1,
        "runs all tests": 1,
        "takes twenty minutes": 1,
    }


def test_an_example_that_fails_is_noticed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Snippet("python", "1 / 0", "", "here").run({})
    with pytest.raises(AssertionError, match="here"):
        Snippet("sh", f"dragwidget edit {tmp_path}/none.png --pair 1,1:2,2", "", "here").run({})
    with pytest.raises(AssertionError, match="only dragwidget"):
        Snippet("sh", "rm -r .", "", "here").run({})
    with pytest.raises(ValueError, match="unknown drag settings"):
        Snippet("json", '{"drag": {"nothing": 1}}', "", "here").run({})


@pytest.mark.parametrize("name", WITH_PROMPTS)
def test_the_examples_in_docstrings_give_what_they_show(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted
    assert not results.failed


@pytest.mark.usefixtures("fox")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_of_code_in_a_docstring_runs(block):
    block.run(vars(dragwidget) | {name: getattr(dragwidget, name) for name in dragwidget.__all__})


def test_docstrings_with_examples_are_found():
    assert "dragwidget.data.frames" in WITH_PROMPTS
    assert any("DragWidget" in block.place for block in BLOCKS)
