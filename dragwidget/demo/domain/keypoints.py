"""Named points of a scene: where each of them really is in the image, and whether one sees it.

**Convention.** Image pixels `(x, y)`, integers at the centres of pixels (see
`dragwidget.data.frames`): a place p in units of the image lies at `p * size - 0.5`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dragwidget.demo.domain.anatomy import head_of
from dragwidget.demo.domain.landscape import HORIZON, slope_height
from dragwidget.demo.domain.parameters import Scenes

POINTS = (
    "nose",
    "left_eye",  # left of the image, not the animal's
    "right_eye",
    "left_lid",  # middle of the upper lid's edge
    "right_lid",
    "left_ear",  # tip
    "right_ear",
    "lip",  # middle of the lower lip's edge
    "knot",  # of the scarf: a point that stays when only the head turns
    "mountain",  # top
    "sun",  # or moon, middle
)
KNOT = (0.30, 1.05)  # beside the head's middle, head units
FACING = 0.25  # cosine below which a spot of the face counts as turned away


@dataclass(frozen=True)
class Keypoints:
    """The K = len(POINTS) points of B scenes.

    `xy`: (B, K, 2) image pixels, exact, differentiable in the scenes' parameters; `visible`:
    (B, K) bool: inside the image, on the near side and behind nothing.
    """

    xy: Tensor
    visible: Tensor

    def of(self, name: str) -> Tensor:
        """(B, 2): one point of every scene."""
        return self.xy[:, POINTS.index(name)]


def keypoints(scenes: Scenes, size: int = 128) -> Keypoints:
    """Return the named points of scenes drawn `size` x `size` pixels."""
    head = head_of(scenes)
    eyes, nose, mouth = head.eyes(), head.nose(), head.mouth()
    one = torch.ones_like(scenes.x)
    _, tips, _ = head.ears()
    middle = torch.stack([scenes.x, scenes.y], -1)
    knot = middle + scenes.size[:, None] * middle.new_tensor(KNOT)
    top = torch.stack([scenes.mountain_x, scenes.mountain_y], -1)
    sun = torch.stack([scenes.sun_x, scenes.sun_y], -1)
    places = torch.cat(
        [
            nose.centre,
            eyes.centre,
            eyes.at(0.0, head.lid()[:, None]),
            tips,
            mouth.at(0.0, head.lip()[:, None]),
            torch.stack([knot, top, sun], 1),
        ],
        1,
    )
    inside = ((places >= 0) & (places < 1)).all(-1)
    ear_shown = _ear_shown(scenes, tips)
    seen = torch.cat(
        [
            nose.facing > FACING,
            (eyes.facing > FACING).repeat(1, 2),
            ear_shown,
            mouth.facing > FACING,
            one[:, None] > 0,
            _clear_of_animal(scenes, top)[:, None],
            (_clear_of_animal(scenes, sun) & _above_ground(scenes, sun))[:, None],
        ],
        1,
    )
    return Keypoints(places * size - 0.5, inside & seen)


def _in_head(scenes: Scenes, points: Tensor) -> Tensor:
    """(B, n): are points (B, n, 2) on the head's disc?"""
    height = head_of(scenes).looks["head_height"]
    radii = torch.stack([scenes.size, scenes.size * height], -1)[:, None]
    middle = torch.stack([scenes.x, scenes.y], -1)[:, None]
    inside: Tensor = (((points - middle) / radii) ** 2).sum(-1) < 1
    return inside


def _ear_shown(scenes: Scenes, tips: Tensor) -> Tensor:
    """(B, 2): an ear's tip is seen where it stands beside the head or hangs before it."""
    side = torch.sin(scenes.yaw)[:, None] * tips.new_tensor([-1.0, 1.0])
    before = (head_of(scenes).looks["ear_front"][:, None] > 0) & (side < 0.2)
    return before | ~_in_head(scenes, tips)


def _clear_of_animal(scenes: Scenes, point: Tensor) -> Tensor:
    """(B,): is a point (B, 2) of the landscape seen beside head, ears and body?"""
    base, tip, across = head_of(scenes).ears()
    along = tip - base
    share = ((point[:, None] - base) * along).sum(-1) / (along * along).sum(-1)
    nearest = base + along * share.clamp(0, 1)[..., None]
    ear = (point[:, None] - nearest).norm(dim=-1) < across.norm(dim=-1) * 0.9
    body = (point - torch.stack([scenes.x, scenes.y + 1.5 * scenes.size], -1)).abs()
    on_body = (body < scenes.size[:, None] * body.new_tensor([0.8, 0.9])).all(-1)
    hidden: Tensor = _in_head(scenes, point[:, None])[:, 0] | ear.any(1) | on_body
    return ~hidden


def _above_ground(scenes: Scenes, point: Tensor) -> Tensor:
    outline = slope_height(scenes, point[:, :1])[:, 0]
    return (point[:, 1] < outline) & (point[:, 1] < HORIZON - 0.1)
