"""A mask that is thinner than a latent cell is not lost, and it is said that it was grown."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_sessions import ask, left_half, session_on

from dragwidget.data.frames import lost_cells, mask_to_latent
from dragwidget.data.instructions import DragInstructions, on_grid

SIDE, FEATURES, LATENT = 512, (256, 256), (64, 64)  # of the paper: a cell is 8 pixels
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
THIN = "part of the mask is thinner than one latent cell"


def cells_of(mask, features=FEATURES, latent=LATENT):
    """(the mask on the latent grid, how many cells were added); what is said is checked."""
    height, width = mask.shape
    drawn = DragInstructions.from_points([(0, 0), (1, 1)], size=(width, height), mask=mask)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        cells = on_grid(drawn, features, latent)
    said = [str(warning.message) for warning in heard]
    assert bool(said) is (cells.grown > 0)
    if said:
        assert said[0].startswith(THIN)
        assert f"so {cells.grown} whole cells" in said[0]
    return cells.mask, cells.grown


def stroke(angle: float, width: float, centre=(200.3, 301.7), length=300):
    """A straight stroke, degrees and pixels."""
    radians = np.deg2rad(angle)
    across = (COLUMNS - centre[1]) * np.sin(radians) - (ROWS - centre[0]) * np.cos(radians)
    along = (COLUMNS - centre[1]) * np.cos(radians) + (ROWS - centre[0]) * np.sin(radians)
    return (abs(across) < width / 2) & (abs(along) < length / 2)


def brush(row: float, column: float, radius: float):
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2


def all_near(mask, cells, beside=1):
    """Whether each pixel of a mask has an editable cell in its own place or ``beside`` it."""
    rows, columns = np.nonzero(mask)
    height, width = cells.shape
    rows, columns = rows * height // mask.shape[0], columns * width // mask.shape[1]
    padded = np.pad(cells, beside)
    around = range(2 * beside + 1)
    return np.all(sum(padded[rows + i, columns + j].astype(int) for i in around for j in around))


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (511, 511), (511, 0), (100, 207)])
def test_one_pixel_becomes_the_cell_that_holds_it(place):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[place] = True
    cells, grown = cells_of(mask)
    assert np.argwhere(cells).tolist() == [[place[0] // 8, place[1] // 8]]
    assert grown == (place != (0, 0))  # that one is a pixel that nearest sampling sees


def test_a_stroke_between_the_sampled_columns_is_not_lost():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:400, 201:208] = True
    assert not mask_to_latent(mask, FEATURES, LATENT).any()
    cells, grown = cells_of(mask)
    assert grown == 38
    assert cells[12:50, 25].all()
    assert cells.sum() == 38


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0, 10, 30, 45, 60, 90, 135, 170])
@pytest.mark.parametrize("width", [1.5, 3, 5, 7])
@pytest.mark.parametrize("shift", [0, 3, 5])
def test_every_pixel_of_a_thin_stroke_has_an_editable_cell(angle, width, shift):
    mask = stroke(angle, width, (200.3 + shift, 301.7 - shift))
    cells, _ = cells_of(mask)
    assert all_near(mask, cells)


def test_of_several_parts_each_that_vanishes_is_grown_and_the_others_are_as_sampled():
    body = brush(150, 150, 60)
    dot, line = brush(302, 302, 1), np.zeros((SIDE, SIDE), bool)
    line[401:404, 50:200] = True
    sampled = mask_to_latent(body, FEATURES, LATENT)
    cells, grown = cells_of(body | dot | line)
    assert grown > 0
    assert np.array_equal(cells[:32, :32], sampled[:32, :32])
    assert cells[37, 37]
    assert cells[50, 7:24].all()
    assert cells.sum() == sampled.sum() + grown


def test_the_thin_end_of_a_broad_stroke_is_not_lost():
    mask = brush(150, 150, 60)
    mask[145:148, 150:400] = True
    cells, grown = cells_of(mask)
    assert grown > 0
    assert cells[18, 28:50].all()


@pytest.mark.slow
@given(st.floats(9, 200), st.floats(0, 1), st.floats(0, 1))
def test_what_a_broad_brush_painted_is_as_sampled_bit_for_bit(radius, down, across):
    # Whole within the image: what the border cuts to less than a cell is no broad stroke.
    row = radius + down * (SIDE - 1 - 2 * radius)
    column = radius + across * max(0, SIDE - 41 - 2 * radius)
    mask = brush(row, column, radius) | brush(row, min(column + 40, SIDE - 1 - radius), radius)
    cells, grown = cells_of(mask)
    assert grown == 0
    assert np.array_equal(cells, mask_to_latent(mask, FEATURES, LATENT))


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=50)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 3),
)
def test_no_pixel_is_lost_whatever_the_grids(mask, height, width, finer):
    features, latent = (height * finer, width * finer), (height, width)
    cells = mask_to_latent(mask, features, latent) | lost_cells(mask, features, latent)
    assert all_near(mask, cells)
    assert cells.any() == mask.any()


def test_features_coarser_than_the_latent_do_not_grow_a_mask_that_they_see():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:300, 100:300] = True  # features of 32 pixels a cell
    cells, grown = cells_of(mask, (16, 16), LATENT)
    assert grown == 0
    assert np.array_equal(cells, mask_to_latent(mask, (16, 16), LATENT))


def test_a_mask_that_is_set_everywhere_protects_nothing():
    cells, grown = cells_of(np.ones((SIDE, SIDE), bool))
    assert cells.all()
    assert grown == 0


def test_the_warning_points_to_whoever_asked_for_the_cells():
    mask = np.zeros((48, 64), bool)
    mask[1, 1] = True
    with pytest.warns(UserWarning, match=THIN) as caught:
        on_grid(ask(mask=mask), (24, 32), (12, 16))
    assert caught[0].filename == __file__


# ---------------------------------------------------------------- in a session


def one_pixel():
    mask = np.zeros((48, 64), bool)
    mask[13, 13] = True
    return mask


def protected_in(session):
    """1 where the session protects the latent, (h, w)."""
    edit = session.edit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return edit.protected(session.instructions, session.settings.drag)


@pytest.mark.slow
@pytest.mark.parametrize("generated", [False, True])
def test_a_drag_with_a_one_pixel_mask_protects_all_other_cells_and_says_so(tiny, generated):
    session = session_on(tiny, region_weight=1.0)
    if generated:
        session.generate("a cat", "", 3.0, 0, (64, 48))
    session.instructions = ask(mask=one_pixel())
    with pytest.warns(UserWarning, match=THIN):
        session.step()
    assert "region" in session.history[-1].loss_terms
    assert session.mask_growth == 1
    protected = protected_in(session)
    height, width = protected.shape
    assert (protected == 0).nonzero().tolist() == [[13 * height // 48, 13 * width // 64]]


def test_a_mask_that_is_broad_enough_was_not_grown(tiny):
    session = session_on(tiny)
    assert session.mask_growth == 0
    session.instructions = ask()
    assert session.mask_growth == 0
    session.instructions = ask(mask=left_half())
    assert session.mask_growth == 0


@pytest.mark.slow
def test_a_mask_that_is_set_everywhere_drags_as_no_mask_does(tiny):
    found = []
    for mask in (None, np.ones((48, 64), bool)):
        session = session_on(tiny)
        session.instructions = ask(mask=mask)
        session.step(2)
        found.append(session.history.current.latent)
    assert torch.equal(*found)
