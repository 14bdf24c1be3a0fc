"""Regions: what a click means by their borders, and how further clicks correct it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragwidget.data import selection
from dragwidget.data.regions import Regions, _depths
from dragwidget.data.selection import lab, select_regions


def house():
    """A white house with a blue door on green; (48, 64, 3)."""
    image = np.empty((48, 64, 3), np.uint8)
    image[:] = (70, 150, 80)
    image[12:40, 16:48] = (235, 230, 225)
    image[26:40, 28:36] = (60, 80, 190)
    return image


def same(image):
    """A description that tells no two places apart."""
    return np.zeros((*image.shape[:2], 1))


@pytest.fixture(scope="module")
def regions():
    return Regions.of(lab(house()), same(house()))


def test_there_is_one_region_for_each_colour(regions):
    assert sorted(regions.areas) == [14 * 8, 28 * 32 - 14 * 8, 48 * 64 - 28 * 32]
    assert regions.areas.sum() == regions.leaf.size


def test_borders_have_their_length_and_the_contrast_of_both_sides(regions):
    at = {regions.leaf[0, 0]: "ground", regions.leaf[20, 20]: "wall", regions.leaf[30, 30]: "door"}
    lengths = {
        frozenset((at[a], at[b])): length
        for (a, b), length in zip(regions.pairs, regions.lengths, strict=True)
    }
    assert lengths == {
        frozenset(("wall", "door")): 2 * 14 + 8,
        frozenset(("wall", "ground")): 2 * (28 + 32) - 8,
        frozenset(("door", "ground")): 8,
    }
    for (a, b), step in zip(regions.pairs, regions.steps, strict=True):
        assert step == pytest.approx(np.linalg.norm(regions.colours[a] - regions.colours[b]))


def meant(regions, cell):
    return regions.meant(np.zeros(regions.leaf.shape, dtype=bool), cell, True)


def test_a_click_means_what_stands_out_and_not_the_ground(regions):
    assert meant(regions, (33, 31)).sum() == 14 * 8


def test_features_decide_where_colours_do_not():
    """Two halves of a disc: of one thing where their features agree, two things where not."""
    rows, columns = np.indices((48, 64))
    image = np.full((48, 64, 3), (70, 150, 80), np.uint8)
    disc = (rows - 24) ** 2 + (columns - 32) ** 2 < 15**2
    image[disc & (columns < 32)] = (200, 60, 50)
    image[disc & (columns >= 32)] = (170, 90, 50)
    one, two = np.zeros((48, 64, 2)), np.zeros((48, 64, 2))
    one[disc] = (1, 0)
    one[~disc] = two[~disc] = (0, 1)
    two[disc & (columns < 32)] = (1, 0)
    two[disc & (columns >= 32)] = (-1, 0)
    whole = meant(Regions.of(lab(image), one), (24, 31))
    half = meant(Regions.of(lab(image), two), (24, 24))
    np.testing.assert_array_equal(whole, disc)
    np.testing.assert_array_equal(half, disc & (columns < 32))


def test_a_mask_is_as_deep_as_the_erosions_that_it_outlasts():
    leaf = np.zeros((21, 31), int)
    leaf[6:15, 8:23] = 1
    depth, deepest = _depths(np.array([[False, True], [False, False]]), leaf, (7, 15))
    assert depth.tolist() == [2, 0]
    assert deepest.tolist() == [5, 0]


@pytest.mark.parametrize("click", [(31, 33), (20, 20), (5, 5)])
def test_more_tolerance_selects_more_and_never_less(regions, click):
    counts = [
        np.count_nonzero(regions.meant(np.zeros((48, 64), bool), click[::-1], True, (), factor))
        for factor in (1 / 16, 1 / 2, 1.0, 2.0, 16.0)
    ]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] or counts[0] > 28 * 32


def test_a_click_takes_away_what_it_means_and_nothing_else(regions):
    house, ground = regions.leaf != regions.leaf[0, 0], regions.leaf == regions.leaf[0, 0]
    door = regions.leaf == regions.leaf[30, 30]
    gone = regions.meant(house, (33, 31), False, [((20, 20), True)])
    np.testing.assert_array_equal(gone, door)
    assert not (gone & ground).any()


def garden():
    """Two white houses with blue doors, a red ball, on green; (48, 96, 3)."""
    image = np.full((48, 96, 3), (70, 150, 80), np.uint8)
    for left in (8, 56):
        image[12:40, left : left + 24] = (235, 230, 225)
        image[26:40, left + 9 : left + 15] = (60, 80, 190)
    image[40:46, 40:46] = (200, 40, 40)
    return image


@pytest.fixture(scope="module")
def places():
    return Regions.of(lab(garden()), same(garden()))


@given(
    st.lists(
        st.tuples(st.integers(0, 95), st.integers(0, 47), st.booleans()),
        min_size=1, max_size=6, unique_by=lambda click: click[:2],
    )
)  # fmt: skip
def test_no_click_undoes_what_an_earlier_one_said(places, clicks):
    points, on = [click[:2] for click in clicks], np.array([click[2] for click in clicks])
    coarse = selected_cells(places, points, on)
    for (x, y), is_on in zip(points, on, strict=True):
        assert coarse[y, x] == is_on


def selected_cells(regions, points, on, tolerance=1.0):
    """Return the selection before it is snapped to edges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_refined", lambda _, coarse: coarse)
        return select_regions(garden(), regions, points, on, tolerance)


def test_a_click_elsewhere_selects_another_thing_beside_the_first(places):
    both = selected_cells(places, [(42, 42), (12, 20)], np.array([True, True]))
    assert both[42, 42]
    assert both[12:40, 8:17].all()
    assert not both[20, 60]


def test_a_click_off_a_part_takes_only_the_part_away(places):
    points = [(12, 20), (20, 33)]
    with_door = selected_cells(places, points, np.array([True, True]))
    without = selected_cells(places, points, np.array([True, False]))
    assert with_door[26:40, 17:23].all()
    assert not without[26:40, 17:23].any()
    assert without[12:40, 8:17].all()


def test_a_click_at_the_edge_of_a_whole_thing_does_not_add_the_ground(places):
    ball = selected_cells(places, [(42, 42)], np.array([True]))
    more = selected_cells(places, [(42, 42), (46, 42)], np.array([True, True]))
    assert ball.sum() == 36
    assert 36 < more.sum() < 50
