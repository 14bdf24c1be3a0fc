"""The tool "rectangle": paints what lies between two opposite corners."""

from dragwidget.data.frames import XY
from dragwidget.ui.canvas.marks import Shape, ToFrame, outline
from dragwidget.ui.canvas.tools.tool import LEAST_DRAG, Gesture, Tool, distance


class RectangleDrag(Gesture):
    """Drags a rectangle from corner to corner."""

    def move(self, xy: XY) -> None:
        a, b = self.image(self.start), self.image(xy)
        corners = (a, (b[0], a[1]), b, (a[0], b[1]), a)

        def draft(to_canvas: ToFrame, unit: float) -> list[Shape]:
            return outline([to_canvas(corner) for corner in corners], unit)

        self.host.scene.set_draft(draft)

    def end(self, xy: XY) -> None:
        if distance(self.start, xy) >= LEAST_DRAG:
            self.host.rectangle(self.image(self.start), self.image(xy))


RECTANGLE = Tool(
    "rectangle", "Rect", "square-o", "r", "Drag a rectangle over the editable region", RectangleDrag
)
