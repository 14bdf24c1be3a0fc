"""``Tool``: what the toolbar, the keys, the caption and the pointer need to know of one tool.

A press with a tool begins a gesture; the gesture calls the canvas' own methods, the same that a
notebook calls. What a gesture leaves to go on with (a handle that waits for its target) is an
``Unfinished``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dragwidget.data.frames import XY
from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.scene import Draft, Scene
from dragwidget.ui.canvas.viewport import RATIO, Viewport

LEAST_MOVE = 1.5 * RATIO  # canvas pixels; a smaller move is dropped
LEAST_DRAG = 6 * RATIO  # a press and a release this far apart make a drag, else a click
REACH = 12 * RATIO  # of a point, for a mouse
TOUCH_REACH = 24 * RATIO


class Unfinished:
    """What a gesture leaves for the next one with the same tool.

    handle: a handle that has no target yet, image pixels. stays: whether it is kept while another
    tool is used.
    """

    handle: XY | None = None
    stays = False

    def hint(self, keys: bool) -> str:
        """Return what to do next, without a full stop; ``keys``: whether keys act."""
        raise NotImplementedError

    def draft(self) -> Draft | None:
        """Return how it looks while it waits for the next press."""
        return None

    def step_back(self) -> bool:
        """Undo its last part; return whether anything is left of it."""
        return False

    def finish(self, host: Host) -> bool:  # noqa: ARG002 - by default nothing completes it
        """Complete it, if it can be; return whether it was."""
        return False


@dataclass
class Pointer:
    """The pointer's state between two presses.

    reach: largest distance of a press to a point that it hits, canvas pixels. brush: its diameter
    here, as a pen's pressure makes it, image pixels; ``None``: the canvas' brush size. unfinished:
    by tool.
    """

    reach: float = REACH
    brush: float | None = None
    unfinished: dict[str, Unfinished] = field(default_factory=dict)


class Host(Protocol):
    """What gestures need of the canvas."""

    brush_size: float
    pairs: tuple[PointPair, ...]

    @property
    def viewport(self) -> Viewport: ...
    @property
    def scene(self) -> Scene: ...
    @property
    def pointer(self) -> Pointer: ...

    def add_pair(self, handle: XY, target: XY) -> int: ...
    def move_handle(self, index: int, xy: XY) -> None: ...
    def move_target(self, index: int, xy: XY) -> None: ...
    def stroke(
        self, points: list[XY], erase: bool = ..., size: float | list[float] | None = ...
    ) -> None: ...
    def lasso(self, points: list[XY], erase: bool = ...) -> None: ...
    def rectangle(self, a: XY, b: XY, erase: bool = ...) -> None: ...
    def select_at(self, xy: XY, tolerance: float = ...) -> None: ...
    def preview_selection(self, xy: XY | None, tolerance: float = ...) -> None: ...
    def show_viewport(self, viewport: Viewport) -> None: ...
    def select(self, index: int | None, end: str = ...) -> None: ...
    def probe_at(self, xy: XY) -> None: ...
    def marks_changed(self) -> None: ...


class Gesture:
    """Handles the pointer from one press to its release; points are canvas points.

    least: how far from its start the pointer must have been, or else it was a click. click_draws:
    whether a click draws anything. hidden_pair: index of a pair that the gesture draws itself.
    """

    least: float = LEAST_DRAG
    click_draws = False
    hidden_pair: int | None = None

    def __init__(self, host: Host, start: XY) -> None:
        self.host = host
        self.start = self.last = start
        self.far = 0.0  # from the start, at most

    def is_click(self, xy: XY) -> bool:
        """Return whether the pointer, released at ``xy``, was never dragged."""
        return max(self.far, distance(self.start, xy)) < self.least

    def move(self, xy: XY) -> None:
        """Follow the pointer to ``xy``, at least ``LEAST_MOVE`` from ``last``."""

    def end(self, xy: XY) -> None:
        """Finish at ``xy``, where the pointer was released."""

    def cancel(self) -> None:
        """Drop the gesture without a change."""
        self.host.scene.end_stroke()

    def image(self, xy: XY) -> XY:
        return self.host.viewport.to_image(xy)

    def point(self, xy: XY) -> XY:
        """Return the image point for a point of a pair."""
        return self.host.viewport.inside(self.image(xy))


@dataclass(frozen=True)
class Tool:
    """One tool of the canvas.

    name: value of the trait ``tool``, part of its CSS class. label, icon: of its button; the icon
    is Font Awesome's. key: that chooses it; "" for none. hint: what to do with it, one sentence
    without a full stop: tooltip and caption. gesture: what a press at a canvas point begins, if
    anything. cursor: CSS. draws: whether it changes pairs or mask, which a read-only canvas
    refuses. by_click: added to the hint in the caption where clicks count. is_optional: whether
    the toolbar shows it only on demand.
    """

    name: str
    label: str
    icon: str
    key: str
    hint: str
    gesture: Callable[[Host, XY], Gesture | None]
    cursor: str = "crosshair"
    draws: bool = True
    by_click: str = ""
    is_optional: bool = False


def distance(a: XY, b: XY) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])
