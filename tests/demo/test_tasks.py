"""Drag tasks: what is asked for can be seen, moves far enough, and is all that changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from dragwidget.demo.domain.keypoints import POINTS, keypoints
from dragwidget.demo.domain.masks import THRESHOLD
from dragwidget.demo.scenes import captions
from dragwidget.demo.tasks import TASK_KINDS, drag_task, sample_tasks

SEED = 900_300


@pytest.fixture(scope="module")
def tasks():
    return sample_tasks(SEED, 2 * len(TASK_KINDS))


@pytest.mark.slow
def test_kinds_come_round_evenly(tasks):
    assert len(TASK_KINDS) >= 9
    assert set(Counter(task.kind for task in tasks).values()) == {2}
    assert [task.kind for task in sample_tasks(SEED, 3, ["sun", "nod"])] == ["sun", "nod", "sun"]


def test_handles_and_targets_are_the_true_places_of_the_named_points(tasks):
    for task in tasks:
        columns = [POINTS.index(name) for name in task.points]
        assert len(set(task.points)) == len(task.points)
        before = keypoints(task.source_scene).xy[0, columns]
        after = keypoints(task.target_scene).xy[0, columns]
        np.testing.assert_allclose(task.instructions.handles_xy, before, atol=1e-4)
        np.testing.assert_allclose(task.instructions.targets_xy, after, atol=1e-4)


def test_every_point_moves_4_pixels_or_more_and_is_visible_before_and_after(tasks):
    for task in tasks:
        columns = [POINTS.index(name) for name in task.points]
        way = task.instructions.targets_xy - task.instructions.handles_xy
        lengths = np.linalg.norm(way, axis=1)
        assert lengths.min() >= 4
        assert lengths.max() <= 20.1
        for scene in (task.source_scene, task.target_scene):
            assert keypoints(scene).visible[0, columns].all()


@pytest.mark.slow
def test_outside_the_mask_nothing_changes(tasks):
    for task in tasks:
        mask = torch.tensor(np.array(task.instructions.mask))
        change = (task.source - task.target).abs().amax(0)
        assert change[~mask].max() <= THRESHOLD
        assert change[mask].max() > 0.1
        assert mask.float().mean() < 0.75


def test_the_mask_holds_every_handle_and_target_with_room_to_spare(tasks):
    for task in tasks:
        mask = task.instructions.mask
        for x, y in [*task.instructions.handles_xy, *task.instructions.targets_xy]:
            rows = np.clip(np.rint([y - 4, y, y + 4]).astype(int), 0, 127)
            columns = np.clip(np.rint([x - 4, x, x + 4]).astype(int), 0, 127)
            assert mask[np.ix_(rows, columns)].all()


def test_the_prompt_says_nothing_that_the_drag_makes_untrue(tasks):
    for task in tasks:
        phrases = task.instructions.prompt.split(", ")
        for scene in (task.source_scene, task.target_scene):
            caption = captions(scene)[0].split(", ")
            assert set(phrases[0].split()) <= set(caption[0].split())
            assert set(phrases[1:]) <= set(caption)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASK_KINDS)
def test_a_task_is_a_function_of_kind_seed_and_size(kind):
    first, again = drag_task(kind, SEED + 7), drag_task(kind, SEED + 7)
    assert first.instructions == again.instructions
    assert torch.equal(first.target, again.target)
    large = drag_task(kind, SEED + 7, size=192)
    assert large.points == first.points
    np.testing.assert_allclose(
        (large.instructions.handles_xy + 0.5) / 1.5, first.instructions.handles_xy + 0.5, atol=1e-4
    )


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="turn"):
        drag_task("fly", SEED)
