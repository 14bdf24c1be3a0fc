"""``bench cold``: commands in fresh processes, from their start to their end."""

from __future__ import annotations

import json
import os
import sys

import pytest

from dragwidget.__main__ import main
from dragwidget.bench.dev.cold_command import imports, timed

pytestmark = pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows does not tell the peak memory of a process that is over",
)


@pytest.mark.slow
def test_a_process_is_timed_from_its_start_with_its_peak():
    words = "import time; kept = bytearray(200_000_000); time.sleep(0.3)"
    lap = timed("sleep", [sys.executable, "-c", words], os.environ)
    assert lap.seconds > 0.3
    assert 2e8 < lap.peak < 4e8


def test_one_process_does_not_count_for_the_next():
    timed("large", [sys.executable, "-c", "bytearray(300_000_000)"], os.environ)
    assert timed("small", [sys.executable, "-c", "pass"], os.environ).peak < 1e8


def test_a_command_that_fails_is_told_with_what_it_said():
    words = [sys.executable, "-c", "raise SystemExit('no such fox')"]
    with pytest.raises(RuntimeError, match="dragwidget edit ended with status 1: no such fox"):
        timed("edit", words, os.environ)


def test_imports_are_told_by_package():
    words = [sys.executable, "-X", "importtime", "-c", "import json.tool, email.message"]
    found = imports(words, os.environ)
    assert found["json"] > 0
    assert found["email"] > 0
    assert found["all imports"] < found["whole command"]
    assert "json.tool" not in found


@pytest.mark.slow
def test_the_command_times_an_edit_from_nothing(tmp_path, capsys):
    out = tmp_path / "cold.json"
    assert main(["bench", "cold", "--rounds", "1", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "imports of edit" in said
    told = json.loads(out.read_text())
    light, helped, edited = told["rows"]
    assert [row["what"] for row in told["rows"]] == ["--version", "edit --help", "edit"]
    assert light["peak"] < helped["peak"] < edited["peak"]
    assert {"torch", "diffusers"} <= told["import_seconds"].keys()


def test_bad_input_is_told(capsys):
    assert main(["bench", "cold", "--rounds", "0"]) == 2
    assert (
        "argument --rounds: must be a whole number, 1 or more, got '0'" in capsys.readouterr().err
    )
