"""How the animals look: the numbers and colours that tell a fox from a panda.

Lengths in units of half the head's width; angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dragwidget.demo.domain.parameters import KINDS


@dataclass(frozen=True, kw_only=True)
class Animal:
    """One kind. Colours are "#rrggbb"; opacities switch a marking on or off."""

    fur: str  # at fur = 0
    fur_to: str  # at fur = 1
    light: str  # muzzle, belly
    dark: str  # ears' tips, patches, paws
    iris: str
    inner_ear: str = "#f0a8a0"
    head_height: float = 0.88
    cheek_width: float = 0.95  # half the width of the lower face
    ear_x: float = 0.58  # base of the ear on the head
    ear_y: float = 0.55
    ear_tilt: float = 0.42  # outwards from upright
    ear_length: tuple[float, float] = (0.62, 1.02)  # at ears = 0 and 1, from the base to the tip
    ear_width: float = 0.38  # half, at the widest
    ear_widest: float = 0.15  # where along the ear
    ear_point: float = 0.75  # 0 round .. 1 pointed
    ear_dark: float = 0.0  # the ear has the dark colour
    ear_tip: float = 0.0  # only its tip has
    ear_front: float = 0.0  # the ear hangs before the head
    muzzle: tuple[float, float] = (0.44, 0.33)
    muzzle_out: float = 1.12  # how far the nose stands before the head
    nose: tuple[float, float] = (0.17, 0.12)
    cheeks: float = 0.0  # light lower face
    patch: tuple[float, float] = (0.0, 0.0)  # dark round the left and right eye
    blaze: float = 0.0  # light on the forehead
    stripes: float = 0.0  # dark on the forehead
    paws: float = 0.0  # dark arms and feet
    belly: float = 1.0
    tail: tuple[float, float] = (0.26, 0.62)  # half width, half length
    tail_tip: float = 0.0


ANIMALS = {
    "fox": Animal(
        fur="#ea7a32",
        fur_to="#d5562f",
        light="#fff3e2",
        dark="#5a3331",
        iris="#8a5a1e",
        cheek_width=1.04,
        ear_length=(0.72, 1.14),
        ear_tip=1.0,
        ear_width=0.36,
        cheeks=1.0,
        muzzle=(0.36, 0.30),
        muzzle_out=1.28,
        paws=1.0,
        tail=(0.34, 0.78),
        tail_tip=1.0,
    ),
    "cat": Animal(
        fur="#8f93a6",
        fur_to="#edb06c",
        light="#fdf1e6",
        dark="#5d5464",
        iris="#5fa06a",
        ear_length=(0.66, 1.06),
        ear_width=0.40,
        muzzle=(0.38, 0.27),
        nose=(0.13, 0.095),
        stripes=0.6,
        tail=(0.17, 0.80),
    ),
    "bear": Animal(
        fur="#98633f",
        fur_to="#c48c58",
        light="#f0d3a8",
        dark="#6d4530",
        iris="#5b3a22",
        ear_x=0.62,
        ear_y=0.55,
        ear_tilt=0.55,
        ear_length=(0.46, 0.84),
        ear_width=0.33,
        ear_widest=0.50,
        ear_point=0.0,
        inner_ear="#e8b08c",
        muzzle=(0.46, 0.36),
        nose=(0.20, 0.14),
        tail=(0.20, 0.26),
    ),
    "rabbit": Animal(
        fur="#f6ece2",
        fur_to="#c9a88c",
        light="#fffaf4",
        dark="#a98673",
        iris="#a8505c",
        ear_x=0.36,
        ear_y=0.62,
        ear_tilt=0.20,
        ear_length=(0.95, 1.45),
        ear_width=0.24,
        ear_widest=0.55,
        ear_point=0.25,
        inner_ear="#f5a9b0",
        muzzle=(0.36, 0.27),
        nose=(0.13, 0.09),
        tail=(0.28, 0.30),
    ),
    "panda": Animal(
        fur="#fbf7f0",
        fur_to="#efe0cc",
        light="#fffaf2",
        dark="#453f4f",
        iris="#5b4436",
        ear_x=0.64,
        ear_y=0.55,
        ear_tilt=0.55,
        ear_length=(0.44, 0.82),
        ear_width=0.33,
        ear_widest=0.50,
        ear_point=0.0,
        ear_dark=1.0,
        inner_ear="#6d6070",
        patch=(1.0, 1.0),
        muzzle=(0.40, 0.32),
        nose=(0.18, 0.125),
        paws=1.0,
        belly=0.0,
        tail=(0.20, 0.26),
    ),
    "dog": Animal(
        fur="#e3b06e",
        fur_to="#f6e2c0",
        light="#fff8ec",
        dark="#8a5433",
        iris="#5a3a26",
        ear_x=0.66,
        ear_y=0.66,
        ear_tilt=2.50,
        ear_length=(0.92, 1.36),
        ear_width=0.25,
        ear_widest=0.52,
        ear_point=0.0,
        ear_dark=1.0,
        ear_front=1.0,
        inner_ear="#8a5433",
        muzzle=(0.46, 0.37),
        muzzle_out=1.20,
        nose=(0.21, 0.145),
        patch=(0.0, 1.0),
        blaze=1.0,
        tail=(0.17, 0.66),
        tail_tip=1.0,
    ),
    "mouse": Animal(
        fur="#a5a9b8",
        fur_to="#cdb49f",
        light="#f7ece4",
        dark="#7d7686",
        iris="#3f3440",
        head_height=0.84,
        ear_x=0.70,
        ear_y=0.45,
        ear_tilt=0.72,
        ear_length=(0.78, 1.14),
        ear_width=0.48,
        ear_widest=0.54,
        ear_point=0.0,
        inner_ear="#f4b3b3",
        muzzle=(0.34, 0.27),
        muzzle_out=1.26,
        nose=(0.14, 0.11),
        tail=(0.09, 0.85),
    ),
}


def rgb(colour: str) -> tuple[float, float, float]:
    """ "#rrggbb" to three numbers in [0, 1]."""
    return (int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255)


def _columns(field: str) -> Tensor:
    values = [getattr(ANIMALS[kind], field) for kind in KINDS]
    return torch.tensor([rgb(v) if isinstance(v, str) else v for v in values])


TABLE: dict[str, Tensor] = {f.name: _columns(f.name) for f in fields(Animal)}  # (kinds, ...)


def looks(kind: Tensor) -> dict[str, Tensor]:
    """Return each field of Animal for kinds (B,): numbers (B,), pairs (B, 2), colours (B, 3)."""
    return {name: column.to(kind.device)[kind] for name, column in TABLE.items()}
