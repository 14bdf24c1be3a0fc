"""The map from each cell to the source cell whose content it holds, against what the warps do."""

from __future__ import annotations

import pytest
import torch
from tiny_models import noise

from dragwidget.drag.correspondence import Correspondence, correspondence
from dragwidget.drag.stretching import stretch_latent
from dragwidget.drag.warping import near_field, resample

SIZE = (12, 16)
HANDLES, TARGETS = torch.tensor([[4.0, 5.0], [8.2, 11.0]]), torch.tensor([[6.0, 8.0], [5.0, 12.3]])
CELLS = torch.stack(torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij"), -1)
FIELDS = [(f, c) for f in ("near", "stretch") for c in ("mean", "winner")]


def frame():
    """Protected: two cells at each edge."""
    protected = torch.ones(SIZE)
    protected[2:-2, 2:-2] = 0
    return protected


def shift(down, across, editable=None):
    """Everything moves alike, and what comes from outside is a hole."""
    source = CELLS - torch.tensor([down, across])
    inside = ((source >= 0) & (source < torch.tensor(SIZE))).all(-1)
    return Correspondence(
        torch.where(inside[..., None], source, CELLS),
        inside.float(),
        torch.ones(SIZE, dtype=torch.bool) if editable is None else editable,
    )


@pytest.mark.parametrize(("field", "combine"), FIELDS)
@pytest.mark.parametrize("protected", [None, frame()])
def test_handles_at_their_targets_move_nothing(field, combine, protected):
    found = correspondence(SIZE, HANDLES, HANDLES, protected, field=field, combine=combine)
    assert torch.equal(found.source, CELLS)
    assert not found.moved.any()
    assert not found.holes.any()
    distance = (CELLS[:, :, None] - HANDLES).norm(dim=-1).amin(-1)
    wanted = 1 / distance.clamp(min=1)
    if protected is not None:
        wanted = wanted * (protected == 0)
    torch.testing.assert_close(found.weight, wanted)


@pytest.mark.parametrize("combine", ["mean", "winner"])
@pytest.mark.parametrize("protected", [None, frame()])
def test_a_stretched_latent_holds_what_its_source_cells_held(combine, protected):
    latent, levels = noise(1, 4, *SIZE), (torch.tensor(0.8), torch.tensor(0.6))
    stretched = stretch_latent(latent, latent, levels, HANDLES, TARGETS, protected, combine=combine)
    found = correspondence(SIZE, HANDLES, TARGETS, protected, field="stretch", combine=combine)
    assert torch.equal(latent.flatten(2)[..., found.index].view_as(latent), stretched)
    renewed = stretch_latent(
        latent, latent, levels, HANDLES, TARGETS, protected, combine=combine, holes="noise",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.equal(found.holes, (renewed != stretched).any(1)[0])
    assert found.holes.any()


@pytest.mark.parametrize("combine", ["mean", "winner"])
def test_the_near_field_takes_from_the_source_cells_to_half_a_cell(combine):
    found = correspondence(SIZE, HANDLES, TARGETS, frame(), combine=combine)
    places = CELLS.permute(2, 0, 1)[None].float()  # a ramp: exact two cells from the edge
    field = near_field(SIZE, HANDLES, TARGETS, frame(), combine=combine)
    taken = resample(places, field)[0].permute(1, 2, 0)
    inner = ((found.source >= 2) & (found.source <= torch.tensor(SIZE) - 3)).all(-1)
    assert (found.moved & inner).any()
    assert (found.source - taken).abs()[inner].max() < 0.5 + 1e-4
    assert not found.holes.any()


@pytest.mark.parametrize(("field", "combine"), FIELDS)
def test_a_target_takes_from_its_handle_and_is_sure_of_it(field, combine):
    handles, targets = torch.tensor([[5.0, 5.0]]), torch.tensor([[7.0, 9.0]])
    found = correspondence(SIZE, handles, targets, frame(), field=field, combine=combine)
    assert found.weight[7, 9] == 1
    if field == "stretch":  # the near field fades out towards the border
        assert found.source[7, 9].tolist() == [5, 5]
    background = frame() > 0
    assert (found.weight[background] == 0).all()
    assert torch.equal(found.source[background], CELLS[background])


def test_of_opposite_pairs_the_nearer_one_wins():
    handles = torch.tensor([[5.0, 5.0], [7.0, 5.0]])
    targets = torch.tensor([[3.0, 5.0], [9.0, 5.0]])
    found = correspondence(SIZE, handles, targets, field="stretch", combine="winner")
    assert found.source[3, 5].tolist() == [5, 5]
    assert found.source[9, 5].tolist() == [7, 5]
    assert found.holes[5:8, 5].any()


def test_the_border_is_the_background_beside_editable_cells():
    border = correspondence(SIZE, HANDLES, TARGETS, frame()).border
    wanted = torch.zeros(SIZE, dtype=torch.bool)
    wanted[1:-1, 1:-1] = True
    wanted[2:-2, 2:-2] = False
    assert torch.equal(border, wanted)
    assert not correspondence(SIZE, HANDLES, TARGETS).border.any()


# ---------------------------------------------------------------- levels of a network


def test_a_level_halves_the_shift_and_the_grid():
    for level, count in ((1, 48), (2, 12)):
        found = shift(4, 8).at(count)
        scale = 2**level
        size = (SIZE[0] // scale, SIZE[1] // scale)
        assert found.weight.shape == size
        moved = found.moved
        rows, columns = moved.nonzero().unbind(-1)
        assert (rows >= 4 // scale).all()
        assert (columns >= 8 // scale).all()
        there = torch.stack([rows - 4 // scale, columns - 8 // scale], -1)
        assert torch.equal(found.source[moved], there)
        assert int(moved.sum()) == (size[0] - 4 // scale) * (size[1] - 8 // scale)
        assert torch.equal(found.holes, ~moved)


def test_its_own_level_is_itself():
    found = shift(1, 1)
    assert found.at(SIZE[0] * SIZE[1]) is found


def test_the_surest_of_four_cells_stands_for_all():
    weight = torch.zeros(4, 4)
    weight[2, 3], weight[3, 2], weight[0, 0] = 0.9, 0.4, 0.2
    source = torch.zeros(4, 4, 2, dtype=torch.int64)
    source[2, 3], source[3, 2], source[0, 0] = (torch.tensor(xy) for xy in ((1, 1), (0, 3), (3, 0)))
    found = Correspondence(source, weight, weight > 0).at(4)
    torch.testing.assert_close(found.weight, torch.tensor([[0.2, 0.0], [0.0, 0.9]]))
    assert found.source[1, 1].tolist() == [0, 0]
    assert found.source[0, 0].tolist() == [1, 0]
    assert torch.equal(found.editable, torch.tensor([[True, False], [False, True]]))


def test_odd_sides_are_rounded_up_as_a_network_does():
    found = correspondence((7, 5), HANDLES / 3, HANDLES / 3)
    for size in ((4, 3), (2, 2), (1, 1)):
        level = found.at(size[0] * size[1])
        assert level.weight.shape == size
        assert not level.moved.any()


def test_tokens_that_fit_no_level_are_refused():
    with pytest.raises(ValueError, match="over 50 tokens fits no level of a latent of 12 x 16"):
        shift(0, 0).at(50)


# ---------------------------------------------------------------- one after the other


def test_two_shifts_are_one_shift():
    found, wanted = shift(1, 2).then(shift(2, 1)), shift(3, 3)
    kept = wanted.moved
    assert torch.equal(found.source[kept], wanted.source[kept])
    assert torch.equal(found.holes, wanted.holes)


def test_nothing_before_or_after_changes_a_map():
    still, found = shift(0, 0), correspondence(SIZE, HANDLES, TARGETS, frame(), field="stretch")
    for both in (found.then(still), still.then(found)):
        assert torch.equal(both.source[found.moved], found.source[found.moved])
        assert torch.equal(both.weight[found.moved], found.weight[found.moved])


def test_what_came_from_a_hole_is_one():
    before = shift(3, 0)
    after = correspondence(SIZE, torch.tensor([[1.0, 5.0]]), torch.tensor([[6.0, 5.0]]),
                           field="stretch", combine="winner")  # fmt: skip
    assert before.holes[1, 5]
    assert before.then(after).holes[6, 5]


def test_the_less_sure_of_two_movements_counts():
    one, two = shift(1, 0), shift(0, 1)
    less = Correspondence(two.source, two.weight * 0.3, two.editable)
    both = one.then(less)
    twice = both.source[6, 6]
    assert twice.tolist() == [5, 5]
    assert both.weight[6, 6] == pytest.approx(0.3)
