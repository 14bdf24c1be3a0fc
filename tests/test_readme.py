"""What the README promises is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dragwidget.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SET_UP = re.findall(r"```sh\n(.*?)```", README.split("## Set up")[1].split("\n## ")[0], re.S)


def test_two_commands_of_one_line_set_everything_up():
    assert [command.count("\n") for command in SET_UP] == [1, 1]


def test_what_the_set_up_calls_is_there():
    called = re.findall(r"\.venv/bin/dragwidget (\w+(?: picture)?)", SET_UP[0])
    assert called == ["demo picture", "edit"]
    assert set(called) <= set(COMMANDS)


def test_the_checks_run_the_command_that_the_readme_gives():
    steps = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    install, _, test = SET_UP[1].strip().rpartition(" && ")
    assert install in steps
    assert steps.index(install) < steps.index(test) == len(steps) - 1


def test_every_command_is_listed():
    assert re.findall(r"^\| `dragwidget ([a-z ]+)` \|", README, re.M) == list(COMMANDS)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_a_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_the_python_of_the_readme_edits_the_picture_that_its_first_command_draws(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(re.findall(r"dragwidget (demo picture .*?) &&", SET_UP[0])[0].split()) == 0
    for code in re.findall(r"```python\n(.*?)```", README, re.S)[:3]:
        exec(code, {})
    with Image.open("edited.png") as edited, Image.open("fox.png") as source:
        assert edited.size == source.size
        change = np.asarray(edited).astype(int) - np.asarray(source)
    assert np.abs(change).max() > 64
