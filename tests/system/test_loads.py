"""The table of what loads is written from the marks on the tests that show it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("loads", ROOT / ".ci" / "loads.py")
loads = importlib.util.module_from_spec(SPEC)
sys.modules["loads"] = loads
SPEC.loader.exec_module(loads)

MARK = '@pytest.mark.loads("{}", "one file", "SD 1.x", "loads")\n'


@pytest.fixture
def tree(tmp_path):
    """A project of one page, with a function that gives it a file of tests."""
    (tmp_path / "tests").mkdir()
    (tmp_path / loads.PAGE).parent.mkdir(parents=True)
    shutil.copy(ROOT / loads.PAGE, tmp_path / loads.PAGE)

    def write(source, name="test_some.py"):
        (tmp_path / "tests" / name).write_text(source)
        return tmp_path

    return write


def test_the_page_is_what_the_tests_say(capsys):
    assert loads.main(check=True) == 0, "run python .ci/loads.py"
    assert capsys.readouterr().out == ""


def test_every_form_is_there_once_and_of_every_family_something():
    rows = loads.rows()
    forms = [row[:3] for row in rows]
    assert len(forms) == len(set(forms))
    assert {row.part for row in rows} >= set(loads.PARTS)
    for family in ("SD 1.x", "SD 2.x", "SDXL"):
        assert any(row.family == family and row.result.startswith("loads") for row in rows)
    assert any(row.result.startswith("refused") for row in rows)


def test_a_row_that_is_new_changes_the_page(tree):
    root = tree(MARK.format("model") + "def test_it():\n    pass\n")
    assert loads.main(check=True, root=root) == 1
    assert "| one file |" not in (root / loads.PAGE).read_text()
    assert loads.main(check=False, root=root) == 0
    assert "| model | one file | SD 1.x | loads |" in (root / loads.PAGE).read_text()
    assert loads.main(check=True, root=root) == 0


def test_rows_are_by_part_and_a_parameter_may_have_one(tree):
    mark = MARK.format("embedding").strip().removeprefix("@")
    parameters = f'@pytest.mark.parametrize("x", [1, pytest.param(2, marks={mark})])\n'
    root = tree(parameters + "def test_other():\n    pass\n", "test_a.py")
    tree(MARK.format("LoRA") + MARK.format("model") + "def test_it():\n    pass\n", "test_b.py")
    found = [(row.part, row.test) for row in loads.rows(root)]
    assert found == [
        ("model", "test_b.py: test_it"),
        ("LoRA", "test_b.py: test_it"),
        ("embedding", "test_a.py: test_other"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        '@pytest.mark.loads("model", "one file", "loads")\ndef test_it():\n    pass\n',
        '@pytest.mark.loads("model", FORM, "SD 1.x", "loads")\ndef test_it():\n    pass\n',
        MARK.format("") + "def test_it():\n    pass\n",
        MARK.format("model") + "def helper():\n    pass\n",
    ],
)
def test_a_mark_of_another_form_or_on_no_test_is_told(tree, source):
    root = tree("\n\n" + source)
    with pytest.raises(SystemExit, match=r"test_some.py, line 3: mark.loads takes four texts"):
        loads.rows(root)
