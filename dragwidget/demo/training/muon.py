"""Muon, the optimiser of the embedded model's matrices: momentum with orthogonal updates.

Jordan et al. 2024 (Newton-Schulz iteration in bfloat16), scaled to Adam's step length as in
"Muon is Scalable for LLM Training" (arXiv 2502.16982), so both share one learning rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(B, m, n) -> (B, m, n) with singular values near 1."""
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x: Tensor = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.shape[-1] >= 4 * x.shape[-2]:  # the same polynomials, of the small Gram matrix
        gram = x @ x.mT
        product = torch.eye(x.shape[-2], device=x.device)
        for _ in range(iterations):
            factor = b * gram + c * (gram @ gram)
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            product = factor @ product
            gram = factor @ gram @ factor
        x = product @ x
    else:
        x = x.bfloat16()
        for _ in range(iterations):
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions or more; a convolution counts as (out, in x kernel)."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            updates: defaultdict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"]).reshape(len(p), -1)
                updates[tuple(update.shape)].append((p, update))
            for shape, pairs in updates.items():  # matrices of one shape are done together
                together = orthogonalize(torch.stack([u for _, u in pairs])).float()
                together *= 0.2 * max(shape) ** 0.5
                for (p, _), update in zip(pairs, together, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.view_as(p), alpha=-group["lr"])


def make_optimizers(
    parameters: dict[str, nn.Parameter], lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices; AdamW for embeddings, first and last layers, and vectors."""
    outer = ("conv_in.", "conv_out.", "embedding.")
    inner = {n: p for n, p in parameters.items() if p.ndim >= 2 and not any(o in n for o in outer)}
    rest = [p for n, p in parameters.items() if n not in inner]
    return [
        Muon(inner.values(), lr=lr, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0),
    ]
