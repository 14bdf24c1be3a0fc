"""Sky, sun or moon, mountains and hills."""

from __future__ import annotations

import torch
from torch import Tensor

from dragwidget.demo.domain.animals import rgb
from dragwidget.demo.domain.drawing import (
    EDGE,
    Layer,
    Ridge,
    constant,
    ellipse,
    lift,
    pixel_centres,
    upright,
)
from dragwidget.demo.domain.parameters import TIMES, Scenes

HORIZON = 0.70  # where the mountains stand, units of the image
SNOW = 0.30  # of the mountain's height, at the middle

# Of day, evening and night, each at tint 0 and at tint 1.
_COLOURS = {
    "sky_top": ("#5fb4e8", "#8fc7f0", "#7e6bb8", "#c06a9c", "#1f2a5c", "#2f2a63"),
    "sky_low": ("#d9f1fb", "#fdf0d5", "#ffc98f", "#ffb0a0", "#5d6fb5", "#7a68b0"),
    "sun": ("#ffd84a", "#ffe27a", "#ff8a4c", "#ff7a5c", "#fdf6d8", "#f4f0ff"),
    "sun_low": ("#ffb73a", "#ffc04a", "#f0593f", "#e85560", "#d8d2c8", "#cfc8e8"),
    "rock": ("#7f93b8", "#9b93b5", "#7d5f94", "#96607f", "#3d4a85", "#4c4886"),
    "snow": ("#ffffff", "#fffdf8", "#ffe6dc", "#ffe2e0", "#c9d3f2", "#d2ccf0"),
    "far": ("#b3cfe3", "#c8cfdf", "#d58fa0", "#d98694", "#4f5f9f", "#5f5a9f"),
    "hill": ("#8cc774", "#b9cf6f", "#8a9a68", "#b09a5c", "#3a6275", "#4a5f80"),
    "meadow": ("#5faa5c", "#93b552", "#6a8455", "#94844a", "#2a4a60", "#38486b"),
    "light": ("#ffffff", "#ffffff", "#ffe9da", "#ffe6dc", "#c3c9ee", "#cac6ec"),
}


def _pick(name: str, scenes: Scenes, tint: Tensor) -> Tensor:
    """(B, 3): the colour of the time of day, between its two ends."""
    table = torch.tensor([rgb(colour) for colour in _COLOURS[name]], device=tint.device)
    low, high = table.view(len(TIMES), 2, 3)[scenes.time_of_day].unbind(1)
    return low + (high - low) * tint[:, None]


def light_of(scenes: Scenes) -> Tensor:
    """(B, 3): the colour of the light that falls on the animal."""
    return _pick("light", scenes, scenes.sky)


def slope_height(scenes: Scenes, x: Tensor) -> Tensor:
    """(B, n): height y of the mountain's outline at places x (n,) or (B, n); y grows downwards."""
    side = x - scenes.mountain_x[:, None]
    rounded = (side * side + _ROUND**2).sqrt() - _ROUND
    rise = (HORIZON - scenes.mountain_y) / scenes.mountain_width
    return scenes.mountain_y[:, None] + rise[:, None] * rounded


_ROUND = 0.025  # radius of the mountain's top, about


def landscape(scenes: Scenes, size: int) -> tuple[Tensor, list[Layer]]:
    """Return the colour behind all (B, 3) and the layers from the sky to the meadow."""
    sky, ground = scenes.sky, scenes.ground
    one = torch.ones_like(sky)
    low = _pick("sky_low", scenes, sky)
    x = pixel_centres(size).to(sky.device)
    line = lift(sky.new_tensor([0.0, 1.0, 0.0]).expand(len(sky), 3))  # y

    def band(place: float, width: float) -> Tensor:
        """Downwards from `place`, fading in over `width`."""
        return (line - constant(one * place)) / (width / 4)

    centre, u, v = upright(scenes.sun_x, scenes.sun_y, scenes.sun_radius, scenes.sun_radius)
    disc = ellipse(centre, u, v, size)
    halo = ellipse(centre, u * 1.9, v * 1.9, size, soft=1.0)
    lower = ellipse(centre + 0.45 * (u + v), u, v, size, soft=0.95)

    def ridge(height: Tensor, slope: Tensor | float = 0.0) -> Ridge:
        """The area below a curve; `slope` keeps the outline one pixel wide where it is steep."""
        steep = (torch.ones_like(height) + slope * slope).rsqrt()
        return Ridge(height, steep * (size / EDGE))

    rise = ((HORIZON - scenes.mountain_y) / scenes.mountain_width)[:, None]
    outline = slope_height(scenes, x[None])
    mountain = ridge(outline, rise)
    side = (x[None] - scenes.mountain_x[:, None]) / scenes.mountain_width[:, None]
    depth = (HORIZON - scenes.mountain_y)[:, None]
    # The snow ends in soft tongues that go with the mountain.
    border = scenes.mountain_y[:, None] + depth * (SNOW + 0.055 * torch.cos(21.0 * side))
    above = ridge(border, 0.055 * 21 * rise)
    above = Ridge(border, -above.hardness)
    shadow = (
        lift(torch.stack([one, 0.30 * one, -scenes.mountain_x - 0.30 * scenes.mountain_y], -1))
        * 32.0
    )
    far = ridge(
        0.62 - 0.030 * torch.cos(9 * x + 1.0) - 0.018 * torch.cos(17 * x + 4.0) + one[:, None] * 0
    )
    hill = ridge(0.705 - 0.030 * torch.cos(6.5 * x - 3.6) + one[:, None] * 0)
    meadow = ridge(0.775 - 0.022 * torch.cos(5.0 * x - 0.4) + one[:, None] * 0)

    sun = _pick("sun", scenes, sky)
    rock = _pick("rock", scenes, sky)
    grass = _pick("meadow", scenes, ground)
    return _pick("sky_top", scenes, sky), [
        Layer(low, (band(0.36, 0.50),)),
        Layer(sun, (halo,), 0.55),
        Layer(sun, (disc,)),
        Layer(_pick("sun_low", scenes, sky), (disc, lower), 0.55),
        Layer(_pick("far", scenes, sky), (far,), 0.9),
        Layer(rock, (mountain,)),
        Layer(_pick("snow", scenes, sky), (mountain, above)),
        Layer(rock * 0.62, (mountain, shadow), 0.42),
        Layer(low, (mountain, band(0.66, 0.22)), 0.65),
        Layer(_pick("hill", scenes, ground), (hill,)),
        Layer(grass, (meadow,)),
        Layer(grass * 0.80, (meadow, band(0.95, 0.20)), 0.8),
    ]
