"""The tool "pan": moves a zoomed image."""

from dragwidget.data.frames import XY
from dragwidget.ui.canvas.tools.tool import Gesture, Tool


class Pan(Gesture):
    """Moves the view with the pointer."""

    def move(self, xy: XY) -> None:
        moved = self.host.viewport.panned(xy[0] - self.last[0], xy[1] - self.last[1])
        self.host.show_viewport(moved)

    def end(self, xy: XY) -> None:
        self.move(xy)


PAN = Tool(
    "pan", "Pan", "arrows", "h", "Drag the image when zoomed in", Pan, cursor="grab", draws=False
)
