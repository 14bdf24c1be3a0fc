"""The hint follows the edit: one sentence for each situation, and it names what is on the page."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from dragwidget.editor.hints import BY_COLOURS, Situation, hint

DRAWN = Situation(pairs=1, has_mask=True, is_prepared=True)


def test_a_first_edit_is_led_from_the_arrow_to_the_file():
    steps = [
        Situation(),
        Situation(pairs=1),
        DRAWN,
        replace(DRAWN, state="running", index=3),
        replace(DRAWN, state="paused", index=3),
        replace(DRAWN, index=9),
        replace(DRAWN, index=9, is_rendered=True),
    ]
    said = [hint(step) for step in steps]
    assert said[0] == "Draw an arrow from what should move to where it should go."
    assert "Without a mask the whole image may drift" in said[1]
    assert said[2] == "Press Run to drag."
    assert "draw while it runs" in said[3]
    assert "Run to continue" in said[4]
    assert "Render" in said[5]
    assert "Export" in said[6]
    assert len(set(said)) == len(said)


def test_where_nothing_can_be_drawn_no_mask_is_offered():
    assert Situation(pairs=1).may_drift
    assert not Situation(pairs=1, may_draw=False).may_drift


def test_who_has_prepared_nothing_is_told_that_run_does_it():
    assert "prepares the model" in hint(replace(DRAWN, is_prepared=False))
    assert "prepare" not in hint(DRAWN)


@pytest.mark.parametrize("pairs", [0, 1, 3])
@pytest.mark.parametrize("has_mask", [False, True])
def test_a_mask_is_offered_exactly_where_pairs_lack_one(pairs, has_mask):
    situation = Situation(pairs=pairs, has_mask=has_mask)
    assert situation.may_drift == (pairs > 0 and not has_mask)
    assert ("may drift" in hint(situation)) == situation.may_drift


def test_a_selection_by_colours_is_told_whatever_else_is():
    for state, pairs in product(["idle", "running", "paused", "stopping"], [0, 1]):
        assert hint(Situation(state=state, pairs=pairs, by_colours=True)) == BY_COLOURS


def test_every_hint_is_one_short_line_that_ends_in_a_stop():
    flags = [False, True]
    for state, pairs, mask, index, rendered, colours in product(
        ["idle", "running", "paused", "stopping"], [0, 1], flags, [0, 5], flags, flags
    ):
        text = hint(
            Situation(
                state=state, pairs=pairs, has_mask=mask, index=index, is_rendered=rendered,
                by_colours=colours,
            )
        )  # fmt: skip
        assert text.endswith(".")
        assert len(text) <= 90
