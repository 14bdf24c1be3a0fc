"""What Colab brings is enough: nothing of it would be changed by installing dragwidget there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from colab_resolution import CONSTRAINTS, read_pins
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TEXT = (Path(__file__).parents[2] / "pyproject.toml").read_text()
LISTED = re.search(r"^dependencies = \[(.*?)^\]", TEXT, re.M | re.S)[1]
REQUIREMENTS = [Requirement(text) for text in re.findall(r'"(.+?)"', LISTED)]
MISSING = {"ipycanvas"}  # which Colab does not bring, so it is installed


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_what_colab_has_is_asked_for_in_no_other_release(requirement):
    pins = read_pins(CONSTRAINTS)
    name = canonicalize_name(requirement.name)
    if name in MISSING:
        assert name not in pins
    else:
        assert requirement.specifier.contains(pins[name], prereleases=True)


def test_pins_are_read_by_normalised_names(tmp_path):
    path = tmp_path / "pins.txt"
    path.write_text("# some\n\nJupyterLab_Widgets==3.0.16  # one of them\ntorch==2.11.0+cu128\n")
    assert read_pins(path) == {"jupyterlab-widgets": "3.0.16", "torch": "2.11.0+cu128"}
