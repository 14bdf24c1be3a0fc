"""Adam as a function, against torch's."""

from __future__ import annotations

import pytest
import torch
from tiny_models import noise

from dragwidget.drag.optimizer import Moments, adam_step, loss_scale


@pytest.mark.parametrize("learning_rate", [0.01, 0.3])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_every_step_is_torchs_bit_for_bit(learning_rate, scale):
    parameter = noise(1, 4, 8, 8)
    theirs = parameter.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=learning_rate)
    moments = Moments.zeros(parameter)
    for index in range(12):
        gradient = noise(1, 4, 8, 8, seed=index + 1) * scale
        theirs.grad = gradient.clone()
        optimizer.step()
        parameter, moments = adam_step(parameter, gradient, moments, learning_rate)
        assert torch.equal(parameter, theirs.detach())


def test_a_zero_gradient_changes_nothing():
    parameter = noise(3)
    after, _ = adam_step(parameter, torch.zeros(3), Moments.zeros(parameter), 0.01)
    assert torch.equal(after, parameter)


def test_the_arguments_are_not_changed():
    parameter, gradient = noise(3), noise(3, seed=1)
    _, moments = adam_step(parameter, gradient, Moments.zeros(parameter), 0.01)
    copies = [t.clone() for t in (parameter, gradient, moments.first, moments.second)]
    adam_step(parameter, gradient, moments, 0.01)
    for tensor, copy in zip((parameter, gradient, moments.first, moments.second), copies,
                            strict=True):  # fmt: skip
        assert torch.equal(tensor, copy)
    assert moments.count == 1


def test_the_result_carries_no_graph():
    parameter = noise(3).requires_grad_()
    after, moments = adam_step(parameter, noise(3, seed=1), Moments.zeros(parameter), 0.01)
    assert not after.requires_grad
    assert not moments.first.requires_grad


def test_the_first_moments_carry_no_graph_even_for_a_leaf_of_one():
    moments = Moments.zeros(noise(3).requires_grad_())
    assert not moments.first.requires_grad
    assert not moments.second.requires_grad


def test_only_half_precision_gradients_are_scaled():
    assert loss_scale(torch.float32) == loss_scale(torch.bfloat16) == 1
    scale = loss_scale(torch.float16)
    assert scale > 1
    assert scale == 2 ** round(torch.tensor(scale).log2().item())  # exact to undo
