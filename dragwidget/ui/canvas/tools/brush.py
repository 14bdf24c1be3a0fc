"""The tool "brush": paints the editable region; and the stroke that the eraser shares."""

from __future__ import annotations

from dragwidget.data.frames import XY
from dragwidget.ui.canvas.sketch import MAX_STROKE_POINTS
from dragwidget.ui.canvas.tools.tool import LEAST_MOVE, Gesture, Host, Tool


class Stroke(Gesture):
    """Paints or erases; rasterised once, on release."""

    least = LEAST_MOVE
    click_draws = True
    erase = False

    def __init__(self, host: Host, start: XY) -> None:
        super().__init__(host, start)
        self.size = host.brush_size
        self.points: list[XY] = []
        self.sizes: list[float] = []
        self._add(start)
        host.scene.begin_stroke(self.points[0], self.sizes[0], self.erase)

    def _add(self, xy: XY) -> None:
        self.points.append(self.image(xy))
        self.sizes.append(self.host.pointer.brush or self.size)

    def move(self, xy: XY) -> None:
        if len(self.points) < MAX_STROKE_POINTS - 1:
            self._add(xy)
            self.host.scene.extend_stroke(self.points[-1])

    def end(self, xy: XY) -> None:
        if xy != self.last:
            self._add(xy)
        self.host.scene.end_stroke()
        is_even = len(set(self.sizes)) == 1
        self.host.stroke(self.points, self.erase, self.sizes[0] if is_even else self.sizes)


BRUSH = Tool("brush", "Brush", "paint-brush", "b", "Paint the editable region", Stroke)
