"""FastDrag's field and what it leaves, by pen and paper."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import noise

from dragwidget.drag.stretching import (
    Plan,
    displacements,
    fill_from_neighbours,
    move_cells,
    stretch_latent,
    stretches,
)

LEVELS = (torch.tensor(0.6), torch.tensor(0.8))


def block(low, high):
    """All cells from ``low`` to ``high``, row-major, (m, 2)."""
    return torch.cartesian_prod(
        torch.arange(low[0], high[0] + 1), torch.arange(low[1], high[1] + 1)
    )


SQUARE = block((2, 3), (10, 11))  # its circle: centre (6, 7), radius 4 sqrt(2)


def points(*rows):
    return torch.tensor(rows, dtype=torch.float32)


# ---------------------------------------------------------------- the field


def test_at_the_handle_all_of_the_displacement_is_taken_and_on_the_circle_none():
    share = stretches(SQUARE, points((5.0, 8.0)))[0]
    cells = SQUARE.tolist()
    assert share[cells.index([5, 8])] == 1
    for corner in ([2, 3], [2, 11], [10, 3], [10, 11]):
        assert share[cells.index(corner)] == pytest.approx(0, abs=1e-9)
    assert ((share >= 0) & (share <= 1)).all()


def test_around_a_handle_in_the_centre_it_falls_linearly():
    share = stretches(SQUARE, points((6.0, 7.0)))[0]
    for (row, column), value in zip(SQUARE.tolist(), share.tolist(), strict=True):
        wanted = 1 - math.hypot(row - 6, column - 7) / math.hypot(4, 4)
        assert value == pytest.approx(wanted, abs=1e-9)


def test_a_line_from_the_handle_falls_linearly_to_the_circle():
    handle = points((6.0, 5.0))
    share = stretches(SQUARE, handle)[0]
    length = 2 + math.hypot(4, 4)  # to the right, through the centre
    for column in range(6, 12):
        value = share[SQUARE.tolist().index([6, column])]
        assert float(value) == pytest.approx(1 - (column - 5) / length, abs=1e-9)


@pytest.mark.parametrize("handle", [(0.0, 0.0), (20.0, 7.0), (6.0, -30.0)])
def test_a_handle_outside_the_circle_gives_finite_shares(handle):
    share = stretches(SQUARE, points(handle))
    assert share.isfinite().all()
    assert ((share >= 0) & (share <= 1)).all()


def test_the_field_of_one_pair_in_the_centre_is_symmetric():
    moves = displacements(SQUARE, points((6.0, 7.0)), points((9.0, 7.0))).view(9, 9, 2)
    torch.testing.assert_close(moves, moves.flip(0))
    torch.testing.assert_close(moves, moves.flip(1))
    torch.testing.assert_close(moves, moves.transpose(0, 1))
    assert (moves[..., 1] == 0).all()


def test_opposite_pulls_cancel_in_the_mean_and_not_for_the_winner():
    handles, targets = points((6.0, 5.0), (6.0, 9.0)), points((6.0, 3.0), (6.0, 11.0))
    middle = [SQUARE.tolist().index([row, 7]) for row in range(2, 11)]
    mean = displacements(SQUARE, handles, targets, "mean")
    winner = displacements(SQUARE, handles, targets, "winner")
    torch.testing.assert_close(mean[middle], torch.zeros(9, 2, dtype=torch.float64))
    left, right = (SQUARE.tolist().index([6, column]) for column in (6, 8))
    assert winner[left, 1] < -0.5
    assert winner[right, 1] > 0.5
    torch.testing.assert_close(winner[left], -winner[right])
    assert (winner[:, 1].abs() >= mean[:, 1].abs() - 1e-9).all()


# ---------------------------------------------------------------- moving and filling


def test_a_block_that_is_shifted_vacates_a_strip():
    latent, cells = noise(1, 4, 12, 12), block((4, 4), (6, 6))
    moved = move_cells(latent, Plan(cells, cells + torch.tensor([0, 2]), torch.arange(9)))
    assert torch.equal(moved.latent[..., 4:7, 6:9], latent[..., 4:7, 4:7])
    holes = torch.zeros(12, 12, dtype=torch.bool)
    holes[4:7, 4:6] = True
    assert torch.equal(moved.holes, holes)
    assert moved.wins.all()
    rest = torch.ones(12, 12, dtype=torch.bool)
    rest[4:7, 6:9] = False
    assert torch.equal(moved.latent[..., rest], latent[..., rest])


def test_of_cells_with_one_destination_the_first_in_the_order_arrives():
    latent, cells = noise(1, 4, 6, 6), block((1, 1), (1, 3))
    there = torch.tensor([[4, 4]] * 3)
    for order in ([0, 1, 2], [2, 0, 1]):
        moved = move_cells(latent, Plan(cells, there, torch.tensor(order)))
        assert torch.equal(moved.latent[..., 4, 4], latent[..., 1, 1 + order[0]])
        assert moved.wins.tolist() == [k == order[0] for k in range(3)]


def test_holes_are_filled_by_the_nearest_cells_one_after_the_other():
    latent = torch.zeros(1, 1, 1, 4)
    latent[..., 0], latent[..., 3] = 3.0, 9.0
    filled = fill_from_neighbours(latent, torch.tensor([[False, True, True, False]]))
    first = (2 * 3 + 9) / 3  # 1 and 2 cells away
    assert filled.flatten().tolist() == pytest.approx([3, first, (first + 9) / 2, 9])


def test_where_nothing_is_filled_a_hole_stays():
    latent = noise(1, 4, 3, 3)
    assert torch.equal(fill_from_neighbours(latent, torch.ones(3, 3, dtype=torch.bool)), latent)


def stretched(latent, holes, seed=0, protected=None, clean=None):
    return stretch_latent(
        latent, latent if clean is None else clean, LEVELS, points((6.0, 5.0)),
        points((6.0, 10.0)), protected, holes=holes,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def test_noise_in_the_holes_has_the_mean_and_variance_of_the_noise_level():
    latent, clean = noise(1, 4, 12, 16), noise(1, 4, 12, 16, seed=1)
    kept = stretched(latent, "keep", clean=clean)
    many = torch.cat([stretched(latent, "noise", seed, clean=clean) for seed in range(400)])
    holes = (many[0] != many[1]).all(0)
    assert 5 < holes.sum() < 100
    assert torch.equal(many[:, :, ~holes], kept[..., ~holes].expand(400, -1, -1))
    drawn = many[:, :, holes]
    gap = (drawn.mean(0) - LEVELS[0] * clean[0][:, holes]).abs()
    assert gap.mean() < 0.05  # 0.8 / sqrt(400) is one standard error
    assert float(drawn.var(0).mean()) == pytest.approx(0.64, rel=0.03)


@pytest.mark.parametrize("holes", ["keep", "neighbours", "noise"])
def test_the_protected_region_keeps_its_bits(holes):
    latent, protected = noise(1, 4, 12, 16), torch.ones(12, 16)
    protected[3:10, 3:9] = 0  # the target is outside
    warped = stretched(latent, holes, protected=protected)
    assert torch.equal(warped[..., protected > 0], latent[..., protected > 0])
    assert not torch.equal(warped, latent)
    assert warped.isfinite().all()
    assert torch.equal(stretched(latent, holes, protected=torch.ones(12, 16)), latent)


def test_the_cell_at_the_handle_arrives_at_the_target():
    latent = noise(1, 4, 12, 16)
    for combine in ("mean", "winner"):
        warped = stretch_latent(
            latent, latent, LEVELS, points((6.0, 5.0)), points((6.0, 10.0)), combine=combine
        )
        # with the mean, another cell of the row may have come first
        near = latent[0, :, 6, 5:7] if combine == "winner" else latent[0, :, 5:8, 4:8].flatten(1)
        assert (warped[0, :, 6, 10][:, None] == near).all(0).any()


def test_no_displacement_changes_nothing():
    latent, here = noise(1, 4, 12, 16), points((6.0, 5.0))
    for holes in ("keep", "neighbours", "noise"):
        assert torch.equal(stretch_latent(latent, latent, LEVELS, here, here, holes=holes), latent)
