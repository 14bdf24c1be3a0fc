"""Smooth shapes as layers of flat colour, composed by transmittance: anti-aliased, differentiable.

**Convention.** Places are in units of the image: `(x, y)` with x to the right, y downwards, both
in [0, 1] from edge to edge, so that the centre of the pixel (column i, row j) lies at
`((i + 0.5) / size, (j + 0.5) / size)`. The same scene is thus the same image at every size.

A shape is a *logit*: positive inside, negative outside, zero on the outline, and about one pixel of
slope at the outline; a layer multiplies the sigmoids of its shapes (their intersection). Nearly all
shapes are quadratic in (x, y), hence one matrix product draws all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EDGE = 0.4  # width of the sigmoid at an outline, in pixels: 10 % to 90 % within 1.8 px
CHUNK = 2  # images drawn at once: their layers stay in the CPU's cache


@dataclass(frozen=True)
class Ridge:
    """The area below a curve y = height(x), a mountain or a hill; above it if `hardness` < 0.

    `height`: (B, size), units of the image; `hardness`: (B, size), logits per unit of y.
    """

    height: Tensor
    hardness: Tensor


Shape = Tensor | Ridge  # a Tensor is a quadratic form (B, 6), see `quadratic`


@dataclass(frozen=True)
class Layer:
    """One flat colour laid over what is behind it.

    `colour`: (B, 3) in [0, 1]; `inside`: the shapes whose intersection is painted; `opacity`: a
    number or (B,), in [0, 1].
    """

    colour: Tensor
    inside: tuple[Shape, ...]
    opacity: Tensor | float = 1.0


def pixel_centres(size: int) -> Tensor:
    """(size,) places of the pixel centres, units of the image."""
    return (torch.arange(size, dtype=torch.float32) + 0.5) / size


def quadratic(u: Tensor, v: Tensor) -> Tensor:
    """Return the product of two linear forms: (..., 3) x (..., 3) -> (..., 6).

    Linear forms are coefficients of (x, y, 1), quadratic ones of (xx, xy, yy, x, y, 1).
    """
    ux, uy, u1 = u.unbind(-1)
    vx, vy, v1 = v.unbind(-1)
    return torch.stack(
        [ux * vx, ux * vy + uy * vx, uy * vy, ux * v1 + u1 * vx, uy * v1 + u1 * vy, u1 * v1], -1
    )


def lift(u: Tensor) -> Tensor:
    """Return a linear form (..., 3) as a quadratic one (..., 6)."""
    return torch.cat([torch.zeros_like(u), u], -1)


def constant(value: Tensor) -> Tensor:
    """Return a constant (...) as a quadratic form (..., 6)."""
    return torch.nn.functional.pad(value[..., None], (5, 0))


def frame(centre: Tensor, axis_u: Tensor, axis_v: Tensor) -> tuple[Tensor, Tensor]:
    """Linear forms u, v (..., 3) of the frame that sends (0, 0) to `centre` and units to the axes.

    centre, axis_u, axis_v: (..., 2), xy, units of the image. `u*u + v*v = 1` is the ellipse with
    these axes.
    """
    ux, uy = axis_u.unbind(-1)
    vx, vy = axis_v.unbind(-1)
    cx, cy = centre.unbind(-1)
    area = ux * vy - uy * vx
    # An ellipse seen edge-on has no inverse: keep a sliver of it.
    area = torch.where(area.abs() < 1e-6, torch.full_like(area, 1e-6), area)
    u_x, u_y, v_x, v_y = vy / area, -vx / area, -uy / area, ux / area
    u = torch.stack([u_x, u_y, -(u_x * cx + u_y * cy)], -1)
    v = torch.stack([v_x, v_y, -(v_x * cx + v_y * cy)], -1)
    return u, v


def ellipse(
    centre: Tensor, axis_u: Tensor, axis_v: Tensor, size: int, soft: Tensor | float = 0.0
) -> Tensor:
    """Logits (..., 6) of filled ellipses; `soft` in (0, 1] fades them from the centre outwards.

    The slope at the outline is exact for circles and within the square root of the ratio of the
    axes otherwise.
    """
    u, v = frame(centre, axis_u, axis_v)
    radius = (axis_u[..., 0] * axis_v[..., 1] - axis_u[..., 1] * axis_v[..., 0]).abs().sqrt()
    hardness = outline_hardness(radius, size, soft)
    inside = -quadratic(u, u) - quadratic(v, v)
    return hardness[..., None] * (inside + constant(torch.ones_like(radius)))


def outline_hardness(radius: Tensor, size: int, soft: Tensor | float = 0.0) -> Tensor:
    """Factor (...) that gives `1 - q` (q = 1 on the outline) its slope of one pixel."""
    crisp = radius * (size / (2 * EDGE))
    return crisp if isinstance(soft, float) and soft == 0 else crisp * (1 - soft) + 2.0 * soft


def upright(x: Tensor, y: Tensor, rx: Tensor, ry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and axes (..., 2) of an ellipse that is not rotated."""
    zero = torch.zeros_like(rx)
    return torch.stack([x, y], -1), torch.stack([rx, zero], -1), torch.stack([zero, ry], -1)


def paint(background: Tensor, layers: Sequence[Layer], size: int) -> Tensor:
    """Compose layers, the first one hindmost, over a flat background (B, 3).

    Returns (B, 3, size, size) in [0, 1] where the colours are.
    """
    shapes: dict[int, Shape] = {}
    for layer in layers:
        for shape in layer.inside:
            shapes.setdefault(id(shape), shape)
    forms = {key: s for key, s in shapes.items() if isinstance(s, Tensor)}
    coefficients = torch.stack(list(forms.values()), 1)  # (B, S, 6)
    opacity = torch.stack(
        [
            o if isinstance(o, Tensor) else background.new_full((len(background),), o)
            for o in (layer.opacity for layer in layers)
        ],
        1,
    )  # (B, L)
    colours = torch.stack([*(layer.colour for layer in layers), background], 1)  # (B, L + 1, 3)
    x = pixel_centres(size).to(background.device)
    yy, xx = torch.meshgrid(x, x, indexing="ij")
    basis = torch.stack([xx * xx, xx * yy, yy * yy, xx, yy, torch.ones_like(xx)]).flatten(1)
    images = []
    for start in range(0, len(background), CHUNK):
        part = slice(start, start + CHUNK)
        drawn = (coefficients[part] @ basis).sigmoid_()  # (b, S, size * size)
        alphas = dict(zip(forms, drawn.unbind(1), strict=True))
        for key, shape in shapes.items():
            if isinstance(shape, Ridge):
                depth = x[:, None] - shape.height[part, None]  # (b, size, size)
                alphas[key] = torch.sigmoid(depth * shape.hardness[part, None]).flatten(1)
        rest = torch.ones_like(drawn[:, 0])  # what still shines through, from the front backwards
        weights = []
        for index in reversed(range(len(layers))):
            weight = rest * opacity[part, index, None]
            for shape in layers[index].inside:
                weight = weight * alphas[id(shape)]
            rest = rest - weight
            weights.append(weight)
        weights = [*reversed(weights), rest]
        mixed = colours[part].transpose(1, 2) @ torch.stack(weights, 1)
        images.append(mixed.view(-1, 3, size, size))
    return torch.cat(images)
