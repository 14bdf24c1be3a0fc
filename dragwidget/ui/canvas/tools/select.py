"""The tool "select": paints, or erases, the thing that is clicked."""

from __future__ import annotations

from dragwidget.data.frames import XY
from dragwidget.data.selection import TOLERANCES
from dragwidget.ui.canvas.tools.tool import Gesture, Host, Tool
from dragwidget.ui.canvas.viewport import RATIO

DOUBLES = 80 * RATIO  # canvas pixels to the right that double the tolerance
STEP = 10 * RATIO  # the tolerance changes in steps: not every move of a mouse selects again


class Selecting(Gesture):
    """Selects at the press; a drag to the right selects more, to the left less."""

    click_draws = True

    def __init__(self, host: Host, start: XY) -> None:
        super().__init__(host, start)
        self.clicked = self.point(start)
        self.shown: float | None = None

    def move(self, xy: XY) -> None:
        tolerance = self._tolerance(xy)
        if tolerance != self.shown:
            self.shown = tolerance
            self.host.preview_selection(self.clicked, tolerance)

    def _tolerance(self, xy: XY) -> float:
        """Return the factor for a pointer at ``xy``."""
        across = round((xy[0] - self.start[0]) / STEP) * STEP
        return float(min(max(2 ** (across / DOUBLES), TOLERANCES[0]), TOLERANCES[1]))

    def end(self, xy: XY) -> None:
        self.host.select_at(self.clicked, self._tolerance(xy))

    def cancel(self) -> None:
        super().cancel()
        self.host.preview_selection(None)


SELECT = Tool(
    "select", "Select", "magic", "w",
    "Press a thing and drag right for more of it, left for less; inside the mask it erases",
    Selecting, by_click=", or just click it",
)  # fmt: skip
