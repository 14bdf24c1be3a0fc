"""Adam (Kingma and Ba, arXiv 1412.6980) as a function, so that a drag's state is plain data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "adam_step", "loss_scale"]

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class Moments:
    """Adam's memory: first and second moment, each of the parameter's shape, and the step count."""

    first: Tensor
    second: Tensor
    count: int = 0

    @classmethod
    def zeros(cls, parameter: Tensor) -> Moments:
        zeros = torch.zeros_like(parameter, requires_grad=False)
        return cls(zeros, zeros)


def adam_step(
    parameter: Tensor, gradient: Tensor, moments: Moments, learning_rate: float
) -> tuple[Tensor, Moments]:
    """The parameter after one step, and the moments to go on with; nothing is changed in place."""
    beta1, beta2 = BETAS
    with torch.no_grad():
        count = moments.count + 1
        first = moments.first.lerp(gradient, 1 - beta1)
        second = (moments.second * beta2).addcmul(gradient, gradient, value=1 - beta2)
        scale = (1 - beta2**count) ** 0.5
        denominator = (second.sqrt() / scale).add(EPSILON)
        step = learning_rate / (1 - beta1**count)
        return (
            parameter.addcdiv(first, denominator, value=-step),
            Moments(first, second, count),
        )


def loss_scale(dtype: torch.dtype) -> float:
    """Return what to multiply a loss by, and its gradient to divide by, for a network of this type.

    float16 holds nothing smaller than 6e-8; scaled by a power of two, small gradients survive and
    the result is otherwise the same.
    """
    return 1024.0 if dtype == torch.float16 else 1.0
