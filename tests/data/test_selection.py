"""Selecting a thing by clicks: colours, connection, tolerance, edges."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dragwidget.data.selection import (
    connected,
    guided_filter,
    lab,
    select,
    select_by_colour,
    swept,
)

SIZE = (120, 90)  # (width, height)
DISC = (20, 20, 60, 60)


@pytest.fixture
def image():
    """A red disc and a red square on green, with a little noise."""
    made = Image.new("RGB", SIZE, (70, 160, 80))
    draw = ImageDraw.Draw(made)
    draw.ellipse(DISC, fill=(200, 60, 50))
    draw.rectangle((85, 30, 110, 70), fill=(200, 60, 50))
    noise = np.random.default_rng(0).integers(-6, 7, (SIZE[1], SIZE[0], 3))
    return np.clip(np.asarray(made).astype(int) + noise, 0, 255).astype(np.uint8)


def disc():
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).ellipse(DISC, fill=255)
    return np.asarray(mask) > 0


def overlap(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_click_selects_the_thing_that_is_there_and_not_its_like_elsewhere(image):
    assert overlap(select_by_colour(image, (40, 40)), disc()) > 0.97


def test_two_clicks_select_two_things(image):
    both = select_by_colour(image, [(40, 40), (100, 50)])
    assert both[50, 100]
    assert both[40, 40]
    assert not both[50, 72]


def test_a_click_off_the_thing_takes_its_like_away():
    ramp = np.zeros((40, 100, 3), np.uint8)
    ramp[:] = (np.arange(100) * 0.6 + 90).astype(np.uint8)[None, :, None]  # no edge anywhere
    whole = select_by_colour(ramp, (30, 20), tolerance=4.0)
    less = select_by_colour(ramp, [(30, 20), (70, 20)], np.array([True, False]), 4.0)
    assert whole[20, 60]
    assert not less[20, 60]
    assert less[20, 30]
    assert less[20, 45]


def test_more_tolerance_selects_more_and_never_less():
    ramp = np.zeros((20, 200, 3), np.uint8)
    ramp[:] = np.arange(200, dtype=np.uint8)[None, :, None]
    masks = [select_by_colour(ramp, (100, 10), tolerance=2.0**k) for k in range(-2, 3)]
    counts = [np.count_nonzero(mask) for mask in masks]
    assert counts == sorted(set(counts))


def test_the_mask_has_the_images_size_and_its_edges_also_where_less_is_compared():
    large = Image.new("RGB", (900, 700), (30, 60, 160))
    ImageDraw.Draw(large).rectangle((211, 133, 608, 507), fill=(230, 200, 60))
    found = select_by_colour(np.asarray(large), (400, 300))
    wanted = np.zeros((700, 900), bool)
    wanted[133:508, 211:609] = True
    assert overlap(found, wanted) > 0.985


def test_a_description_decides_in_place_of_colours(image):
    description = np.zeros((9, 12, 1), np.float32)
    description[:, 6:] = 3
    found = select(image, description, (10, 80))
    assert found[80, 10]
    assert found[80, 50]
    assert not found[80, 80]


def test_connected_goes_round_corners_and_not_through_walls():
    inside = np.ones((9, 9), bool)
    inside[1:8, 4] = False
    inside[0, 5] = inside[8, 5] = False
    seeds = np.zeros_like(inside)
    seeds[4, 0] = True
    wanted = inside & (np.arange(9) <= 4)
    assert (connected(inside, seeds) == wanted).all()
    inside[8, 5] = True
    assert (connected(inside, seeds) == inside).all()
    assert not connected(inside, ~inside).any()


def test_lab_of_known_colours():
    colours = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]]], np.uint8)
    wanted = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86)]
    np.testing.assert_allclose(lab(colours)[0], wanted, atol=0.05)


def test_the_guided_filter_is_the_local_regression_of_the_paper():
    random = np.random.default_rng(1)
    guide, values = random.random((7, 8, 3)), random.random((7, 8))
    slope, offset = guided_filter(guide, values, 1, 0.01)
    slopes, offsets = np.zeros((7, 8, 3)), np.zeros((7, 8))
    for row, column in np.ndindex(7, 8):
        window = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        i, p = guide[window].reshape(-1, 3), values[window].ravel()
        spread = np.cov(i.T, bias=True) + 0.01 * np.eye(3)
        slopes[row, column] = np.linalg.solve(
            spread, (i * p[:, None]).mean(0) - i.mean(0) * p.mean()
        )
        offsets[row, column] = p.mean() - slopes[row, column] @ i.mean(0)
    window = np.s_[2:5, 3:6]
    np.testing.assert_allclose(slope[3, 4], slopes[window].mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(offset[3, 4], offsets[window].mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"points": (120, 5)}, "outside the image"),
        ({"points": []}, "points must be"),
        ({"points": [(1, 1)], "labels": [1]}, "labels must be 1 booleans"),
        ({"points": [(1, 1)], "labels": np.array([True, False])}, "labels must be 1 booleans"),
        ({"points": (1, 1), "tolerance": 0.0}, "tolerance must be a factor of 0.0625 to 16"),
        ({"points": (1, 1), "tolerance": float("nan")}, "tolerance must be"),
        ({"points": (1, 1), "tolerance": [1.0, 2.0]}, "one a point"),
    ],
)
def test_bad_clicks_are_refused(image, change, match):
    with pytest.raises(ValueError, match=match):
        select_by_colour(image, **change)


@pytest.mark.parametrize("move", [(0, 0), (7, 0), (-9, 0), (0, 12), (10, 10), (-5, -5), (200, 0)])
def test_what_a_part_sweeps_over_is_its_union_along_the_move(move):
    part = np.zeros((40, 60), bool)
    part[20:25, 20:28] = True
    expected = np.zeros_like(part)
    steps = max(map(abs, move), default=0)
    for step in range(steps + 1):
        share = step / max(1, steps)
        x, y = round(move[0] * share), round(move[1] * share)
        rows, columns = np.nonzero(part)
        rows, columns = rows + y, columns + x
        inside = (rows >= 0) & (rows < 40) & (columns >= 0) & (columns < 60)
        expected[rows[inside], columns[inside]] = True
    np.testing.assert_array_equal(swept(part, move), expected)


def test_a_part_sweeps_over_no_gap_on_a_slanted_line():
    part = np.zeros((64, 64), bool)
    part[10:14, 10:14] = True
    covered = swept(part, (37.0, 21.0))
    for share in np.linspace(0, 1, 200):
        x, y = 12 + 37 * share, 12 + 21 * share
        assert covered[int(y), int(x)]
    assert np.count_nonzero(covered) < 64 * 8
