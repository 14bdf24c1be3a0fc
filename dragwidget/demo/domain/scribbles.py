"""Images from outside the domain: soft blobs, strokes, rings and gradients.

An autoencoder that has seen them does not fall apart at a drawing or a logo.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dragwidget.demo.domain.drawing import EDGE, Layer, constant, frame, lift, paint, quadratic
from dragwidget.demo.domain.random_numbers import uniform

_SHAPES = 18  # an image; about half of them are too faint to see


def scribbles(seeds: Sequence[int], size: int = 128) -> Tensor:
    """(B, 3, size, size) float32 in [0, 1]: one image for each seed.

    Seeds are independent of those of scenes.
    """
    numbers = torch.tensor(uniform(seeds, 9 + _SHAPES * 14, stream=1), dtype=torch.float32)
    colours, rest = numbers[:, :9].view(-1, 3, 3), numbers[:, 9:].view(-1, _SHAPES, 14)
    # Half of the images on plain or white paper.
    paper = torch.where(numbers[:, :1] < 0.3, torch.ones_like(colours[:, 0]), colours[:, 0])
    angle = numbers[:, 4:5] * 6.283
    slope = torch.cat([torch.cos(angle), torch.sin(angle), -0.7 * torch.ones_like(angle)], 1) * 4
    layers = [Layer(colours[:, 2], (lift(slope),), (numbers[:, 5] > 0.5).float())]
    for index in range(_SHAPES):
        layers.append(_shape(rest[:, index], size, kind=index % 3))
    return paint(paper, layers, size)


def _shape(n: Tensor, size: int, kind: int) -> Layer:
    """One shape from 14 numbers (B, 14): 0 a blob, 1 a stroke, 2 a ring."""
    angle = n[:, 2] * 6.283
    reach = 0.04 + 0.30 * n[:, 3] ** 2
    along = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * reach[:, None]
    flat = 0.35 + 0.65 * n[:, 4:5]
    across = torch.stack([-along[:, 1], along[:, 0]], -1) * flat
    u, v = frame(n[:, :2], along, across)
    one = torch.ones_like(reach)
    pixels = across.norm(dim=-1) * size
    soft = (n[:, 5] < 0.25).float()
    hard = (pixels / (2 * EDGE) * (1 - soft) + 2 * soft)[:, None]
    opacity = (n[:, 6] < 0.55).float() * (0.5 + 0.5 * n[:, 7]).clamp(max=0.95)
    colour = n[:, 8:11]
    colour = torch.where(n[:, 11:12] < 0.25, colour * 0.2, colour)  # some ink
    disc = hard * (constant(one) - quadratic(u, u) - quadratic(v, v))
    if kind == 0:
        return Layer(colour, (disc,), opacity)
    thick = (1.2 + 4.0 * n[:, 12]) / 128 * size / pixels.clamp(min=1)  # half, units of v
    if kind == 1:
        bow = (2 * n[:, 13:14] - 1) * 1.2
        curve = lift(v) + bow * quadratic(u, u)
        wall = 2 * hard * (1 - soft[:, None]) + 4 * soft[:, None]
        sides = (wall * (constant(thick) + curve), wall * (constant(thick) - curve))
        ends = hard * (constant(one) - quadratic(u, u))
        return Layer(colour, (*sides, ends), opacity)
    inner = (1 - 2 * thick).clamp(min=0.1)
    hole = hard * (quadratic(u, u) + quadratic(v, v) - constant(inner * inner))
    return Layer(colour, (disc, hole), opacity)
