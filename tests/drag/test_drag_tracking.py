"""Point tracking: content that was moved by a known amount is found where it went."""

from __future__ import annotations

import pytest
import torch
from analytic_models import RolledImage
from drag_tasks import problem_of
from tiny_models import noise

from dragwidget.data.settings import DragSettings
from dragwidget.drag import FeatureMap, track_points, tracking
from dragwidget.drag.descent import tracked as where_tracked
from dragwidget.drag.method import DragState
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.supervision import Anchor
from dragwidget.drag.tracking import distances


def features(rows: float = 0, columns: float = 0) -> FeatureMap:
    image = RolledImage().image(torch.tensor([rows, columns]).reshape(1, 2, 1, 1))
    return FeatureMap((image,), (32, 32))


def anchor(position, of=None) -> Anchor:
    return Anchor(of or features(), torch.tensor(position))


def test_content_rolled_by_2_and_3_is_found_2_and_3_further():
    handles = torch.tensor([[10.0, 12.0], [20.0, 5.0]])
    anchors = [anchor([10.0, 12.0]), anchor([20.0, 5.0])]
    found = track_points(features(2, 3), handles, anchors, radius=3)
    assert (found - handles).tolist() == [[2, 3], [2, 3]]


@pytest.mark.parametrize("move", [(0, 0), (-3, 3), (3, -3), (-1, -2)])
def test_content_is_found_in_every_direction(move):
    handles = torch.tensor([[15.0, 16.0]])
    found = track_points(features(*move), handles, [anchor([15.0, 16.0])], radius=3)
    assert (found - handles).tolist() == [list(move)]


def test_content_is_sought_around_where_it_last_was():
    found = track_points(features(8, 0), torch.tensor([[16.0, 10.0]]), [anchor([10.0, 10.0])],
                         radius=3)  # fmt: skip
    assert found.tolist() == [[18, 10]]


def test_content_further_than_the_radius_is_not_found():
    handle = torch.tensor([[10.0, 10.0]])
    found = track_points(features(9, 0), handle, [anchor([10.0, 10.0])], radius=3)
    assert (found - handle).abs().max() <= 3


@pytest.mark.parametrize("row", [0.0, 31.0])
@pytest.mark.parametrize("column", [0.0, 31.0])
def test_in_a_corner_the_window_is_cut(row, column):
    found = track_points(
        features(), torch.tensor([[row, column]]), [anchor([row, column])], radius=5
    )
    assert found.tolist() == [[row, column]]


def test_of_equal_matches_the_first_in_reading_order_is_taken():
    flat = FeatureMap((torch.ones(1, 3, 8, 8),), (8, 8))
    found = track_points(flat, torch.tensor([[4.0, 4.0]]), [anchor([4.0, 4.0], flat)], radius=2)
    assert found.tolist() == [[2, 2]]


def test_radius_0_stays_where_it_is():
    found = track_points(features(2, 3), torch.tensor([[9.0, 9.0]]), [anchor([9.0, 9.0])], radius=0)
    assert found.tolist() == [[9, 9]]


def test_the_arguments_are_not_changed_and_need_no_gradient():
    block = noise(1, 4, 8, 8).requires_grad_()
    handles = torch.tensor([[3.0, 3.0]])
    before = block.detach().clone(), handles.clone()
    map_ = FeatureMap((block,), (8, 8))
    found = track_points(map_, handles, [anchor([3.0, 3.0], map_)], radius=2)
    assert torch.equal(block, before[0])
    assert torch.equal(handles, before[1])
    assert not found.requires_grad
    assert found is not handles


def test_a_handle_without_an_anchor_is_no_handle_less():
    handles = torch.tensor([[9.0, 9.0], [5.0, 5.0]])
    with pytest.raises(ValueError, match="every handle needs an anchor, got 1 for 2"):
        track_points(features(), handles, [anchor([9.0, 9.0])], radius=1)


def test_many_handles_are_tracked_as_each_alone(monkeypatch):
    """However many of them are compared at once, and wherever the border cuts their windows."""
    handles = torch.cartesian_prod(*2 * [torch.tensor([0.0, 5.0, 13.0, 22.0, 31.0])])
    anchors = [anchor(place) for place in handles.roll(3, 1).tolist()]
    alone = [
        track_points(features(2, 3), one[None], [own], radius=4)[0]
        for one, own in zip(handles, anchors, strict=True)
    ]
    for at_once in (1, 7 * 6 * 81, 2**20):
        monkeypatch.setattr(tracking, "AT_ONCE_ON_CPU", at_once)
        found = track_points(features(2, 3), handles, anchors, radius=4)
        assert torch.equal(found, torch.stack(alone))


def test_distances_are_euclidean():
    gaps = distances(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]]))
    assert gaps.tolist() == [5, 0]


# ---------------------------------------------------------------- which cells are searched


def tracked(content, target, **choice):
    """Where a handle at (16, 16) is found when its content has moved by ``content``."""
    handles, targets = torch.tensor([[16.0, 16.0]]), torch.tensor([target])
    found = track_points(
        features(*content), handles, [anchor([16.0, 16.0])], radius=3, targets=targets, **choice
    )
    return (found - handles)[0].tolist()


AHEAD = (16.0, 26.0)


@pytest.mark.parametrize("candidates", ["window", "nearer", "cone"])
@pytest.mark.parametrize("move", [(0, 3), (0, 1), (1, 3), (0, 0)])
def test_content_that_moved_towards_the_target_is_found_by_all(candidates, move):
    assert tracked(move, AHEAD, candidates=candidates) == list(move)


@pytest.mark.parametrize("move", [(0, -2), (3, -1), (3, 0)])
def test_a_handle_moves_no_farther_from_its_target_with_nearer(move):
    assert tracked(move, AHEAD, candidates="window") == list(move)
    row, column = tracked(move, AHEAD, candidates="nearer")
    assert (row**2 + (10 - column) ** 2) ** 0.5 <= 10


@pytest.mark.parametrize("move", [(3, 3), (-2, 1), (3, 0), (0, -3)])
def test_a_handle_stays_within_30_degrees_of_the_way_to_its_target_with_a_cone(move):
    row, column = tracked(move, AHEAD, candidates="cone")
    assert (row, column) == (0, 0) or abs(row) <= column * 3**-0.5 + 1e-6


def test_a_handle_on_its_target_stays_with_nearer_alone():
    assert tracked((0, 2), (16.0, 16.0), candidates="nearer") == [0, 0]
    assert tracked((0, 2), (16.0, 16.0), candidates="cone") == [0, 2]


def test_a_handle_whose_content_is_lost_is_traced_back():
    there = tracked((0, 2), AHEAD)
    assert tracked((0, 2), AHEAD, trace_back=0.5) == there == [0, 2]
    assert tracked((0, 9), AHEAD, trace_back=0.2) == [0, 0]
    assert tracked((0, 9), AHEAD) != [0, 0]


@pytest.mark.parametrize("still", [0, 3])
def test_it_waits_for_three_steps_at_most(still):
    settings = DragSettings(trace_back=0.2)
    start = torch.tensor([[16.0, 16.0]])
    state = DragState(
        noise(1, 1, 1, 1), 1, start, (anchor([16.0, 16.0]),), Moments.zeros(noise(1, 1, 1, 1)),
        still=still,
    )  # fmt: skip
    task = problem_of(torch.tensor([AHEAD]), settings, None)
    assert torch.equal(where_tracked(features(0, 9), state, task), start) == (still < 3)
