"""The tree of all that was dragged."""

import numpy as np
import pytest
import torch

from dragwidget.drag.loop import DragStep
from dragwidget.drag.optimizer import Moments
from dragwidget.session.history import History
from dragwidget.session.node import Node, NodeTensors

LATENT = torch.zeros(1, 1, 2, 2)
TENSORS = NodeTensors((LATENT, Moments.zeros(LATENT)))


def start() -> History:
    return History(Node(0, 0, TENSORS, 681))


def grow(history: History, steps: int) -> None:
    """Go on from where it stands."""
    for _ in range(steps):
        index = len(history) + 1
        points, reached = np.zeros((1, 2)), np.zeros(1, dtype=bool)
        step = DragStep(index, 0.0, {}, points, points, np.zeros(1), reached, LATENT)
        number, parent = len(history.nodes), history.current.number
        history.append(Node(number, parent, TENSORS, 681, step=step))


@pytest.fixture
def forked():
    """0 - 1 - 2 - 3, and 4 - 5 from 1; it stands at 5."""
    history = start()
    grow(history, 3)
    history.rewind(1)
    grow(history, 2)
    return history


def numbers(nodes):
    return [node.number for node in nodes]


def test_a_new_history_has_no_steps():
    history = start()
    assert len(history) == 0
    assert list(history) == []
    assert history.current.step is None
    assert history.current.index == 0
    assert numbers(history.path()) == numbers(history.tips) == [0]


def test_it_is_the_sequence_of_steps_to_where_it_stands(forked):
    assert len(forked) == 3
    assert [step.index for step in forked] == [1, 2, 3]
    assert forked[0] is forked.nodes[1].step
    assert forked[-1] is forked.current.step is forked.nodes[5].step
    assert forked[1:] == [forked.nodes[4].step, forked.nodes[5].step]
    assert forked.nodes[2].step not in forked
    with pytest.raises(IndexError):
        forked[3]


def test_a_branch_shares_the_way_to_its_fork(forked):
    assert numbers(forked.path()) == [0, 1, 4, 5]
    assert numbers(forked.path(forked.nodes[3])) == [0, 1, 2, 3]
    assert numbers(forked.tips) == [3, 5]


def test_nothing_is_thrown_away(forked):
    assert numbers(forked.nodes) == [0, 1, 2, 3, 4, 5]
    forked.rewind(0)
    grow(forked, 1)
    assert numbers(forked.nodes) == [0, 1, 2, 3, 4, 5, 6]
    assert numbers(forked.tips) == [3, 5, 6]


def test_one_goes_back_and_forth_on_the_present_branch(forked):
    assert forked.rewind(0).number == 0
    assert list(forked) == []
    assert forked.rewind(2).number == 4
    assert forked.rewind(3).number == 5
    assert forked.at(1).number == 1
    assert forked.current.number == 5


@pytest.mark.parametrize("index", [-1, 4])
def test_a_step_that_the_branch_does_not_have_is_refused(forked, index):
    with pytest.raises(ValueError, match=rf"no step {index}: this branch has steps 0 .* to 3"):
        forked.rewind(index)
    assert forked.current.number == 5


def test_any_node_can_be_stood_at_and_makes_its_branch_the_present_one(forked):
    assert forked.go_to(2).number == 2
    assert forked.rewind(3).number == 3
    assert forked.go_to(1).number == 1  # on both: the branch stays
    assert forked.rewind(3).number == 3
    assert forked.go_to(4).number == 4
    assert forked.rewind(3).number == 5


def test_of_several_branches_through_a_node_the_newest_is_taken(forked):
    forked.rewind(2)
    grow(forked, 1)  # 6, from 4
    forked.go_to(3)
    forked.go_to(4)
    assert forked.tip.number == 6


@pytest.mark.parametrize("number", [-1, 6])
def test_a_node_that_there_is_not_is_refused(forked, number):
    with pytest.raises(ValueError, match=f"there is no node {number}: this history has 0 to 5"):
        forked.go_to(number)
    assert forked.current.number == 5


def test_it_says_where_it_stands(forked):
    forked.rewind(1)
    assert repr(forked) == "<History: at step 1 of 3, branches: 2>"


def test_a_step_is_shown_without_its_latent(forked):
    assert "loss" in repr(forked[0])
    assert "tensor" not in repr(forked[0])
