"""What a hand does with pointer and keys -> what is done to the sketch.

A ``Hand`` gets canvas points and calls the canvas' own methods, the same that a notebook calls. A
press begins a gesture; moves without one are nobody's; letting go, or leaving the canvas, ends it.
"""

from __future__ import annotations

import math
from typing import Protocol

from dragwidget.data.frames import XY
from dragwidget.data.instructions import MAX_PAIRS, PointPair
from dragwidget.ui.canvas.marks import Shape, ToFrame, handle_mark, outline, pair_marks
from dragwidget.ui.canvas.scene import Scene
from dragwidget.ui.canvas.sketch import MAX_STROKE_POINTS
from dragwidget.ui.canvas.viewport import RATIO, Viewport

TOOLS = ("points", "brush", "eraser", "lasso", "rectangle", "pan", "probe")

LEAST_MOVE = 1.5 * RATIO  # canvas pixels; a smaller move is dropped
LEAST_DRAG = 6 * RATIO  # a press and a release this far apart make a drag, else a click
REACH = 12 * RATIO  # of a point, for a mouse
TOUCH_REACH = 24 * RATIO


class Host(Protocol):
    """What a hand needs of the canvas."""

    tool: str
    brush_size: float
    read_only: bool
    selected: int | None
    pairs: tuple[PointPair, ...]

    @property
    def viewport(self) -> Viewport: ...
    @property
    def scene(self) -> Scene: ...

    def add_pair(self, handle: XY, target: XY) -> int: ...
    def move_handle(self, index: int, xy: XY) -> None: ...
    def move_target(self, index: int, xy: XY) -> None: ...
    def stroke(self, points: list[XY], erase: bool = ..., size: float | None = ...) -> None: ...
    def lasso(self, points: list[XY], erase: bool = ...) -> None: ...
    def rectangle(self, a: XY, b: XY, erase: bool = ...) -> None: ...
    def show_viewport(self, viewport: Viewport) -> None: ...
    def select(self, index: int | None, end: str = ...) -> None: ...
    def probe_at(self, xy: XY) -> None: ...
    def marks_changed(self) -> None: ...


class Gesture:
    """From one press to its release; points are canvas points."""

    def __init__(self, host: Host, start: XY) -> None:
        self.host = host
        self.start = self.last = start

    def move(self, xy: XY) -> None:
        """The pointer went there, at least ``LEAST_MOVE`` from ``last``."""

    def end(self, xy: XY) -> None:
        """It was let go there."""

    def cancel(self) -> None:
        """Nothing of it is kept."""
        self.host.scene.set_ink(None)
        self.host.scene.end_stroke()

    def image(self, xy: XY) -> XY:
        return self.host.viewport.to_image(xy)

    def point(self, xy: XY) -> XY:
        """The image point that a point of a pair gets."""
        return self.host.viewport.inside(self.image(xy))


class Stroke(Gesture):
    """Brush and eraser: rasterised once, when it is let go."""

    def __init__(self, host: Host, start: XY, erase: bool) -> None:
        super().__init__(host, start)
        self.erase = erase
        self.size = host.brush_size
        self.points = [self.image(start)]
        host.scene.begin_stroke(self.points[0], self.size, erase)

    def move(self, xy: XY) -> None:
        if len(self.points) < MAX_STROKE_POINTS - 1:
            self.points.append(self.image(xy))
            self.host.scene.extend_stroke(self.points[-1])

    def end(self, xy: XY) -> None:
        if xy != self.last:
            self.points.append(self.image(xy))
        self.host.scene.end_stroke()
        self.host.stroke(self.points, self.erase, self.size)


class RectangleDrag(Gesture):
    def move(self, xy: XY) -> None:
        a, b = self.image(self.start), self.image(xy)
        corners = (a, (b[0], a[1]), b, (a[0], b[1]), a)

        def ink(to_canvas: ToFrame, unit: float) -> list[Shape]:
            return outline([to_canvas(corner) for corner in corners], unit)

        self.host.scene.set_ink(ink)

    def end(self, xy: XY) -> None:
        self.host.scene.set_ink(None)
        if distance(self.start, xy) >= LEAST_DRAG:
            self.host.rectangle(self.image(self.start), self.image(xy))


class Pan(Gesture):
    def move(self, xy: XY) -> None:
        moved = self.host.viewport.panned(xy[0] - self.last[0], xy[1] - self.last[1])
        self.host.show_viewport(moved)

    def end(self, xy: XY) -> None:
        self.move(xy)


class Probe(Gesture):
    def end(self, xy: XY) -> None:
        self.host.probe_at(self.point(xy))


class MovePoint(Gesture):
    """One end of a pair follows the pointer."""

    def __init__(self, host: Host, start: XY, index: int, end: str) -> None:
        super().__init__(host, start)
        self.index, self.name = index, end
        self.is_dragged = False
        pair = host.pairs[index]
        at = host.viewport.to_canvas(pair.handle if end == "handle" else pair.target)
        self.grip = (at[0] - start[0], at[1] - start[1])  # the point does not jump to the pointer
        host.select(index, end)

    def _at(self, xy: XY) -> XY:
        return self.point((xy[0] + self.grip[0], xy[1] + self.grip[1]))

    def move(self, xy: XY) -> None:
        if self.index >= len(self.host.pairs):  # deleted meanwhile
            return
        self.is_dragged = True
        pair, at = self.host.pairs[self.index], self._at(xy)
        handle, target = (at, pair.target) if self.name == "handle" else (pair.handle, at)
        number = self.index + 1

        def ink(to_canvas: ToFrame, unit: float) -> list[Shape]:
            return pair_marks(to_canvas(handle), to_canvas(target), number, unit)

        self.host.scene.set_ink(ink)
        self.host.marks_changed()

    def end(self, xy: XY) -> None:
        self.host.scene.set_ink(None)
        if self.index < len(self.host.pairs) and distance(self.start, xy) >= LEAST_MOVE:
            move = self.host.move_handle if self.name == "handle" else self.host.move_target
            move(self.index, self._at(xy))


class NewPair(Gesture):
    """Press = handle, release = target; or the second click of two = target."""

    def __init__(self, hand: Hand, start: XY) -> None:
        super().__init__(hand.host, start)
        self.hand = hand
        self.is_first = hand.pending is None
        self.handle = self.point(start) if hand.pending is None else hand.pending
        self._show(start)

    def _show(self, xy: XY) -> None:
        handle, target, number = self.handle, self.point(xy), len(self.host.pairs) + 1
        alone = self.is_first and distance(self.start, xy) < LEAST_DRAG

        def ink(to_canvas: ToFrame, unit: float) -> list[Shape]:
            if alone:
                return handle_mark(to_canvas(handle), str(number), unit, selected=True)
            return pair_marks(to_canvas(handle), to_canvas(target), number, unit)

        self.host.scene.set_ink(ink)

    def move(self, xy: XY) -> None:
        self._show(xy)

    def end(self, xy: XY) -> None:
        self.host.scene.set_ink(None)
        if self.is_first and distance(self.start, xy) < LEAST_DRAG:
            self.hand.pending = self.handle
            self.host.marks_changed()
        else:
            self.hand.pending = None
            self.host.select(self.host.add_pair(self.handle, self.point(xy)))

    def cancel(self) -> None:
        self.hand.pending = None
        super().cancel()


class LassoDrag(Gesture):
    """Dragged it closes when it is let go; clicks set corners, kept by the hand between them."""

    def __init__(self, hand: Hand, start: XY) -> None:
        super().__init__(hand.host, start)
        self.hand = hand
        self.points = [self.image(start)]
        self.is_corner = bool(hand.corners)
        self.is_free = False

    def move(self, xy: XY) -> None:
        if self.is_corner or len(self.points) >= MAX_STROKE_POINTS - 1:
            return
        if not self.is_free:
            self.is_free = distance(self.start, xy) >= LEAST_DRAG
            if self.is_free:
                self.host.scene.begin_trace(self.points[0])
                for point in self.points[1:]:
                    self.host.scene.extend_trace(point)
        self.points.append(self.image(xy))
        if self.is_free:
            self.host.scene.extend_trace(self.points[-1])

    def end(self, xy: XY) -> None:
        if not self.is_corner and distance(self.start, xy) >= LEAST_DRAG:
            self.is_free = True
        if not self.is_free:
            # A click is where it began, though the view may have changed since.
            self.hand.add_corner(xy, self.image(xy) if self.is_corner else self.points[0])
            return
        if xy != self.last:
            self.points.append(self.image(xy))
        self.host.scene.set_ink(None)
        if len(self.points) >= 3:
            self.host.lasso(self.points)


class Hand:
    """The pointer and the keys of one canvas; the canvas holds its lock round every call.

    pending: a handle that was clicked and waits for the click of its target, image pixels.
    corners: those of a lasso that is being clicked, image pixels.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.gesture: Gesture | None = None
        self.pending: XY | None = None
        self.corners: list[XY] = []
        self.reach: float = REACH

    def press(self, xy: XY, is_touch: bool = False) -> None:
        """The pointer goes down; what it did before without letting go is ended there."""
        if self.gesture is not None:
            self.release(self.gesture.last)
        self.reach = TOUCH_REACH if is_touch else REACH
        xy = self.host.viewport.clamped(xy)
        if self.host.read_only and self.host.tool not in ("pan", "probe"):
            return
        self.gesture = self._begin(xy)

    def _begin(self, xy: XY) -> Gesture | None:
        host = self.host
        match host.tool:
            case "brush" | "eraser":
                return Stroke(host, xy, host.tool == "eraser")
            case "lasso":
                return LassoDrag(self, xy)
            case "rectangle":
                return RectangleDrag(host, xy)
            case "pan":
                return Pan(host, xy)
            case "probe":
                return Probe(host, xy)
        hit = None if self.pending is not None else self.point_near(xy)
        if hit is not None:
            return MovePoint(host, xy, *hit)
        return NewPair(self, xy) if len(host.pairs) < MAX_PAIRS else None

    def move(self, xy: XY) -> None:
        """The pointer moves; nothing to do unless it is down."""
        gesture = self.gesture
        if gesture is None:
            return
        xy = self.host.viewport.clamped(xy)
        if distance(gesture.last, xy) >= LEAST_MOVE:
            gesture.move(xy)
            gesture.last = xy

    def release(self, xy: XY | None = None) -> None:
        """The pointer goes up, or away; ``None``: where it was last."""
        gesture, self.gesture = self.gesture, None
        if gesture is not None:
            gesture.end(gesture.last if xy is None else self.host.viewport.clamped(xy))

    def cancel(self) -> bool:
        """Give up what is half done: a gesture, else a handle without target, else a lasso."""
        gesture, self.gesture = self.gesture, None
        if gesture is not None:
            gesture.cancel()
            self._show_corners()
        elif self.pending is not None:
            self.pending = None
        elif self.corners:
            self.corners = []
            self._show_corners()
        else:
            return False
        self.host.marks_changed()
        return True

    def step_back(self) -> bool:
        """What undo means while something is half done; whether anything was."""
        if self.gesture is None and self.pending is None and self.corners:
            self.corners.pop()
            self._show_corners()
            return True
        return self.cancel()

    def forget(self) -> None:
        """Another image: nothing half done belongs to it."""
        while self.cancel():
            pass

    def leave_tool(self) -> None:
        """Another tool: what is half drawn is finished rather than lost."""
        self.release()
        if self.corners:
            self.close_lasso()

    @property
    def hidden_pair(self) -> int | None:
        """The pair that is drawn live, as it is being dragged."""
        gesture = self.gesture
        if isinstance(gesture, MovePoint) and gesture.is_dragged:
            return gesture.index
        return None

    def point_near(self, xy: XY) -> tuple[int, str] | None:
        """(index, "handle" or "target") of the nearest point in reach; the last one on a tie."""
        found: tuple[int, str] | None = None
        nearest = self.reach
        for index, pair in enumerate(self.host.pairs):
            for name, point in (("handle", pair.handle), ("target", pair.target)):
                far = distance(xy, self.host.viewport.to_canvas(point))
                if far <= nearest:
                    found, nearest = (index, name), far
        return found

    # ------------------------------------------------------------ the lasso that is clicked

    def add_corner(self, xy: XY, corner: XY) -> None:
        """A click at canvas point ``xy``: near the first corner, or twice in one place, it closes.

        ``corner`` is what was meant, in image pixels.
        """
        to_canvas = self.host.viewport.to_canvas
        if len(self.corners) >= 3 and (
            distance(xy, to_canvas(self.corners[0])) <= self.reach
            or distance(xy, to_canvas(self.corners[-1])) < LEAST_DRAG
        ):
            self.close_lasso()
            return
        if not self.corners or distance(xy, to_canvas(self.corners[-1])) >= LEAST_DRAG:
            self.corners.append(corner)
        self._show_corners()

    def close_lasso(self) -> None:
        """Close it; with less than three corners there is nothing to close."""
        corners, self.corners = self.corners, []
        self._show_corners()
        if len(corners) >= 3:
            self.host.lasso(corners)

    def _show_corners(self) -> None:
        corners = tuple(self.corners)

        def ink(to_canvas: ToFrame, unit: float) -> list[Shape]:
            return outline([to_canvas(xy) for xy in corners], unit, vertices=True)

        self.host.scene.set_ink(ink if corners else None)


def distance(a: XY, b: XY) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])
