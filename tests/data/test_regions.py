"""The hierarchy of regions: nested, whole, and likely what one means."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragwidget.data import selection
from dragwidget.data.regions import Regions
from dragwidget.data.selection import lab, select_regions


def house():
    """A white house with a blue door on green; (48, 64, 3)."""
    image = np.empty((48, 64, 3), np.uint8)
    image[:] = (70, 150, 80)
    image[12:40, 16:48] = (235, 230, 225)
    image[26:40, 28:36] = (60, 80, 190)
    return image


@pytest.fixture(scope="module")
def regions():
    colours = lab(house())
    return Regions.of(colours, colours)


def test_there_is_one_smallest_region_for_each_colour(regions):
    assert regions.leaf.max() == 2
    assert len(regions.parents) == 5


def test_the_regions_around_a_place_are_nested_up_to_the_whole(regions):
    around = regions.around(30, 30)
    masks = [regions.cells(region) for region in around]
    for inner, outer in pairwise(masks):
        assert (outer | inner == outer).all()
        assert outer.sum() > inner.sum()
    assert masks[-1].all()
    heights = [regions.heights[region] for region in around]
    assert heights == sorted(set(heights))


def test_what_is_most_alike_is_joined_first():
    description = np.zeros((48, 64, 1))
    description[12:40, 16:48] = 5
    description[26:40, 28:36] = 6
    described = Regions.of(lab(house()), description)
    door, whole_house, _ = described.around(30, 30)
    assert described.cells(door).sum() == 14 * 8
    assert described.cells(whole_house).sum() == 28 * 32
    assert described.heights[whole_house] == pytest.approx(
        1 * (112 * 784) / (112 + 784) / (48 * 64), rel=1e-6
    )


def test_a_click_means_what_stands_out_and_not_the_ground(regions):
    assert regions.cells(regions.likely(regions.around(30, 30))).sum() == 14 * 8


@pytest.fixture(scope="module")
def described():
    """The regions of the house where features say that the door is a part of it."""
    description = np.zeros((48, 64, 1))
    description[12:40, 16:48] = 5
    description[26:40, 28:36] = 6
    return Regions.of(lab(house()), description)


def test_tolerance_chooses_among_the_regions_around_a_click(described):
    counts = [
        np.count_nonzero(select_regions(house(), described, (31, 33), tolerance=t))
        for t in (1 / 16, 1.0, 16.0)
    ]
    assert counts == sorted(counts)
    assert counts[0] == 14 * 8
    assert counts[-1] >= 28 * 32


def test_a_later_click_takes_a_part_away(described):
    on = np.array([True, False])
    found = select_regions(house(), described, [(20, 20), (31, 33)], on, [16.0, 1 / 16])
    assert found[20, 20]
    assert not found[33, 31]


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
    colours = lab(garden())
    return Regions.of(colours, colours)


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
