"""How the animals look: the numbers and colours that tell a fox from a panda.

Lengths in units of half the head's width; angles in radians.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of fox, cat, bear, rabbit, panda, dog and mouse, as in KINDS. Colours are "#rrggbb"; opacities
# switch a marking on or off.
ANIMALS: dict[str, tuple[str, ...] | tuple[float, ...]] = {
    # at fur = 0
    "fur": ("#ea7a32", "#8f93a6", "#98633f", "#f6ece2", "#fbf7f0", "#e3b06e", "#a5a9b8"),
    # at fur = 1
    "fur_to": ("#d5562f", "#edb06c", "#c48c58", "#c9a88c", "#efe0cc", "#f6e2c0", "#cdb49f"),
    # muzzle, belly
    "light": ("#fff3e2", "#fdf1e6", "#f0d3a8", "#fffaf4", "#fffaf2", "#fff8ec", "#f7ece4"),
    # ears' tips, patches, paws
    "dark": ("#5a3331", "#5d5464", "#6d4530", "#a98673", "#453f4f", "#8a5433", "#7d7686"),
    "iris": ("#8a5a1e", "#5fa06a", "#5b3a22", "#a8505c", "#5b4436", "#5a3a26", "#3f3440"),
    "inner_ear": ("#f0a8a0", "#f0a8a0", "#e8b08c", "#f5a9b0", "#6d6070", "#8a5433", "#f4b3b3"),
    "head_height": (0.88, 0.88, 0.88, 0.88, 0.88, 0.88, 0.84),
    "cheek_width": (1.04, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95),  # half the width of the lower face
    "ear_x": (0.58, 0.58, 0.62, 0.36, 0.64, 0.66, 0.70),  # base of the ear on the head
    "ear_y": (0.55, 0.55, 0.55, 0.62, 0.55, 0.66, 0.45),
    "ear_tilt": (0.42, 0.42, 0.55, 0.20, 0.55, 2.50, 0.72),  # outwards from upright
    # from the base to the tip, at ears = 0
    "ear_short": (0.72, 0.66, 0.46, 0.95, 0.44, 0.92, 0.78),
    "ear_long": (1.14, 1.06, 0.84, 1.45, 0.82, 1.36, 1.14),  # at ears = 1
    "ear_width": (0.36, 0.40, 0.33, 0.24, 0.33, 0.25, 0.48),  # half, at the widest
    "ear_widest": (0.15, 0.15, 0.50, 0.55, 0.50, 0.52, 0.54),  # where along the ear
    "ear_point": (0.75, 0.75, 0.00, 0.25, 0.00, 0.00, 0.00),  # 0 round .. 1 pointed
    "ear_dark": (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0),  # the ear has the dark colour
    "ear_tip": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # only its tip has
    "ear_front": (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0),  # the ear hangs before the head
    "muzzle_width": (0.36, 0.38, 0.46, 0.36, 0.40, 0.46, 0.34),
    "muzzle_height": (0.30, 0.27, 0.36, 0.27, 0.32, 0.37, 0.27),
    # how far the nose stands before the head
    "muzzle_out": (1.28, 1.12, 1.12, 1.12, 1.12, 1.20, 1.26),
    "nose_width": (0.17, 0.13, 0.20, 0.13, 0.18, 0.21, 0.14),
    "nose_height": (0.12, 0.095, 0.14, 0.09, 0.125, 0.145, 0.11),
    "cheeks": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # light lower face
    "patch_left": (0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0),  # dark round the left eye
    "patch_right": (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0),
    "blaze": (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0),  # light on the forehead
    "stripes": (0.00, 0.60, 0.00, 0.00, 0.00, 0.00, 0.00),  # dark on the forehead
    "paws": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0),  # dark arms and feet
    "belly": (1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0),
    "tail_width": (0.34, 0.17, 0.20, 0.28, 0.20, 0.17, 0.09),  # half
    "tail_height": (0.78, 0.80, 0.26, 0.30, 0.26, 0.66, 0.85),  # half
    "tail_tip": (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
}


def rgb(colour: str) -> tuple[float, float, float]:
    """ "#rrggbb" to three numbers in [0, 1]."""
    return (int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255)


TABLE: dict[str, Tensor] = {
    name: torch.tensor([rgb(v) if isinstance(v, str) else v for v in values])
    for name, values in ANIMALS.items()
}  # (kinds,), colours (kinds, 3)


def looks(kind: Tensor) -> dict[str, Tensor]:
    """Return each of ANIMALS for kinds (B,): numbers (B,), colours (B, 3)."""
    return {name: column.to(kind.device)[kind] for name, column in TABLE.items()}
