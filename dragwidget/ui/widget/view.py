"""What the widget shows of an edit: every part of the page, and how it follows what happens.

Parts are told what to show and never ask; nothing here begins any work.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import ipywidgets
from ipywidgets import Layout

from dragwidget.ui.controls import SettingsPanel
from dragwidget.ui.widget.compare_panel import ComparePanel
from dragwidget.ui.widget.features_panel import FeaturesPanel
from dragwidget.ui.widget.history_panel import HistoryPanel
from dragwidget.ui.widget.layout import Buttons, allow, sections, style_sheet, two_columns
from dragwidget.ui.widget.points_table import PointsTable
from dragwidget.ui.widget.status_panel import ErrorLine, StatusPanel

if TYPE_CHECKING:
    from PIL import Image

    from dragwidget.editor.editing import Editing
    from dragwidget.editor.work import Report
    from dragwidget.session.history import Node
    from dragwidget.ui.canvas import DragCanvas
    from dragwidget.ui.widget.export_panel import ExportPanel

__all__ = ["View"]

log = logging.getLogger(__name__)

TRAIL = 200  # points of the way that a handle came: more cannot be told apart
_OVER = {
    "Prepare": "Ready: Run drags.",
    "Render": "Rendered: this is the exact image.",
    "reached": "All handles have reached their targets.",
    "not moving": "The handles do not move any more: go on with other points or settings.",
    "step limit": "The steps are used up: Run goes on.",
}


class View:
    """All parts of the widget, for one edit.

    Attributes:
        rows: what is on the page, from top to bottom.
        index: where the edit stands, drag steps from the start.
    """

    def __init__(
        self,
        canvas: DragCanvas,
        editing: Editing,
        history: HistoryPanel,
        features: FeaturesPanel,
        export: ExportPanel,
        *,
        width: int,
        render_when_done: bool,
    ) -> None:
        session = editing.session
        self._canvas, self._editing = canvas, editing
        self.history, self.features = history, features
        self.index = 0
        self.prompt = ipywidgets.Text(
            value=session.prompt, description="Prompt", placeholder="what the image shows",
            continuous_update=False, layout=Layout(width="auto"),
            style={"description_width": "52px"},
        )  # fmt: skip
        self.buttons = Buttons()
        self.render_when_done = ipywidgets.Checkbox(
            value=render_when_done, description="render when a run is over", indent=False,
            layout=Layout(width="auto"),
        )  # fmt: skip
        self.status = StatusPanel()
        self.error_line = ErrorLine()
        self.settings = SettingsPanel(
            session.settings, session.model.recommended, check=session.model.check
        )
        self.compare = ComparePanel(self.image)
        self.folded = sections(
            {
                "Settings": self.settings,
                "Points": PointsTable(canvas),
                "Compare": self.compare,
                "Features": features,
                "Export": export,
            }
        )
        right: list[Any] = [
            self.prompt, self.buttons, self.render_when_done, self.error_line, self.status,
        ]  # fmt: skip
        if editing.runner.play is not None:  # its ticks come only while it is on the page
            right.append(editing.runner.play)
        columns = two_columns([canvas, history], [*right, self.folded], width)
        self.rows = [style_sheet(), canvas.toolbar, columns]

    def state(self) -> None:
        """Which stages are ready, and what can be done now."""
        self.status.show_stages(self._editing.status)
        for name, button in self.buttons.by_name.items():
            allow(button, self._editing.why_not(name), self.buttons.tooltips[name])

    def report(self, report: Report) -> None:
        """How far the work has come, and what is new of it."""
        if self.status.show_report(report):
            self.status.show_stages(self._editing.status)
        if report.step is not None:
            self.drag(report.node, hurry=False)
        if report.image is not None:
            self.image(None)

    def over(self, error: BaseException | None) -> None:
        """The work is over."""
        self.status.clear_bar()
        if error is not None:
            self.failed(error)
            self.status.say(f"{self._editing.runner.name} failed; what was made before stays.")
        elif self._editing.runner.outcome == "stopped":
            self.status.say("Stopped; the steps that were taken stay.")
        else:
            runner, session = self._editing.runner, self._editing.session
            said = _OVER.get(runner.name) or _OVER.get(str(session.ended), "Done.")
            self.status.say(said)
        self.place()

    def failed(self, error: BaseException) -> None:
        """Something went wrong."""
        log.error("in the widget", exc_info=error)
        self.error_line.show(error, _hint(error))

    def newest(self) -> Image.Image | None:
        """The best image there is of where the edit stands."""
        history = self._editing.history
        return None if history is None else self._editing.image_of(history.current)

    def image(self, image: Image.Image | None) -> None:
        """Show this on the canvas, or the newest one, unless something is being compared."""
        if image is None:
            if self.compare.mode.value != "after":
                return
            image = self.newest()
        self._canvas.show_image(image)

    def place(self) -> None:
        """Where the edit stands: image, handles, history and curves."""
        history = self._editing.history
        self.history.show(history, self._editing.images, self._editing.why_not("rewind"))
        self.drag(None if history is None else history.current, hurry=True)
        self.compare.set_images(self._editing.session.image, self.newest())

    def drag(self, node: Node | None, *, hurry: bool) -> None:
        """Handles with their trails on the canvas, distances and curves beside it."""
        history = self._editing.history
        path = [] if history is None or node is None else history.path(node)
        self.index = 0 if node is None else node.index
        self.status.show_path(path, hurry=hurry)
        if node is None or node.number == 0:
            self._canvas.clear_tracks()
            return
        shown = _thinned(path)
        trails = [
            [step.handles[k] for step in shown if k < len(step.handles)]
            for k in range(len(node.handles))
        ]
        self._canvas.show_tracks(list(node.handles), trails)


def _thinned(path: list[Node]) -> list[Node]:
    """At most TRAIL of them, evenly spread, both ends among them."""
    if len(path) <= TRAIL:
        return path
    return [path[k * (len(path) - 1) // (TRAIL - 1)] for k in range(TRAIL)]


def _hint(error: BaseException) -> str:
    """What to do about an error, where that is not said in it."""
    said = str(error).lower()  # torch's own words on CUDA and on the CPU
    if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate" in said:
        return "Lower max_side, the LoRA's batch size or the inversion's steps."
    return ""
