"""``bench widget``: what the widget takes of a core, and of a drag."""

from __future__ import annotations

import json
import math

import pytest

from dragwidget.__main__ import main
from dragwidget.editor.work import PreviewRateLimiter


@pytest.mark.slow
def test_hands_and_drags_are_measured(tmp_path, capsys):
    out = tmp_path / "widget.json"
    words = ["--seconds", "0.2", "--rounds", "1", "--steps", "2", "--json", str(out)]
    assert main(["bench", "widget", *words]) == 0
    told = json.loads(out.read_text())["shares"]
    assert [one["what"] for one in told] == [
        "hand, points", "hand, brush", "drag, previews", "drag, the whole widget",
    ]  # fmt: skip
    assert all(one["share"] > 0 for one in told[:2])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_previews_add_a_tenth_to_a_drag_at_most(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dragwidget.editor.work.monotonic", lambda: now[0])
    for step, preview in ((0.02, 0.03), (0.5, 1.0), (20.0, 9.0)):
        limiter, dragged, previewed = PreviewRateLimiter(), 0.0, 0.0
        limiter.took(0.0)
        for _ in range(2000):
            now[0] += step
            dragged += step
            if limiter.due():
                now[0] += preview
                previewed += preview
                limiter.took(preview)
        assert 0 < previewed <= 0.1 * dragged


def test_a_pace_without_end_makes_no_preview():
    limiter = PreviewRateLimiter(interval=math.inf)
    limiter.took(0.0)
    assert not limiter.due()


def test_bad_input_is_told(capsys):
    assert main(["bench", "widget", "--steps", "0"]) == 2
    assert "argument --steps: must be a whole number, 1 or more, got '0'" in capsys.readouterr().err
