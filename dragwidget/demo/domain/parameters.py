"""The parameters of a scene: what an image of the domain "Critters" is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

KINDS = ("fox", "cat", "bear", "rabbit", "panda", "dog", "mouse")
TIMES = ("day", "evening", "night")

# Lowest and highest value drawn for each continuous parameter. Places and lengths in units of the
# image (y downwards), angles in radians, the rest in [0, 1].
RANGES: dict[str, tuple[float, float]] = {
    "sun_x": (0.08, 0.92),
    "sun_y": (0.09, 0.38),
    "sun_radius": (0.055, 0.085),
    "mountain_x": (0.08, 0.92),
    "mountain_y": (0.22, 0.48),
    "mountain_width": (0.26, 0.44),
    "x": (0.29, 0.71),
    "y": (0.48, 0.60),
    "size": (0.180, 0.225),
    "yaw": (-0.70, 0.70),
    "pitch": (-0.40, 0.40),
    "ears": (0.0, 1.0),
    "eyes": (0.0, 1.0),
    "mouth": (0.0, 1.0),
    "fur": (0.0, 1.0),
    "sky": (0.0, 1.0),
    "ground": (0.0, 1.0),
    "scarf": (0.0, 1.0),
}
CONTINUOUS = tuple(RANGES)


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes: float tensors (B,), and two integer ones.

    Frame: units of the image, x to the right, y downwards. `yaw` > 0 turns the nose to the right
    of the image, `pitch` > 0 turns it downwards. `sun_*` is the moon at night.
    """

    sun_x: Tensor
    sun_y: Tensor
    sun_radius: Tensor
    mountain_x: Tensor
    mountain_y: Tensor  # of the top
    mountain_width: Tensor  # half of it, at the horizon
    x: Tensor  # centre of the head; the body hangs on it
    y: Tensor
    size: Tensor  # half the width of the head
    yaw: Tensor  # radians
    pitch: Tensor  # radians
    ears: Tensor  # 0 shortest .. 1 longest of the kind
    eyes: Tensor  # 0 closed .. 1 open
    mouth: Tensor  # 0 closed .. 1 open
    fur: Tensor  # tints: 0 .. 1 between two colours of the kind
    sky: Tensor  # .. of the time of day
    ground: Tensor
    scarf: Tensor  # 0 red .. 0.5 yellow .. 1 teal
    kind: Tensor  # (B,) int64, index into KINDS
    time_of_day: Tensor  # (B,) int64, index into TIMES

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Scenes:
        """Always a batch: an integer gives a batch of one."""
        if isinstance(index, int):
            index = [index]
        if not isinstance(index, (slice, Tensor)):
            index = torch.tensor(list(index))
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, *args: Any, **kwargs: Any) -> Scenes:
        """Move to a device (a dtype would spoil `kind`, so give a device only)."""
        return Scenes(**{f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self)})

    @staticmethod
    def cat(parts: Sequence[Scenes]) -> Scenes:
        """Batches one after another."""
        return Scenes(
            **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scenes)}
        )

    def vector(self) -> Tensor:
        """(B, P): the continuous parameters, in the order of CONTINUOUS."""
        return torch.stack([getattr(self, name) for name in CONTINUOUS], 1)

    def with_vector(self, vector: Tensor) -> Scenes:
        """Return the same kinds and times of day with other continuous parameters (B, P)."""
        columns = dict(zip(CONTINUOUS, vector.unbind(1), strict=True))
        return Scenes(**columns, kind=self.kind, time_of_day=self.time_of_day)
