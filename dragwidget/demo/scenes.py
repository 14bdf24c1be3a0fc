"""The domain "Critters": random scenes, their images, their captions.

Every image is a function of an integer seed and nothing else. Seeds are shared out once and for
all, so that nothing measured was ever seen in training:

- training: below `TRAINING_SEEDS`
- tuning of settings: `TRAINING_SEEDS` .. `TUNING_SEEDS` - 1
- tests and published numbers: `TUNING_SEEDS` and above
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dragwidget.demo.domain.anatomy import head_of
from dragwidget.demo.domain.landscape import slope_height
from dragwidget.demo.domain.painting import render
from dragwidget.demo.domain.parameters import CONTINUOUS, KINDS, RANGES, TIMES, Scenes
from dragwidget.demo.domain.random_numbers import uniform
from dragwidget.demo.domain.scribbles import scribbles

__all__ = [
    "CONTINUOUS",
    "KINDS",
    "RANGES",
    "TIMES",
    "TRAINING_SEEDS",
    "TUNING_SEEDS",
    "Scenes",
    "captions",
    "render",
    "sample_images",
    "sample_scenes",
    "scribbles",
    "to_image",
]

TRAINING_SEEDS = 900_000
TUNING_SEEDS = 950_000
SAMPLES = tuple(TRAINING_SEEDS + k for k in (26, 7, 11, 31))  # not seen in training
_TRIES = 24  # placings of sun and mountain drawn for a scene; the first clear one is taken


def sample_scenes(seeds: Sequence[int]) -> Scenes:
    """Return one random scene for each seed, uniform in RANGES with two exceptions.

    The sun hangs in the free sky, and the mountain's top is not behind the animal; where none of
    the placings drawn is clear, the clearest is taken.
    """
    numbers = uniform(seeds, len(CONTINUOUS) + 2 + 5 * _TRIES)  # (B, n)
    low, high = np.array(list(RANGES.values())).T
    values = low + (high - low) * numbers[:, : len(CONTINUOUS)]
    # Wide open eyes and a closed mouth are worth more than their share of a uniform draw.
    for name, share, end in (("eyes", 0.3, 1.0), ("mouth", 0.15, 0.0)):
        column = CONTINUOUS.index(name)
        u = values[:, column]
        values[:, column] = np.where(u < share, end, (u - share) / (1 - share))
    kind = (numbers[:, -1] * len(KINDS)).astype(np.int64)
    time = (numbers[:, -2] * len(TIMES)).astype(np.int64)
    whole = Scenes(
        **{n: torch.tensor(values[:, i], dtype=torch.float32) for i, n in enumerate(CONTINUOUS)},
        kind=torch.tensor(kind),
        time_of_day=torch.tensor(time),
    )
    return _place_freely(whole, numbers[:, len(CONTINUOUS) : -2])


def _place_freely(scenes: Scenes, numbers: NDArray[np.float64]) -> Scenes:
    """Choose among _TRIES placings of sun and mountain; numbers: (B, 5 * _TRIES) in [0, 1)."""
    names = ("sun_x", "sun_y", "mountain_x", "mountain_y", "mountain_width")
    low, high = np.array([RANGES[n] for n in names]).T
    tries = torch.tensor(
        low + (high - low) * numbers.reshape(-1, len(names)), dtype=torch.float32
    )  # (B * _TRIES, 5), scene by scene
    repeated = scenes[torch.arange(len(scenes)).repeat_interleave(_TRIES)]
    placed = replace(repeated, **dict(zip(names, tries.unbind(1), strict=True)))
    room = clearance(placed).view(-1, _TRIES)
    first = (room > 0).int().argmax(1)
    choice = torch.where((room > 0).any(1), first, room.argmax(1))
    return placed[torch.arange(len(scenes)) * _TRIES + choice]


def clearance(scenes: Scenes) -> Tensor:
    """Return the free room around sun and mountain top, (B,), units of the image; < 0: hidden.

    The sun keeps clear of the animal, the mountain and the image's edge, the top of the animal.
    """
    base, tip, _ = head_of(scenes).ears()  # (B, 2, 2)
    head = torch.stack([scenes.x, scenes.y], -1)[:, None]
    places = torch.cat([head, (base + tip) / 2, tip], 1)  # (B, 5, 2)
    reach = scenes.size[:, None] * scenes.size.new_tensor([1.05, 0.35, 0.35, 0.2, 0.2])
    sun = torch.stack([scenes.sun_x, scenes.sun_y], -1)[:, None]
    top = torch.stack([scenes.mountain_x, scenes.mountain_y], -1)[:, None]
    radius = scenes.sun_radius
    across = scenes.sun_x[:, None] + radius[:, None] * radius.new_tensor([-0.7, 0.0, 0.7])
    rooms = [
        ((sun - places).norm(dim=-1) - reach).amin(1) - radius - 0.02,
        ((top - places).norm(dim=-1) - reach).amin(1) - 0.03,
        slope_height(scenes, across).amin(1) - scenes.sun_y - radius - 0.01,
        scenes.sun_y - radius - 0.015,
        torch.minimum(scenes.sun_x, 1 - scenes.sun_x) - radius - 0.01,
    ]
    return torch.stack(rooms, 1).amin(1)


def to_image(image: Tensor) -> Image.Image:
    """Return (3, H, W) in [0, 1] as a Pillow image, rounded to 256 levels."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def sample_images() -> list[tuple[Image.Image, str]]:
    """Return a few images to try an edit on, each with its caption."""
    scenes = sample_scenes(SAMPLES)
    return list(zip(map(to_image, render(scenes)), captions(scenes), strict=True))


def captions(scenes: Scenes) -> list[str]:
    """Return a caption for each scene: "a fox turned left, mouth open, ..., evening"."""
    return [_caption(row) for row in _rows(scenes)]


def _rows(scenes: Scenes) -> list[dict[str, float]]:
    columns = {f.name: getattr(scenes, f.name).tolist() for f in fields(scenes)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _caption(scene: dict[str, float]) -> str:
    def third(name: str, low: str, middle: str, high: str) -> str:
        """Return the word for the lower, the middle or the upper third of the parameter's range."""
        start, end = RANGES[name]
        share = (scene[name] - start) / (end - start)
        return low if share < 1 / 3 else middle if share < 2 / 3 else high

    time = TIMES[int(scene["time_of_day"])]
    sun = "moon" if time == "night" else "sun"
    turned = third("yaw", "turned left", "facing us", "turned right")
    looking = third("pitch", "looking up", "", "looking down")
    phrases = [
        f"a {KINDS[int(scene['kind'])]} {third('x', 'left', 'middle', 'right')} {turned}",
        looking,
        third("ears", "short ears", "", "long ears"),
        third("eyes", "eyes closed", "sleepy eyes", "eyes open"),
        third("mouth", "mouth closed", "", "mouth open"),
        third("scarf", "red", "yellow", "teal") + " scarf",
        third("sun_y", "high", "", "low") + f" {sun} " + third("sun_x", "left", "middle", "right"),
        third("mountain_y", "tall", "", "small")
        + " mountain "
        + third("mountain_x", "left", "middle", "right"),
        time,
    ]
    return ", ".join(" ".join(p.split()) for p in phrases if p)
