"""Which pixels of a scene belong to which of its parts: the ground truth of a selection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dragwidget.demo.domain.anatomy import head_of
from dragwidget.demo.domain.drawing import Layer, paint
from dragwidget.demo.domain.landscape import landscape
from dragwidget.demo.domain.painting import Painter
from dragwidget.demo.domain.parameters import Scenes

PARTS = ("head", "animal", "sun", "mountain")
_DISC, _MOUNTAIN = (2, 3), (5, 6, 7, 8)  # layers of the landscape


def part_masks(scenes: Scenes, size: int = 128) -> dict[str, Tensor]:
    """Return the visible pixels of every part of ``PARTS``, (B, size, size) bool.

    A pixel belongs to a part that covers at least half of it. The head comes with its ears, the
    animal with head, scarf and tail but without its shadow, the sun without its glow.
    """
    painter = Painter(head_of(scenes), size)
    sky, behind = landscape(scenes, size)
    ground, *body = painter.body()
    head = [*painter.ears(front=False), *painter.face(), *painter.ears(front=True)]
    head += [*painter.eyes(), *painter.mouth()]
    layers = [*behind, ground, *body, *head]
    first = {"ground": len(behind), "head": len(layers) - len(head)}
    wanted: dict[str, Sequence[int]] = {
        "head": range(first["head"], len(layers)),
        "animal": range(first["ground"] + 1, len(layers)),
        "sun": _DISC,
        "mountain": _MOUNTAIN,
    }
    # Glow, haze and shadows tint what they lie on and hide nothing.
    see_through = {1, first["ground"]}
    masks = {}
    for part, mine in wanted.items():
        shown = [
            Layer(torch.full_like(sky, float(index in mine)), layer.inside, layer.opacity)
            for index, layer in enumerate(layers)
            if index not in see_through
        ]
        masks[part] = paint(torch.zeros_like(sky), shown, size)[:, 0] >= 0.5
    return masks
