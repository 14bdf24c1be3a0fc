"""The tool "points": adds pairs, and moves their points."""

from __future__ import annotations

from dataclasses import dataclass

from dragwidget.data.frames import XY
from dragwidget.data.instructions import MAX_PAIRS
from dragwidget.ui.canvas.marks import Shape, ToFrame, handle_mark, pair_marks
from dragwidget.ui.canvas.tools.tool import (
    LEAST_DRAG,
    LEAST_MOVE,
    Gesture,
    Host,
    Tool,
    Unfinished,
    distance,
)


@dataclass
class PendingHandle(Unfinished):
    """A handle that was clicked and waits for the click of its target, image pixels."""

    handle: XY
    stays = True

    def hint(self, keys: bool) -> str:  # noqa: ARG002 - no key completes it
        return "Click the target"


class NewPair(Gesture):
    """Adds a pair: press = handle, release = target; or two clicks, handle and target."""

    click_draws = True

    def __init__(self, host: Host, start: XY) -> None:
        super().__init__(host, start)
        pending = host.pointer.unfinished.get(POINTS.name)
        handle = None if pending is None else pending.handle
        self.is_first = handle is None
        self.handle = self.point(start) if handle is None else handle
        self._show(start)

    def _show(self, xy: XY) -> None:
        handle, target, number = self.handle, self.point(xy), len(self.host.pairs) + 1
        alone = self.is_first and distance(self.start, xy) < LEAST_DRAG

        def draft(to_canvas: ToFrame, unit: float) -> list[Shape]:
            if alone:
                return handle_mark(to_canvas(handle), str(number), unit, selected=True)
            return pair_marks(to_canvas(handle), to_canvas(target), number, unit)

        self.host.scene.set_draft(draft)

    def move(self, xy: XY) -> None:
        self._show(xy)

    def end(self, xy: XY) -> None:
        unfinished = self.host.pointer.unfinished
        if self.is_first and distance(self.start, xy) < LEAST_DRAG:
            unfinished[POINTS.name] = PendingHandle(self.handle)
        else:
            unfinished.pop(POINTS.name, None)
            self.host.select(self.host.add_pair(self.handle, self.point(xy)))


class MovePoint(Gesture):
    """Moves one end of a pair with the pointer."""

    def __init__(self, host: Host, start: XY, index: int, end: str) -> None:
        super().__init__(host, start)
        self.index, self.name = index, end
        pair = host.pairs[index]
        at = host.viewport.to_canvas(pair.handle if end == "handle" else pair.target)
        self.grip = (at[0] - start[0], at[1] - start[1])  # the point does not jump to the pointer
        host.select(index, end)

    def _at(self, xy: XY) -> XY:
        return self.point((xy[0] + self.grip[0], xy[1] + self.grip[1]))

    def move(self, xy: XY) -> None:
        if self.index >= len(self.host.pairs):  # deleted meanwhile
            return
        self.hidden_pair = self.index
        pair, at = self.host.pairs[self.index], self._at(xy)
        handle, target = (at, pair.target) if self.name == "handle" else (pair.handle, at)
        number = self.index + 1

        def draft(to_canvas: ToFrame, unit: float) -> list[Shape]:
            return pair_marks(to_canvas(handle), to_canvas(target), number, unit)

        self.host.scene.set_draft(draft)
        self.host.marks_changed()

    def end(self, xy: XY) -> None:
        if self.index < len(self.host.pairs) and distance(self.start, xy) >= LEAST_MOVE:
            move = self.host.move_handle if self.name == "handle" else self.host.move_target
            move(self.index, self._at(xy))


def begin(host: Host, xy: XY) -> Gesture | None:
    """Move the point that is in reach, or else begin a pair, if there may be one more."""
    hit = None if POINTS.name in host.pointer.unfinished else point_near(host, xy)
    if hit is not None:
        return MovePoint(host, xy, *hit)
    return NewPair(host, xy) if len(host.pairs) < MAX_PAIRS else None


def point_near(host: Host, xy: XY) -> tuple[int, str] | None:
    """Return (index, "handle" or "target") of the nearest point in reach; the last on a tie."""
    found: tuple[int, str] | None = None
    nearest = host.pointer.reach
    for index, pair in enumerate(host.pairs):
        for name, point in (("handle", pair.handle), ("target", pair.target)):
            far = distance(xy, host.viewport.to_canvas(point))
            if far <= nearest:
                found, nearest = (index, name), far
    return found


POINTS = Tool(
    "points", "Points", "map-marker", "p", "Press a handle point and drag to its target", begin
)
