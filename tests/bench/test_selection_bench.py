"""``bench selection``: the ground truth of parts, the clicks, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dragwidget.__main__ import main
from dragwidget.bench.dev.selection_command import clicked, next_click
from dragwidget.demo.domain.keypoints import POINTS, keypoints
from dragwidget.demo.domain.parameters import CONTINUOUS
from dragwidget.demo.domain.parts import PARTS, part_masks
from dragwidget.demo.scenes import render, sample_scenes


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(range(960_000, 960_012))


@pytest.fixture(scope="module")
def masks(scenes):
    return part_masks(scenes)


def test_parts_exclude_each_other_but_for_the_head_which_is_of_the_animal(masks):
    assert tuple(masks) == PARTS
    assert not (masks["head"] & ~masks["animal"]).any()
    assert not (masks["animal"] & masks["sun"]).any()
    assert not (masks["animal"] & masks["mountain"]).any()
    assert not (masks["mountain"] & masks["sun"]).any()
    assert (masks["head"].sum((1, 2)) < masks["animal"].sum((1, 2))).all()


@pytest.mark.parametrize(("point", "part"), [("nose", "head"), ("sun", "sun"), ("knot", "animal")])
def test_a_point_that_is_seen_lies_in_its_part(scenes, masks, point, part):
    found = keypoints(scenes)
    seen = found.visible[:, POINTS.index(point)]
    x, y = found.of(point).round().long().unbind(1)
    inside = masks[part][torch.arange(len(x)), y.clamp(0, 127), x.clamp(0, 127)]
    assert seen.sum() > 3
    assert inside[seen].all()


def test_a_part_that_moves_takes_its_mask_along():
    """Pixels that change when the sun moves are in one of its masks, or in its glow."""
    here = sample_scenes([960_003])
    there = here.with_vector(
        here.vector() + 0.03 * torch.tensor([name == "sun_x" for name in CONTINUOUS])
    )
    changed = (render(there) - render(here)).abs().amax(1) > 0.25
    discs = part_masks(here)["sun"] | part_masks(there)["sun"]
    assert changed.sum() > 30
    assert not (changed & ~discs).any()


def test_clicks_go_to_the_middle_and_then_where_the_selection_is_most_wrong():
    wanted = np.zeros((20, 20), dtype=bool)
    wanted[4:11, 4:11] = True
    assert next_click(np.zeros_like(wanted), wanted) == ((7, 7), True)
    too_much = wanted.copy()
    too_much[12:19, 12:19] = True
    assert next_click(too_much, wanted) == ((15.0, 15.0), False)
    too_little = wanted.copy()
    too_little[4:9, 4:9] = False
    assert next_click(too_little, wanted) == ((6.0, 6.0), True)


def test_every_click_takes_the_best_of_the_tolerances():
    wanted = np.zeros((9, 9), dtype=bool)
    wanted[2:7, 2:7] = True

    def select(points, _labels, factors):
        """Grow a square around the first click by the last factor."""
        (x, y), size = points[0], int(factors[-1])
        mask = np.zeros_like(wanted)
        mask[y - size : y + size + 1, x - size : x + size + 1] = True
        return mask

    assert clicked(select, wanted, (1.0, 2.0, 3.0)) == (1.0, 1.0, 1.0)
    assert clicked(select, wanted, (1.0,))[0] == pytest.approx(9 / 25)


@pytest.mark.slow
def test_the_command_writes_what_it_shows(tmp_path, capsys):
    out = tmp_path / "selection.json"
    words = ["bench", "selection", "--n", "1", "--seed", "970000", "--json", str(out)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    results = json.loads(out.read_text())["results"]
    assert {(r["by"], r["dragged"]) for r in results} == {
        (by, dragged) for by in ("features", "colours") for dragged in (True, False)
    }
    assert {r["part"] for r in results} <= set(PARTS)
    for part in PARTS:
        assert part in shown
    for one in results:
        assert len(one["overlaps"]) == 3
        assert all(0 <= overlap <= 1 for overlap in one["overlaps"])
