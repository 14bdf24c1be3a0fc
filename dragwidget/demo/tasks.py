"""Drag tasks with their ground truth: what to drag, and what the image then looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dragwidget.data.instructions import DragInstructions, PointPair
from dragwidget.demo.domain.keypoints import POINTS, Keypoints, keypoints
from dragwidget.demo.domain.masks import mask_of_change
from dragwidget.demo.domain.parameters import RANGES, Scenes
from dragwidget.demo.domain.random_numbers import uniform
from dragwidget.demo.scenes import captions, clearance, render, sample_scenes

__all__ = ["TASK_KINDS", "DragTask", "Keypoints", "drag_task", "keypoints", "sample_tasks"]


@dataclass(frozen=True)
class _Drag:
    """One kind of drag: the parameters that change, and the points a person would take hold of."""

    parameters: tuple[str, ...]
    points: tuple[tuple[str, ...], ...]  # one of these sets
    redraw: bool = True  # the source's value is drawn again as well, else it stays


_DRAGS = {
    "turn": _Drag(("yaw",), (("nose",), ("nose", "left_eye", "right_eye"))),
    "nod": _Drag(("pitch",), (("nose",), ("nose", "left_eye", "right_eye"))),
    "ears": _Drag(("ears",), (("left_ear", "right_ear"),)),
    "mouth": _Drag(("mouth",), (("lip",),)),
    "eyes": _Drag(("eyes",), (("left_lid", "right_lid"),)),
    "move": _Drag(("x", "y"), (("nose", "knot"), ("nose", "left_ear", "right_ear")), redraw=False),
    "sun": _Drag(("sun_x", "sun_y"), (("sun",),), redraw=False),
    "mountain": _Drag(("mountain_y",), (("mountain",),), redraw=False),
}
_PAIRS = (
    ("turn", "sun"),
    ("turn", "mouth"),
    ("nod", "ears"),
    ("mouth", "eyes"),
    ("ears", "mountain"),
    ("sun", "mountain"),
    ("eyes", "sun"),
    ("turn", "mountain"),
)
TASK_KINDS = (*_DRAGS, "two")

SHORTEST, LONGEST = 4.5, 20.0  # a drag, in pixels of an image of 128
_TRIES = 64  # changes drawn for a scene; the first good one is taken
_STREAM = 100  # random numbers apart from those that made the scene


@dataclass(frozen=True)
class DragTask:
    """What a user would ask, and the ground truth.

    Attributes:
        kind: one of ``TASK_KINDS``.
        seed: the task's number; the same seed gives the same task.
        instructions: pairs, mask and prompt.
        points: name of each pair's point, of ``POINTS``.
        source: image to edit, (3, H, W) float32 in [0, 1].
        target: ground truth, likewise.
        source_scene: scene of the source, a batch of one.
        target_scene: scene of the ground truth, likewise.
    """

    kind: str
    seed: int
    instructions: DragInstructions
    points: tuple[str, ...]
    source: Tensor
    target: Tensor
    source_scene: Scenes
    target_scene: Scenes


def sample_tasks(
    seed: int, n: int, kinds: Sequence[str] | None = None, size: int = 128
) -> list[DragTask]:
    """Return n tasks, with seeds `seed` .. `seed + n - 1`, of all kinds (or ``kinds``) by turns."""
    kinds = TASK_KINDS if kinds is None else kinds
    return [drag_task(kinds[i % len(kinds)], seed + i, size) for i in range(n)]


def drag_task(kind: str, seed: int, size: int = 128) -> DragTask:
    """Return the task of a kind that belongs to a seed, on the seed's own scene if it has room.

    Every point dragged is visible before and after, inside the image, and moves by SHORTEST to
    LONGEST (in proportion to `size`).

    Raises ValueError for a kind that is not in TASK_KINDS.
    """
    if kind not in TASK_KINDS:
        raise ValueError(f"kind must be one of {', '.join(TASK_KINDS)}, got {kind!r}")
    for attempt in range(100):
        # A scene that leaves no room for the drag (a sun in a corner) gives way to another one.
        scene = sample_scenes([seed + (attempt << 32)])
        numbers = uniform([seed], 2 + 6 * _TRIES, stream=_STREAM + attempt)[0]
        found = _change(_drag_of(kind, numbers[0]), scene, numbers[1], numbers[2:])
        if found is not None:
            return _finish(kind, seed, *found, size)
    raise AssertionError(f"no {kind} task for seed {seed}")


def _drag_of(kind: str, number: float) -> _Drag:
    if kind != "two":
        return _DRAGS[kind]
    first, second = (_DRAGS[name] for name in _PAIRS[int(number * len(_PAIRS))])
    return _Drag(
        first.parameters + second.parameters,
        (first.points[0] + second.points[0],),
        first.redraw and second.redraw,
    )


def _change(
    drag: _Drag, scene: Scenes, choice: float, numbers: NDArray[np.float64]
) -> tuple[Scenes, Scenes, tuple[str, ...]] | None:
    """The first good pair of source and target scene, and the points; None if all tries fail."""
    points = drag.points[int(choice * len(drag.points))]
    draws = torch.tensor(numbers.reshape(_TRIES, 6), dtype=torch.float32)
    sources = scene[torch.zeros(_TRIES, dtype=torch.long)]
    targets = sources
    for index, name in enumerate(drag.parameters):
        low, high = RANGES[name]
        if drag.redraw:
            sources = replace(sources, **{name: low + (high - low) * draws[:, index + 3]})
        targets = replace(targets, **{name: low + (high - low) * draws[:, index]})
    if drag.redraw:
        targets = replace(sources, **{name: getattr(targets, name) for name in drag.parameters})
    before, after = keypoints(sources), keypoints(targets)
    columns = [POINTS.index(name) for name in points]
    way = (after.xy - before.xy)[:, columns].norm(dim=-1)  # (tries, points)
    good = ((way >= SHORTEST) & (way <= LONGEST)).all(1)
    good &= (before.visible & after.visible)[:, columns].all(1)
    # Both images stay in the domain: sun and mountain top no more hidden than a scene's may be.
    room = torch.minimum(clearance(sources), clearance(targets))
    good &= room > 0
    if not good.any():
        return None
    first = int(good.int().argmax())
    return sources[first], targets[first], points


def _finish(
    kind: str, seed: int, source: Scenes, target: Scenes, points: tuple[str, ...], size: int
) -> DragTask:
    images = render(Scenes.cat([source, target]), size)
    columns = [POINTS.index(name) for name in points]
    handles, goals = (keypoints(s, size).xy[0, columns].double().numpy() for s in (source, target))
    pairs = tuple(
        PointPair((float(h[0]), float(h[1])), (float(g[0]), float(g[1])))
        for h, g in zip(handles, goals, strict=True)
    )
    mask = mask_of_change(images[0], images[1], handles, goals)
    instructions = DragInstructions(
        pairs, size=(size, size), mask=mask, prompt=_prompt(source, target)
    )
    return DragTask(kind, seed, instructions, points, images[0], images[1], source, target)


def _prompt(source: Scenes, target: Scenes) -> str:
    """What the image shows before and after: nobody who opens a mouth writes that it is shut."""
    before, after = (captions(s)[0].split(", ") for s in (source, target))
    first = " ".join(w for w in before[0].split() if w in after[0].split()).removesuffix(" turned")
    return ", ".join([first, *(phrase for phrase in before[1:] if phrase in after[1:])])
