"""Rows of an interrupted run: none is lost, none is there twice."""

from __future__ import annotations

import json
import math

import pytest

from dragwidget.bench.rows import RowFile, digest, plain, row_file


def row(seed: int, made_by: str = "a", **more):
    return {"seed": seed, "made_by": made_by, **more}


def test_a_run_goes_on_from_the_rows_that_are_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    with row_file(path, ["seed"]) as rows:
        rows.add(row(1, value=math.nan))
        rows.add(row(2))
    with row_file(path, ["seed"]) as rows:
        assert rows.rows[1,] == row(1, value=None)
        assert rows.has((2,), "a")
        assert not rows.has((3,), "a")
        rows.add(row(3))
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_line_that_a_kill_cut_short_is_made_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row(1)) + "\n" + json.dumps(row(2))[:-4])
    rows = RowFile(path, ["seed"])
    assert list(rows.rows) == [(1,)]
    rows.add(row(2))
    assert list(RowFile(path, ["seed"]).rows) == [(1,), (2,)]


def test_rows_of_other_settings_are_refused_and_stay(tmp_path):
    path = tmp_path / "rows.jsonl"
    RowFile(path, ["seed"]).add(row(1))
    with pytest.raises(ValueError, match="made by other settings, weights or versions"):
        RowFile(path, ["seed"]).has((1,), "b")
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"seed": 1}', '{"seed": 1, "made_by": 2}'])
def test_a_file_of_something_else_is_refused_and_stays(tmp_path, line):
    path, text = tmp_path / "notes.txt", f"{line}\n"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"line 1, is no row of this benchmark: name another file"):
        RowFile(path, ["seed"])
    assert path.read_text() == text


def test_two_runs_cannot_write_the_same_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    with (
        row_file(path, ["seed"]),
        pytest.raises(OSError, match="another"),
        row_file(path, ["seed"]),
    ):
        pass
    with row_file(path, ["seed"]):  # the first is done
        pass


def test_plain_data_is_json_and_its_digest_depends_on_its_content_only():
    assert plain({"a": (1, math.inf)}) == {"a": [1, None]}
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
