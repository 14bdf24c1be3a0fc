"""The tool "lasso": paints the inside of a line that is drawn, or clicked corner by corner."""

from __future__ import annotations

from dataclasses import dataclass, field

from dragwidget.data.frames import XY
from dragwidget.ui.canvas.marks import Shape, ToFrame, outline
from dragwidget.ui.canvas.scene import Draft
from dragwidget.ui.canvas.sketch import MAX_STROKE_POINTS
from dragwidget.ui.canvas.tools.tool import LEAST_DRAG, Gesture, Host, Tool, Unfinished, distance

LEAST_CORNERS = 3


@dataclass
class Corners(Unfinished):
    """The corners of a lasso that is being clicked, image pixels."""

    points: list[XY] = field(default_factory=list)

    def hint(self, keys: bool) -> str:
        if len(self.points) < LEAST_CORNERS:
            return "Click the next corner"
        return f"Click the next corner; the first one again{' or Enter' if keys else ''} closes"

    def draft(self) -> Draft:
        corners = tuple(self.points)

        def draft(to_canvas: ToFrame, unit: float) -> list[Shape]:
            return outline([to_canvas(xy) for xy in corners], unit, vertices=True)

        return draft

    def step_back(self) -> bool:
        self.points.pop()
        return bool(self.points)

    def finish(self, host: Host) -> bool:
        if len(self.points) < LEAST_CORNERS:
            return False
        host.lasso(self.points)
        return True

    def add(self, host: Host, xy: XY, corner: XY) -> bool:
        """Add a corner clicked at canvas point ``xy``; return whether the click closes instead.

        A click near the first corner, or twice in one place, closes. ``corner``: what was meant,
        image pixels.
        """
        at = [host.viewport.to_canvas(point) for point in self.points]
        is_twice = bool(at) and distance(xy, at[-1]) < LEAST_DRAG
        if len(at) >= LEAST_CORNERS and (is_twice or distance(xy, at[0]) <= host.pointer.reach):
            return True
        if not is_twice:
            self.points.append(corner)
        return False


class LassoDrag(Gesture):
    """Draws a lasso: a drag closes on release; clicks add corners."""

    click_draws = True

    def __init__(self, host: Host, start: XY) -> None:
        super().__init__(host, start)
        self.points = [self.image(start)]
        self.is_corner = LASSO.name in host.pointer.unfinished
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
            self._click(xy)
            return
        if xy != self.last:
            self.points.append(self.image(xy))
        if len(self.points) >= LEAST_CORNERS:
            self.host.lasso(self.points)

    def _click(self, xy: XY) -> None:
        unfinished = self.host.pointer.unfinished
        corners = unfinished.setdefault(LASSO.name, Corners())
        assert isinstance(corners, Corners)
        # A click is where it began, though the view may have changed since.
        corner = self.image(xy) if self.is_corner else self.points[0]
        if corners.add(self.host, xy, corner):
            del unfinished[LASSO.name]
            corners.finish(self.host)


LASSO = Tool(
    "lasso", "Lasso", "pencil", "l", "Draw around the editable region", LassoDrag,
    by_click=", or click its corners, the first one again to close",
)  # fmt: skip
