"""Features on the feature grid, against torch's own resizing and sampling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import noise

from dragwidget.drag import FeatureMap

SIDES = st.integers(1, 9)


@st.composite
def maps(draw):
    """A map (1, C, h, w) and a feature grid; finer, equal or coarser than the map."""
    size = draw(SIDES), draw(SIDES)
    grid = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    block = noise(1, draw(st.integers(1, 3)), *size, seed=draw(st.integers(0, 99)))
    return block, grid


def positions(count: int, least: float, most: float):
    numbers = st.floats(least, most, width=32, allow_subnormal=False)
    return st.lists(numbers, min_size=1, max_size=count)


def resized(block, grid):
    return F.interpolate(block, size=grid, mode="bilinear", align_corners=False)


def sampled(image, rows, columns):
    """Bilinear samples (C, p, q) of an image (1, C, h, w), replicated past its border."""
    height, width = image.shape[2:]
    # grid_sample wants x, y in [-1, 1] from the first to the last cell centre
    y = 2 * rows / max(height - 1, 1) - 1 if height > 1 else torch.zeros_like(rows)
    x = 2 * columns / max(width - 1, 1) - 1 if width > 1 else torch.zeros_like(columns)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    return F.grid_sample(
        image, grid[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0]


@given(maps())
def test_the_full_map_is_the_bilinear_resize(given_map):
    block, grid = given_map
    torch.testing.assert_close(FeatureMap((block,), grid).full(), resized(block, grid)[0])


@given(maps(), st.data())
def test_a_patch_is_a_bilinear_sample_of_the_bilinear_resize(given_map, data):
    block, grid = given_map
    rows = torch.tensor(data.draw(positions(4, 0, grid[0] - 1)))
    columns = torch.tensor(data.draw(positions(4, 0, grid[1] - 1)))
    got = FeatureMap((block,), grid).patch(rows, columns)
    torch.testing.assert_close(
        got, sampled(resized(block, grid), rows, columns), rtol=1e-4, atol=1e-4
    )


@given(maps(), st.data())
def test_past_the_border_the_nearest_cell_is_taken(given_map, data):
    block, grid = given_map
    rows = torch.tensor(data.draw(positions(4, -30, 50)))
    columns = torch.tensor(data.draw(positions(4, -30, 50)))
    got = FeatureMap((block,), grid).patch(rows, columns)
    wanted = sampled(resized(block, grid), rows, columns)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert got.isfinite().all()


def test_past_the_border_the_patch_is_that_of_a_padded_map():
    block = noise(1, 3, 6, 5)
    padded = F.pad(resized(block, (12, 10)), (4, 4, 4, 4), mode="replicate")
    rows, columns = torch.arange(-3.5, 2), torch.arange(7.25, 12)
    got = FeatureMap((block,), (12, 10)).patch(rows, columns)
    torch.testing.assert_close(got, sampled(padded, rows + 4, columns + 4))


def test_gradients_of_a_patch_are_those_of_the_resize():
    rows, columns = torch.tensor([0.5, 3.0]), torch.tensor([6.25, 7.9])
    mine, theirs = (noise(1, 2, 5, 5).requires_grad_() for _ in range(2))
    weights = noise(2, 2, 2, seed=1)
    (FeatureMap((mine,), (10, 10)).patch(rows, columns) * weights).sum().backward()
    (sampled(resized(theirs, (10, 10)), rows, columns) * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


@given(maps(), st.data(), st.integers(1, 7))
def test_squares_are_the_patches_at_their_cells(given_map, data, side):
    block, grid = given_map
    places = st.tuples(*(st.floats(-9, n + 9, width=32, allow_subnormal=False) for n in grid))
    corners = torch.tensor(data.draw(st.lists(places, min_size=1, max_size=4)))
    features = FeatureMap((block, 2 * block[..., :1]), grid)
    found = features.squares(corners, side)
    for square, corner in zip(found, corners, strict=True):
        rows, columns = corner[:, None] + torch.arange(side)
        wanted = features.patch(rows, columns).flatten(1).T
        torch.testing.assert_close(square, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_of_squares_are_those_of_patches_also_where_they_overlap():
    corners = torch.tensor([[0.25, 3.5], [1.0, 3.0], [-2.0, 7.5], [8.5, 9.0]])
    mine, theirs = (noise(1, 2, 5, 5).double().requires_grad_() for _ in range(2))
    weights = noise(4, 9, 2, seed=1).double()
    (FeatureMap((mine,), (10, 10)).squares(corners, 3) * weights).sum().backward()
    for corner, weight in zip(corners.double(), weights, strict=True):
        rows, columns = corner[:, None] + torch.arange(3)
        patch = FeatureMap((theirs,), (10, 10)).patch(rows, columns)
        (patch.flatten(1).T * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_cells_of_squares_are_inside_or_past_the_border():
    corners = torch.tensor([[-2.0, 5.0], [8.0, 3.0]])
    found = FeatureMap((noise(1, 1, 5, 5),), (10, 9)).inside(corners, 5).view(2, 5, 5)
    assert found[0].all(1).tolist() == [False, False, False, False, False]
    assert found[0, :, 0].tolist() == [False, False, True, True, True]
    assert found[0, 4].tolist() == [True, True, True, True, False]
    assert found[1, :, 0].tolist() == [True, True, False, False, False]


def test_a_corner_has_a_row_and_a_column_and_no_more():
    with pytest.raises(ValueError, match="shorter"):
        FeatureMap((noise(1, 1, 5, 5),), (8, 8)).inside(torch.tensor([[1.0, 2.0, 3.0]]), 1)


def test_blocks_of_different_sizes_are_stacked_by_channel():
    coarse, fine = noise(1, 2, 4, 4), noise(1, 3, 8, 8, seed=1)
    full = FeatureMap((coarse, fine), (16, 16)).full()
    assert full.shape == (5, 16, 16)
    torch.testing.assert_close(full[2:], resized(fine, (16, 16))[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_sampled_in_single_precision(dtype):
    block = noise(1, 2, 4, 4).to(dtype)
    got = FeatureMap((block,), (9, 9)).full()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, resized(block.float(), (9, 9))[0])


def test_double_precision_features_stay_so():
    block = noise(1, 2, 4, 4).double()
    got = FeatureMap((block,), (9, 9)).full()
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, resized(block, (9, 9))[0])


def test_detached_features_have_the_same_values_and_no_graph():
    features = FeatureMap((noise(1, 2, 4, 4).requires_grad_(),), (8, 8))
    assert features.full().requires_grad
    assert not features.detach().full().requires_grad
    torch.testing.assert_close(features.detach().full(), features.full().detach())


def test_positions_come_to_where_the_features_are():
    """A device that keeps shapes only stands for a GPU: nothing may be mixed with the CPU's."""
    block = noise(1, 2, 4, 4).to("meta")
    got = FeatureMap((block,), (8, 8)).patch(torch.arange(3), torch.tensor([0.5, 1.0]))
    assert got.device.type == "meta"
    assert got.shape == (2, 3, 2)
    assert got.dtype == torch.float32
    squares = FeatureMap((block,), (8, 8)).squares(torch.tensor([[1.5, 2.0]]), 3)
    assert squares.device.type == "meta"
    assert squares.shape == (1, 9, 2)
