"""The frames of an image: pixels to cells and back, and a mask onto the latent."""

from __future__ import annotations

import doctest

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dragwidget.data import frames
from dragwidget.data.frames import from_grid, mask_to_latent, to_grid
from dragwidget.data.instructions import DragInstructions, on_grid

sides = st.integers(1, 40)
grids = st.tuples(sides, sides)


def wide_instructions(*masked: tuple[int, int]) -> DragInstructions:
    """An image 12 wide and 8 high, so that a swap of axes shows; its mask at (row, column)s."""
    mask = np.zeros((8, 12), dtype=bool)
    for cell in masked:
        mask[cell] = True
    points = [(6, 2), (11.9, 7.9)]
    return DragInstructions.from_points(points, size=(12, 8), mask=mask if masked else None)


def test_convention_points_are_column_then_row_and_grids_row_then_column():
    assert to_grid([(6, 2)], size=(12, 8), grid=(8, 12)).tolist() == [[2, 6]]
    assert to_grid([(6, 2)], size=(12, 8), grid=(4, 6)).tolist() == [[1, 3]]


def test_convention_pixel_zero_is_cell_zero_and_halves_go_to_even():
    assert to_grid([(0, 0), (1, 1), (3, 3), (5, 5)], size=(12, 8), grid=(4, 6)).tolist() == [
        [0, 0],
        [0, 0],
        [2, 2],
        [2, 2],
    ]


@given(sides, sides, grids, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
@example(512, 512, (256, 256), 511 / 512, 511.999 / 512)  # the last row and column
def test_every_point_of_the_image_is_a_cell_of_the_grid(width, height, grid, x, y):
    [[row, col]] = to_grid([(x * width, y * height)], (width, height), grid)
    assert 0 <= row <= grid[0] - 1
    assert 0 <= col <= grid[1] - 1
    assert row == int(row)
    assert col == int(col)


@given(grids, grids, st.data())
def test_cells_come_back_from_the_image(size, grid, data):
    row = data.draw(st.integers(0, grid[0] - 1))
    col = data.draw(st.integers(0, grid[1] - 1))
    points_xy = from_grid([(row, col)], size, grid)
    assert (points_xy >= 0).all()
    assert (points_xy < size).all()
    assert to_grid(points_xy, size, grid).tolist() == [[row, col]]


@given(st.tuples(st.integers(8, 600), st.integers(8, 600)), st.data())
def test_points_come_back_from_the_grid_within_a_cell(size, data):
    point = [data.draw(st.floats(0, side, exclude_max=True)) for side in size]
    grid = (size[1] // 2, size[0] // 2)
    back = from_grid(to_grid([point], size, grid), size, grid)[0]
    for moved, side, cells in zip(np.abs(back - point), size, grid[::-1], strict=True):
        assert moved <= side / cells  # half a cell, but for the last, where the point is clamped


@given(st.tuples(sides, sides), grids, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1))))
def test_points_meet_the_papers_arithmetic(size, grid, fractions):
    """(y / H * rows, x / W * columns), rounded by torch in float32."""
    (width, height), (rows, columns) = size, grid
    points = [(x * width, y * height) for x, y in fractions]
    cells = [[y / height * rows, x / width * columns] for x, y in points]
    wanted = torch.tensor(cells, dtype=torch.float32).reshape(-1, 2).round()
    wanted = wanted.minimum(torch.tensor(grid) - 1.0)
    got = to_grid(points, size, grid)
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted.numpy())


def torch_nearest(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    resized = F.interpolate(
        torch.tensor(mask, dtype=torch.float32)[None, None], grid, mode="nearest"
    )
    return resized[0, 0].numpy() > 0


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32))
@example(333, 500, 0)
def test_nearest_takes_the_cells_that_torch_takes(old, new, seed):
    mask = np.random.default_rng(seed).random((1, old)) < 0.5
    assert np.array_equal(mask_to_latent(mask, (1, new), (1, new)), torch_nearest(mask, (1, new)))


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=50)), grids, grids)
def test_masks_reach_the_latent_as_torch_resizes_them(mask, feature_grid, latent_grid):
    wanted = torch_nearest(torch_nearest(mask, feature_grid), latent_grid)
    assert np.array_equal(mask_to_latent(mask, feature_grid, latent_grid), wanted)


def test_on_grid_converts_points_and_mask():
    grid = on_grid(wide_instructions((4, 8), (3, 7)), feature_grid=(4, 6), latent_grid=(2, 3))
    assert grid.handles_rc.tolist() == [[1, 3]]
    assert grid.targets_rc.tolist() == [[3, 5]]
    assert grid.mask.tolist() == [[False, False, False], [False, False, True]]
    assert grid.grown == 0


def test_on_grid_keeps_no_mask_as_none():
    assert on_grid(wide_instructions(), (4, 6), (2, 3)).mask is None


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(frames)
    assert results.attempted
    assert not results.failed
