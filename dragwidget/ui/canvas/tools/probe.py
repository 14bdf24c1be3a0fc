"""The tool "probe": reports the point that is clicked."""

from dragwidget.data.frames import XY
from dragwidget.ui.canvas.tools.tool import Gesture, Tool


class Probe(Gesture):
    """Reports where the pointer is released."""

    def end(self, xy: XY) -> None:
        self.host.probe_at(self.point(xy))


PROBE = Tool(
    "probe", "Probe", "crosshairs", "", "Click a point to inspect it", Probe,
    draws=False, is_optional=True,
)  # fmt: skip
