"""Warping a latent carries what is at the handles to the targets."""

import itertools
import math

import pytest
import torch

from dragwidget.drag.warping import warp_latent

SIGNAL = torch.tensor(0.4).sqrt()


def latents(side=16, alpha=SIGNAL):
    """A clean latent, smooth, and the same under noise."""
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    clean = torch.stack([rows, columns, rows * columns, rows**2])[None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return clean, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def test_the_content_at_the_handle_lies_at_the_target_under_the_noise_that_was_there():
    clean, latent = latents()
    handle, target = torch.tensor([[5.0, 4.0]]), torch.tensor([[9.0, 10.0]])
    warped = warp_latent(latent, clean, SIGNAL, handle, target)
    noise = latent - SIGNAL * clean
    expected = SIGNAL * clean[0, :, 5, 4] + noise[0, :, 9, 10]
    torch.testing.assert_close(warped[0, :, 9, 10], expected)


def test_a_clean_latent_moves_by_fractions_of_a_cell():
    one = torch.tensor(1.0)
    clean, latent = latents(alpha=one)
    handle, target = torch.tensor([[5.5, 4.25]]), torch.tensor([[9.0, 10.0]])
    warped = warp_latent(latent, clean, one, handle, target)
    there = torch.tensor([5.5, 4.25]) * 2 / 15 - 1
    torch.testing.assert_close(warped[0, :2, 9, 10], there, rtol=0, atol=0.02)


def test_noise_alone_stays_where_it_is():
    nothing = torch.tensor(0.0)
    clean, latent = latents(alpha=nothing)
    points = torch.tensor([[3.0, 3.0]]), torch.tensor([[8.5, 6.5]])
    assert torch.equal(warp_latent(latent, clean, nothing, *points), latent)


def test_what_is_frozen_stays_as_it_is():
    clean, latent = latents()
    protected = torch.ones(16, 16)
    protected[2:12, 2:12] = 0
    points = torch.tensor([[5.0, 5.0]]), torch.tensor([[8.0, 8.0]])
    warped = warp_latent(latent, clean, SIGNAL, *points, protected)
    assert torch.equal(warped[..., protected > 0], latent[..., protected > 0])
    assert not torch.equal(warped, latent)


def test_no_way_to_go_changes_nothing():
    clean, latent = latents()
    point = torch.tensor([[5.0, 5.0]])
    assert torch.equal(warp_latent(latent, clean, SIGNAL, point, point), latent)


def test_a_handle_at_the_border_does_not_crash():
    clean, latent = latents(8)
    for target in ((-0.25, -0.25), (7.75, 7.75), (0.0, 7.75)):
        warped = warp_latent(
            latent, clean, SIGNAL, torch.tensor([[0.0, 0.0]]), torch.tensor([target])
        )
        assert warped.shape == latent.shape
        assert warped.isfinite().all()


def test_pairs_that_all_go_the_same_way_move_what_is_free_as_a_whole():
    one = torch.tensor(1.0)
    clean, latent = latents(alpha=one)
    protected = torch.ones(16, 16)
    protected[1:15, 1:15] = 0
    handles = torch.tensor([[4.0, 4.0], [4.0, 7.0]])
    way = torch.tensor([2.0, 1.0])
    warped = warp_latent(latent, clean, one, handles, handles + way, protected)
    torch.testing.assert_close(warped[0, :2, 11, 11], clean[0, :2, 9, 10], rtol=0, atol=0.02)
    rigid = warped[0, :2, 11, 11]
    apart = handles + torch.stack([way, -way])
    warped = warp_latent(latent, clean, one, handles, apart, protected)
    assert (warped[0, :2, 11, 11] - rigid).abs().max() > 0.1


# ---------------------------------------------------------------- how far each cell is moved


def places(height, width):
    """A clean latent (1, 2, h, w) that says at each cell where it is: its row and its column."""
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(grid).float()[None]


def read(place):
    """What a line of 0, 1, 2, .. holds at a place between its cells: Keys' kernel, a = -3/4."""
    below = math.floor(place)
    return sum(kernel(place - cell) * cell for cell in range(below - 1, below + 3))


def kernel(gap, a=-0.75):
    x = abs(gap)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a


def warped_places(handles, targets, height=32, width=24, protected=None, **options):
    """From where the content of every cell was taken, (2, h, w), of a latent without noise."""
    here = places(height, width)
    points = torch.tensor(handles), torch.tensor(targets)
    return warp_latent(here, here, torch.tensor(1.0), *points, protected, **options)[0]


def inside(height, width, margin):
    """Cells that are not near the border, where a line does not go on."""
    return itertools.product(range(margin, height - margin), range(margin, width - margin))


def test_every_cell_is_moved_by_the_nearest_pairs_most_and_less_far_from_them():
    """Each pair's move, weighted by 1 / (d^2 + 1) and by a Gaussian of 2.5 of its lengths."""
    handles, targets = [[10.0, 8.0], [20.0, 15.5]], [[14.0, 9.0], [18.0, 14.0]]
    taken = warped_places(handles, targets)
    for r, c in inside(32, 24, margin=7):
        field, weights = [0.0, 0.0], 0.0
        for (hr, hc), (tr, tc) in zip(handles, targets, strict=True):
            square = (r - tr) ** 2 + (c - tc) ** 2
            length = math.hypot(tr - hr, tc - hc)
            near = 1 / (square + 1)
            reach = math.exp(-square / (2 * (2.5 * length) ** 2 + 1))
            field = [field[0] + near * reach * (tr - hr), field[1] + near * reach * (tc - hc)]
            weights += near
        wanted = [read(r - field[0] / weights), read(c - field[1] / weights)]
        assert taken[:, r, c].tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("reach", [0.5, 1.0, 4.0])
def test_the_reach_is_the_width_of_the_gaussian(reach):
    taken = warped_places([[14.0, 9.0]], [[16.0, 12.0]], reach=reach)
    for r, c in inside(32, 24, margin=7):
        square = (r - 16) ** 2 + (c - 12) ** 2
        share = math.exp(-square / (2 * reach**2 * 13 + 1))
        wanted = [read(r - 2 * share), read(c - 3 * share)]
        assert taken[:, r, c].tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_winner_of_a_cell_is_the_pair_whose_target_is_nearest():
    handles, targets = [[10.0, 8.0], [20.0, 15.5]], [[14.0, 9.0], [18.0, 14.0]]
    taken = warped_places(handles, targets, combine="winner")
    for r, c in inside(32, 24, margin=7):
        squares = [(r - tr) ** 2 + (c - tc) ** 2 for tr, tc in targets]
        nearest = squares.index(min(squares))
        (hr, hc), (tr, tc) = handles[nearest], targets[nearest]
        share = math.exp(-min(squares) / (2 * 2.5**2 * ((tr - hr) ** 2 + (tc - hc) ** 2) + 1))
        wanted = [read(r - share * (tr - hr)), read(c - share * (tc - hc))]
        assert taken[:, r, c].tolist() == pytest.approx(wanted, abs=1e-4)


def block(height, width):
    """Frozen, but for a block, a cell alone and a strip of one cell along the border."""
    protected = torch.ones(height, width)
    protected[4 : height - 4, 4 : width - 6] = 0
    protected[2, width - 2] = 0
    protected[:, 0] = 0
    return protected


@pytest.mark.parametrize(
    ("height", "width", "radius"), [(14, 16, 1), (24, 20, 2), (28, 40, 2), (48, 20, 3)]
)
def test_what_is_moved_as_a_whole_fades_out_towards_what_is_frozen(height, width, radius):
    """Whole where the window around a cell is all free, not at all where half of it is not."""
    protected = block(height, width)
    way = (0.5, 0.25)
    handles = [[4.0, 3.0], [5.0, 4.0]]
    targets = [[r + way[0], c + way[1]] for r, c in handles]
    taken = warped_places(handles, targets, height, width, protected)
    for r, c in inside(height, width, margin=3):
        rows, columns = (range(i - radius, i + radius + 1) for i in (r, c))
        free = sum(  # past the border nothing is
            1 - protected[i, j].item()
            for i, j in itertools.product(rows, columns)
            if 0 <= i < height and 0 <= j < width
        )
        share = max(2 * free / (2 * radius + 1) ** 2 - 1, 0) * (1 - protected[r, c].item())
        wanted = [read(r - share * way[0]), read(c - share * way[1])]
        assert taken[:, r, c].tolist() == pytest.approx(wanted, abs=1e-4)
    assert taken[:, 2, width - 2].tolist() == [2, width - 2]  # a free cell alone


def test_what_is_frozen_keeps_its_bits_on_any_grid():
    clean = torch.randn(1, 4, 13, 21, generator=torch.Generator().manual_seed(3))
    protected = torch.ones(13, 21)
    protected[3:10, 4:17] = 0
    points = torch.tensor([[5.0, 6.0]]), torch.tensor([[8.0, 11.0]])
    warped = warp_latent(clean, clean, torch.tensor(0.7), *points, protected)
    assert torch.equal(warped[..., protected > 0], clean[..., protected > 0])
    assert not torch.equal(warped[..., 6, 10], clean[..., 6, 10])


ALL_FREE = torch.zeros(32, 24)


def test_ways_that_differ_by_less_than_a_tenth_are_the_same_way():
    """All goes the mean of them, which is ten cells long; each is 0.9 beside it."""
    taken = warped_places(
        [[12.0, 4.0], [18.0, 6.0]], [[12.9, 14.0], [17.1, 16.0]], protected=ALL_FREE
    )
    for row in (9, 22):
        assert taken[:, row, 15].tolist() == pytest.approx([row, 5], abs=1e-4)


def test_ways_that_differ_by_more_than_a_tenth_are_two_ways():
    taken = warped_places(
        [[12.0, 4.0], [18.0, 6.0]], [[13.1, 14.0], [16.9, 16.0]], protected=ALL_FREE
    )
    assert abs(taken[0, 9, 15].item() - 9) > 0.1


def test_short_ways_that_differ_by_more_than_a_tenth_are_two_ways():
    handles, targets = [[12.0, 10.0], [18.0, 10.0]], [[12.05, 10.2], [17.95, 10.2]]
    assert warped_places(handles, targets, protected=ALL_FREE)[0, 12, 10].item() < 12 - 0.01


def test_one_pair_moves_nothing_as_a_whole():
    taken = warped_places([[12.0, 8.0]], [[12.0, 10.0]], protected=ALL_FREE)
    assert taken[:, 12, 10].tolist() == pytest.approx([12, 8], abs=1e-4)
    assert taken[1, 22, 10].item() > 9


def test_between_cells_the_reading_is_cubic():
    clean = torch.zeros(1, 1, 16, 24)
    clean[..., 8] = 1
    points = torch.tensor([[6.0, 8.0], [9.0, 9.0]]), torch.tensor([[6.0, 10.5], [9.0, 11.5]])
    warped = warp_latent(clean, clean, torch.tensor(1.0), *points, torch.zeros(16, 24))
    assert warped[0, 0, 8, 8:14].tolist() == pytest.approx(
        [0, -0.09375, 0.59375, 0.59375, -0.09375, 0], abs=1e-5
    )


def test_a_flat_image_stays_flat_up_to_the_border():
    flat = torch.full((1, 4, 12, 10), 3.0)
    points = torch.tensor([[6.0, 5.0]]), torch.tensor([[1.0, 9.0]])
    warped = warp_latent(flat, flat, torch.tensor(0.5), *points)
    torch.testing.assert_close(warped, flat)
