"""Where the parts of an animal are: a round head in space, turned, and seen from the front.

**Convention.** Head frame: x to the right of the image, y downwards, z towards the viewer; the
unit is half the head's width, the origin the middle of the head. Longitude 0 and latitude 0 face
the viewer, longitude > 0 lies on the right of the image, latitude > 0 below. Projection is
orthographic. Results are in units of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dragwidget.demo.domain.animals import looks
from dragwidget.demo.domain.parameters import Scenes

HEAD_DEPTH = 0.92  # half the head from front to back
FLATTENED = 0.55
EYE_LONGITUDE, EYE_LATITUDE = 0.44, -0.08
EYE_WIDTH, EYE_HEIGHT = 0.215, 0.275  # half of them
NOSE_LATITUDE = 0.20
MOUTH_LATITUDE, MOUTH_WIDTH, MOUTH_HEIGHT = 0.44, 0.30, 0.30
MOUTH_OPENING = 1.25  # how far the lower lip goes, in MOUTH_HEIGHT
LIP = 0.14  # half the thickness of the closed mouth, in MOUTH_HEIGHT

Value = Tensor | float


@dataclass(frozen=True)
class Spot:
    """Flat spots on the head's surface, F of them, as the viewer sees them.

    `centre`, `axis_u` (eastwards), `axis_v` (southwards): (B, F, 2), units of the image;
    `facing`: (B, F), cosine of the angle to the viewer, <= 0 on the far side.
    """

    centre: Tensor
    axis_u: Tensor
    axis_v: Tensor
    facing: Tensor

    def part(self, index: slice) -> Spot:
        """Some of the spots."""
        return Spot(*(t[:, index] for t in (self.centre, self.axis_u, self.axis_v, self.facing)))

    def at(self, u: Value, v: Value) -> Tensor:
        """(B, F, 2): the place at (u, v) of each spot's own frame; u, v numbers or (B, 1)."""
        u, v = (t[..., None] if isinstance(t, Tensor) else t for t in (u, v))
        return self.centre + self.axis_u * u + self.axis_v * v


@dataclass(frozen=True)
class Head:
    """The heads of a batch of scenes: place, size, rotation (B, 3, 3) and the kind's numbers."""

    scenes: Scenes
    looks: dict[str, Tensor]
    rotation: Tensor

    def project(self, points: Tensor) -> Tensor:
        """(B, F, 3) in the head frame -> (B, F, 2) in the image."""
        turned = points @ self.rotation.transpose(1, 2)
        centre = torch.stack([self.scenes.x, self.scenes.y], -1)
        return centre[:, None] + turned[..., :2] * self.scenes.size[:, None, None]

    def direction(self, vectors: Tensor) -> Tensor:
        """(B, F, 3) -> (B, F, 3): turned, scaled to units of the image, not moved."""
        return (vectors @ self.rotation.transpose(1, 2)) * self.scenes.size[:, None, None]

    def spots(self, rows: list[tuple[Value, Value, Value, Value, Value]]) -> Spot:
        """Spots given as (longitude, latitude, distance factor, half width, half height)."""
        size = self.scenes.size
        columns = [
            torch.stack(
                [v if isinstance(v, Tensor) else size.new_full(size.shape, v) for v in c], 1
            )
            for c in zip(*rows, strict=True)
        ]
        longitude, latitude, out, width, height = columns  # each (B, F)
        east, west = torch.sin(longitude), torch.cos(longitude)
        south, north = torch.sin(latitude), torch.cos(latitude)
        normal = torch.stack([east * north, south, west * north], -1)
        tall = self.looks["head_height"][:, None] * torch.ones_like(out)
        radii = torch.stack([torch.ones_like(out), tall, torch.full_like(out, HEAD_DEPTH)], -1)
        # A face is flatter than a ball: the spots themselves lean less.
        lean = FLATTENED * longitude
        axis_u = torch.stack([torch.cos(lean), torch.zeros_like(lean), -torch.sin(lean)], -1)
        axis_v = torch.stack([-torch.sin(lean) * south, north, -torch.cos(lean) * south], -1)
        axis_u, axis_v = axis_u * width[..., None], axis_v * height[..., None]
        return Spot(
            centre=self.project(normal * radii * out[..., None]),
            axis_u=self.direction(axis_u)[..., :2],
            axis_v=self.direction(axis_v)[..., :2],
            facing=(normal @ self.rotation.transpose(1, 2))[..., 2],
        )

    def eyes(self) -> Spot:
        """Return the two eyes, left of the image first; their frames end at the eye's outline."""
        row = (EYE_LATITUDE, 1.0, EYE_WIDTH, EYE_HEIGHT)
        return self.spots([(-EYE_LONGITUDE, *row), (EYE_LONGITUDE, *row)])

    def lid(self) -> Tensor:
        """(B,): height of the upper lid's middle in the eye's frame, -1 open .. 1 closed."""
        return 1 - 2 * self.scenes.eyes

    def nose(self) -> Spot:
        """Return the nose, at the end of the muzzle."""
        kind = self.looks
        size = kind["nose_width"], kind["nose_height"]
        return self.spots([(0.0, NOSE_LATITUDE, kind["muzzle_out"], *size)])

    def mouth(self) -> Spot:
        """The mouth; its frame has the closed mouth at v = 0 and the corners at u = -1 and 1."""
        out = 1 + 0.75 * (self.looks["muzzle_out"] - 1)
        return self.spots([(0.0, MOUTH_LATITUDE, out, MOUTH_WIDTH, MOUTH_HEIGHT)])

    def lip(self) -> Tensor:
        """(B,): the middle of the lower lip's edge, v in the mouth's frame."""
        return LIP + MOUTH_OPENING * self.scenes.mouth

    def ears(self) -> tuple[Tensor, Tensor, Tensor]:
        """Bases, tips and half widths (as vectors) of the ears: (B, 2, 2) each, left one first."""
        kind = self.looks
        short, long = kind["ear_short"], kind["ear_long"]
        length = short + (long - short) * self.scenes.ears
        side = length.new_tensor([-1.0, 1.0])
        tilt = kind["ear_tilt"][:, None]
        sine, cosine = torch.sin(tilt) * side, torch.cos(tilt).expand(-1, 2)
        flat = torch.zeros_like(sine)
        base = torch.stack(
            [kind["ear_x"][:, None] * side, -kind["ear_y"][:, None] + flat, flat + 0.12], -1
        )
        along = torch.stack([sine, -cosine, flat - 0.08], -1) * length[:, None, None]
        across = torch.stack([cosine, sine, flat], -1) * kind["ear_width"][:, None, None]
        return self.project(base), self.project(base + along), self.direction(across)[..., :2]


def head_of(scenes: Scenes) -> Head:
    """Return the heads of a batch."""
    cos_yaw, sin_yaw = torch.cos(scenes.yaw), torch.sin(scenes.yaw)
    cos_pitch, sin_pitch = torch.cos(scenes.pitch), torch.sin(scenes.pitch)
    zero = torch.zeros_like(cos_yaw)
    # First the turn about the upright axis, then the nod.
    rotation = torch.stack(
        [
            torch.stack([cos_yaw, zero, sin_yaw], -1),
            torch.stack([-sin_pitch * sin_yaw, cos_pitch, sin_pitch * cos_yaw], -1),
            torch.stack([-cos_pitch * sin_yaw, -sin_pitch, cos_pitch * cos_yaw], -1),
        ],
        1,
    )
    return Head(scenes, looks(scenes.kind), rotation)
