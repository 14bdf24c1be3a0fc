"""``bench soak``: rounds of an edit, and what is held after them."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_sessions import ask, session_on

from dragwidget.__main__ import main
from dragwidget.bench.dev.soak import drawn, round_of_session, soak
from dragwidget.bench.memory import held_memory

CPU = torch.device("cpu")
needs_proc = pytest.mark.skipif(
    held_memory(CPU) is None, reason="this system does not say how much memory is held"
)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("way", [[], ["--widget"]], ids=["session", "widget"])
def test_the_command_tells_what_is_held_after_its_rounds(way, tmp_path, capsys):
    out = tmp_path / "soak.json"
    words = ["--rounds", "2", "--every", "1", "--steps", "1", "--inversion-steps", "2"]
    assert main(["bench", "soak", *words, *way, "--json", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    told = json.loads(out.read_text())
    assert told["through"] == ("DragWidget" if way else "DragSession")
    assert [reading["rounds"] for reading in told["readings"]] == [1, 2]
    assert all(reading["held"] > 2**26 for reading in told["readings"])


def test_what_is_drawn_stays_inside_and_is_seldom_the_same():
    base = ask()
    made = [drawn(base, number) for number in range(100)]
    assert len(set(made)) == 100


@pytest.mark.slow
@needs_proc
def test_passes_that_no_handle_needs_are_let_go(tiny):
    session = session_on(tiny)
    for _ in soak(session, lambda n: round_of_session(session, ask(), 2, n), 12, 12, CPU):
        pass
    (edit,) = session.edits
    assert len(edit.history.nodes) > 20
    assert len(edit._seen) <= 3


def test_bad_input_is_told(capsys):
    assert main(["bench", "soak", "--rounds", "0"]) == 2
    assert (
        "argument --rounds: must be a whole number, 1 or more, got '0'" in capsys.readouterr().err
    )
