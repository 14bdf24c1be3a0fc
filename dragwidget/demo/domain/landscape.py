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

# For each time of day: colours at tint 0 and 1.
_SKY_TOP = {
    "day": ("#5fb4e8", "#8fc7f0"),
    "evening": ("#7e6bb8", "#c06a9c"),
    "night": ("#1f2a5c", "#2f2a63"),
}
_SKY_LOW = {
    "day": ("#d9f1fb", "#fdf0d5"),
    "evening": ("#ffc98f", "#ffb0a0"),
    "night": ("#5d6fb5", "#7a68b0"),
}
_SUN = {
    "day": ("#ffd84a", "#ffe27a"),
    "evening": ("#ff8a4c", "#ff7a5c"),
    "night": ("#fdf6d8", "#f4f0ff"),
}
_SUN_LOW = {
    "day": ("#ffb73a", "#ffc04a"),
    "evening": ("#f0593f", "#e85560"),
    "night": ("#d8d2c8", "#cfc8e8"),
}
_ROCK = {
    "day": ("#7f93b8", "#9b93b5"),
    "evening": ("#7d5f94", "#96607f"),
    "night": ("#3d4a85", "#4c4886"),
}
_SNOW = {
    "day": ("#ffffff", "#fffdf8"),
    "evening": ("#ffe6dc", "#ffe2e0"),
    "night": ("#c9d3f2", "#d2ccf0"),
}
_FAR = {
    "day": ("#b3cfe3", "#c8cfdf"),
    "evening": ("#d58fa0", "#d98694"),
    "night": ("#4f5f9f", "#5f5a9f"),
}
_HILL = {
    "day": ("#8cc774", "#b9cf6f"),
    "evening": ("#8a9a68", "#b09a5c"),
    "night": ("#3a6275", "#4a5f80"),
}
_MEADOW = {
    "day": ("#5faa5c", "#93b552"),
    "evening": ("#6a8455", "#94844a"),
    "night": ("#2a4a60", "#38486b"),
}
_LIGHT = {
    "day": ("#ffffff", "#ffffff"),
    "evening": ("#ffe9da", "#ffe6dc"),
    "night": ("#c3c9ee", "#cac6ec"),
}


def _pick(palette: dict[str, tuple[str, str]], scenes: Scenes, tint: Tensor) -> Tensor:
    """(B, 3): the colour of the time of day, between its two ends."""
    table = torch.tensor([[rgb(c) for c in palette[time]] for time in TIMES], device=tint.device)
    low, high = table[scenes.time_of_day].unbind(1)
    return low + (high - low) * tint[:, None]


def light_of(scenes: Scenes) -> Tensor:
    """(B, 3): the colour of the light that falls on the animal."""
    return _pick(_LIGHT, scenes, scenes.sky)


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
    low = _pick(_SKY_LOW, scenes, sky)
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

    sun = _pick(_SUN, scenes, sky)
    rock = _pick(_ROCK, scenes, sky)
    grass = _pick(_MEADOW, scenes, ground)
    return _pick(_SKY_TOP, scenes, sky), [
        Layer(low, (band(0.36, 0.50),)),
        Layer(sun, (halo,), 0.55),
        Layer(sun, (disc,)),
        Layer(_pick(_SUN_LOW, scenes, sky), (disc, lower), 0.55),
        Layer(_pick(_FAR, scenes, sky), (far,), 0.9),
        Layer(rock, (mountain,)),
        Layer(_pick(_SNOW, scenes, sky), (mountain, above)),
        Layer(rock * 0.62, (mountain, shadow), 0.42),
        Layer(low, (mountain, band(0.66, 0.22)), 0.65),
        Layer(_pick(_HILL, scenes, ground), (hill,)),
        Layer(grass, (meadow,)),
        Layer(grass * 0.80, (meadow, band(0.95, 0.20)), 0.8),
    ]
