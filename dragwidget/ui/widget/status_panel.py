"""What the session is doing: stages, progress, distances, and the curves of a drag."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING

import ipywidgets
from ipywidgets import Layout

from dragwidget.progress import StageStatus
from dragwidget.ui.plots import line_plot
from dragwidget.ui.styles import badge, error_line, status_line

if TYPE_CHECKING:
    from dragwidget.editor.work import Report
    from dragwidget.session.history import Node

__all__ = ["ErrorLine", "StatusPanel"]

STAGES = {"lora": "LoRA", "inversion": "Inversion", "reference": "Reference"}
PHASES = {
    "lora": "Training the LoRA",
    "inversion": "Inverting the image",
    "generation": "Generating the image",
    "drag": "Dragging",
    "reference": "Source's own pass",
    "render": "Rendering",
    "preview": "Preview",
}
PLOT_EVERY = 0.2  # seconds; a curve that is redrawn more often is not seen better
PLOT_SHARE = 0.1  # of the time that curves may take, however long they are


class StatusPanel(ipywidgets.VBox):
    """Badges, a bar with rate and time left, the distance of every pair, and two curves.

    Every part has a fixed height, so that nothing jumps while a drag runs.
    """

    def __init__(self) -> None:
        self._badges = ipywidgets.HTML(layout=Layout(height="66px", overflow="hidden"))
        self._bar = ipywidgets.FloatProgress(
            min=0, max=1, layout=Layout(width="auto", height="14px")
        )
        self._line = ipywidgets.HTML(layout=Layout(height="24px", overflow="hidden"))
        self._distances = ipywidgets.HTML(layout=Layout(height="40px", overflow="auto"))
        self._curves = ipywidgets.HTML(layout=Layout(height="112px", overflow="hidden"))
        super().__init__([self._badges, self._bar, self._line, self._distances, self._curves])
        self._phase, self._start, self._first, self._plot_due = "", 0.0, 0, 0.0
        self.say("Draw a mask and a pair of points, then Run.")
        self.show_path([])

    def show_stages(self, status: Mapping[str, StageStatus]) -> None:
        """A badge for each stage, with the reason where it is stale."""
        self._badges.value = "".join(
            badge(name, stage.state, stage.why)
            for key, name in STAGES.items()
            if (stage := status.get(key)) is not None
        )

    def say(self, text: str) -> None:
        """One line on what is going on."""
        self._line.value = status_line(text)

    def clear_bar(self) -> None:
        """Nothing is under way."""
        self._bar.value, self._phase = 0.0, ""

    def show_report(self, report: Report) -> bool:
        """How far the work has come, at which rate, and for how much longer.

        Whether it is of another phase than the last.
        """
        now, is_new = monotonic(), report.phase != self._phase
        if report.phase != self._phase or report.index <= self._first:
            self._phase, self._start, self._first = report.phase, now, report.index
        self._bar.value = report.index / max(1, report.total)
        done = report.index - self._first
        each = (now - self._start) / done if done else None
        text = f"{PHASES.get(report.phase, report.phase)}: {report.index} of {report.total}"
        if each is not None and report.phase != "preview":
            left = each * (report.total - report.index)
            text += f", {_rate(each)}, {_time(left)} left"
        self.say(text)
        return is_new

    def show_path(self, path: list[Node], *, hurry: bool = True) -> None:
        """Distances and curves along a path of the history; without ``hurry``, not too often."""
        last = path[-1].step if path else None
        cells = []
        if last is not None:
            for k, (distance, reached) in enumerate(
                zip(last.distances, last.reached, strict=True), start=1
            ):
                text = "reached &#10003;" if reached else f"{distance:.1f} px to go"
                cells.append(f"<span style='margin-right:14px'><b>{k}</b>: {text}</span>")
        self._distances.value = f"<div style='line-height:18px'>{''.join(cells)}</div>"
        now = monotonic()
        if not hurry and now < self._plot_due:
            return
        steps = [node.step for node in path if node.step is not None]
        pairs = max((len(step.distances) for step in steps), default=0)
        distances = {
            str(k + 1): [float(s.distances[k]) for s in steps if k < len(s.distances)]
            for k in range(pairs)
        }
        losses = {"loss": [float(step.loss) for step in steps]}
        self._curves.value = (
            "<div style='display:flex;gap:6px'>"
            + line_plot(losses, title="loss", width=160, height=104)
            + line_plot(distances, title="distance, px", width=160, height=104)
            + "</div>"
        )
        took = monotonic() - now
        self._plot_due = now + max(PLOT_EVERY, took / PLOT_SHARE)


class ErrorLine(ipywidgets.HTML):
    """One red line with the details folded, near the buttons; not there without an error."""

    def __init__(self) -> None:
        super().__init__("", layout=Layout(width="auto", display="none"))

    def show(self, error: BaseException | str | None, hint: str = "") -> None:
        """Say what went wrong and what to do, or that nothing is wrong any more."""
        self.value = error_line(error, hint=hint)
        self.layout.display = "none" if error is None else None


def _rate(seconds: float) -> str:
    return f"{seconds:.1f} s a step" if seconds >= 1 else f"{1 / max(seconds, 1e-3):.1f} steps/s"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
