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
