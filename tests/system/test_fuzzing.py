"""A few hundred corrupted inputs of every kind; ``tests/support/fuzzing.py`` reads thousands."""

from __future__ import annotations

import os
import pickle

import pytest
from fuzz_files import FILES
from fuzz_pickles import Call
from fuzz_values import VALUES
from fuzzing import Breach, Kind, bounded_memory, fuzz, watching

COUNTS = {"json": 300, "runs": 100, "pairs": 200, "settings": 200, "pickle": 200, "drag": 60,
          "image": 40, "lora": 40, "model": 10}  # fmt: skip


@pytest.mark.parametrize("name", [*VALUES, *FILES])
def test_what_is_corrupted_is_read_or_refused_and_does_nothing_else(name, tmp_path):
    kind = {**VALUES, **FILES}[name](tmp_path)
    with bounded_memory(6 * 2**30):
        tally = fuzz(name, kind, COUNTS[name], seed=1)
    assert tally.faults == []
    assert tally.inputs == COUNTS[name]
    assert tally.refused
    if name != "model":  # of ten, perhaps none
        assert tally.accepted


@pytest.mark.parametrize("hostile", [(os.mkdir, "canary"), (exec, "open('canary', 'w')")])
def test_the_watch_sees_what_a_hostile_input_does_and_stops_it(tmp_path, monkeypatch, hostile):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Call(*hostile))
    with pytest.raises(Breach), watching() as breaches:
        pickle.loads(data)
    assert breaches
    assert not (tmp_path / "canary").exists()


class Careless(Kind):
    """Reads without care."""

    def make(self, chance):
        return chance.choice([b"{", "a" * 9999, 0, None])

    def read(self, given):
        if given is None:
            return bytearray(400 * 2**20).count(1)
        if given == 0:
            return 1 // given
        raise ValueError(given)


def test_a_fault_is_told_with_the_number_of_its_input(tmp_path):
    tally = fuzz("careless", Careless(tmp_path), 40)
    told = "\n".join(tally.faults)
    assert "ZeroDivisionError" in told
    assert "a message of 9999 characters" in told
    number = int(tally.faults[0].split()[1].rstrip(":"))
    again = fuzz("careless", Careless(tmp_path), 1, first=number)
    assert again.faults == tally.faults[:1]
