"""Show the state of a session: stages, progress, distances, and the curves of a drag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from time import monotonic
from typing import TYPE_CHECKING

import ipywidgets
from ipywidgets import Layout

from dragwidget.data.frames import XY
from dragwidget.editor.messages import message, progress
from dragwidget.progress import StageStatus
from dragwidget.ui.plots import line_plot
from dragwidget.ui.styles import badge, error_line, status_line

if TYPE_CHECKING:
    from dragwidget.editor.work import Report
    from dragwidget.session.node import Node

STAGES = {"lora": "LoRA", "inversion": "Inversion", "reference": "Reference"}
PLOT_EVERY = 0.2  # seconds
PLOT_SHARE = 0.1  # of the time that curves may take, however long they are


class StatusPanel(ipywidgets.VBox):
    """Panel of a progress bar with rate and time left, distances and curves.

    Every part has a fixed height, so that nothing jumps while a drag runs.

    Attributes:
        badges: the states of the stages, to place elsewhere.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self.badges = ipywidgets.HTML(layout=Layout(height="66px", overflow="hidden"))
        self._bar = ipywidgets.FloatProgress(
            min=0, max=1, layout=Layout(width="auto", height="14px")
        )
        self._line = ipywidgets.HTML(layout=Layout(height="42px", overflow="hidden"))
        self._distances = ipywidgets.HTML(layout=Layout(height="36px", overflow="auto"))
        self._curves = ipywidgets.HTML(layout=Layout(height="112px", overflow="hidden"))
        super().__init__([self._bar, self._line, self._distances, self._curves])
        self._now, self._plot_due = now, 0.0
        # Of the phase: its name, its last index and when that came, and the seconds and the number
        # of the steps before, pauses left out.
        self._phase, self._index, self._since, self._spent, self._count = "", 0, 0.0, 0.0, 0
        self.say(message("start"))
        self.show_path([], [])

    def show_stages(self, status: Mapping[str, StageStatus]) -> None:
        """Show a badge for each stage, with the reason if it is outdated."""
        self.badges.value = "".join(
            badge(name, stage.state, stage.why)
            for key, name in STAGES.items()
            if (stage := status.get(key)) is not None
        )

    def say(self, text: str) -> None:
        """Show one line of text."""
        self._line.value = status_line(text)

    def clear_bar(self) -> None:
        """Reset the progress bar."""
        self._bar.value, self._phase = 0.0, ""

    def show_report(self, report: Report) -> str:
        """Show the progress of the work; return it as text, with rate and time left."""
        now = self._now()
        if report.phase != self._phase or report.index <= self._index:
            self._phase, self._spent, self._count = report.phase, 0.0, 0
        else:
            self._spent += now - self._since
            self._count += report.index - self._index
        self._index, self._since = report.index, now
        self._bar.value = report.index / max(1, report.total)
        text = progress(report)
        if self._count:
            each = self._spent / self._count
            text += f", {_rate(each)}, {_time(each * (report.total - report.index))} left"
        return text

    def resumed(self) -> None:
        """Leave the pause that just ended out of the rate."""
        self._since = self._now()

    def show_path(
        self,
        path: list[Node],
        starts: Sequence[XY],
        *,
        hurry: bool = True,
        confidences: Mapping[XY, float] | None = None,
    ) -> None:
        """Show distances and curves along a path of the history.

        Args:
            starts: initial handle of each pair, image pixels, in the order of the pairs on the
                canvas: a pair keeps its curve when another is deleted.
            confidences: of the handles of the last node, by their initial places.
            hurry: ``False``: limit the rate of redrawing.
        """
        last = path[-1] if path else None
        known = (
            {} if last is None else dict(zip(_starts(last), range(len(last.pairs)), strict=True))
        )
        cells = []
        for k, start in enumerate(starts, start=1):
            if last is None or last.step is None or start not in known:
                continue
            place = known[start]
            distance, reached = last.step.distances[place], last.step.reached[place]
            text = "reached &#10003;" if reached else f"{distance:.1f} px to go"
            if confidences and start in confidences:
                text += f", confidence {confidences[start]:.2f}"
            cells.append(f"<span style='margin-right:14px'><b>{k}</b>: {text}</span>")
        self._distances.value = f"<div style='line-height:18px'>{''.join(cells)}</div>"
        now = self._now()
        if not hurry and now < self._plot_due:
            return
        steps = [node.step for node in path if node.step is not None]
        distances = distances_along(path, starts)
        losses = {"loss": [float(step.loss) for step in steps]}
        self._curves.value = (
            "<div style='display:flex;gap:6px'>"
            + line_plot(losses, title="loss", width=160, height=104)
            + line_plot(distances, title="distance, px", width=160, height=104)
            + "</div>"
        )
        took = self._now() - now
        self._plot_due = now + max(PLOT_EVERY, took / PLOT_SHARE)


class ErrorLine(ipywidgets.HTML):
    """Shows an error, its details folded; of three lines' height until the user opens these."""

    def __init__(self) -> None:
        super().__init__(error_line(None), layout=Layout(width="auto"))
        self.add_class("dragwidget-error-line")

    def show(self, error: BaseException | str | None, hint: str = "") -> None:
        """Show an error and what to do about it; ``None``: nothing."""
        self.value = error_line(error, hint=hint)


def distances_along(path: list[Node], starts: Sequence[XY]) -> dict[str, list[float]]:
    """Return the distance of each pair to its target, image pixels, for every step of a path.

    Args:
        starts: what identifies the pairs, see ``StatusPanel.show_path``; nan before a pair was
            drawn.
    """
    along = [
        dict(zip(_starts(node), node.step.distances.tolist(), strict=True))
        for node in path
        if node.step is not None
    ]
    numbered = enumerate(starts, start=1)
    return {str(k): [step.get(start, nan) for step in along] for k, start in numbered}


def _starts(node: Node) -> list[XY]:
    """Return what identifies each pair of a node."""
    return [pair.handle for pair in node.pairs]


def _rate(seconds: float) -> str:
    return f"{seconds:.1f} s a step" if seconds >= 1 else f"{1 / max(seconds, 1e-3):.1f} steps/s"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
