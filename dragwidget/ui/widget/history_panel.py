"""The history below the canvas: a filmstrip, a slider, and the branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets
from ipywidgets import Layout

from dragwidget.editor.images import Images, evenly
from dragwidget.ui.plots.tree import tree
from dragwidget.ui.tooltips import set_tooltip

if TYPE_CHECKING:
    from dragwidget.session.history import History
    from dragwidget.session.node import Node

FRAMES = 8  # of the filmstrip
_EMPTY = (
    "<div style='width:48px;height:48px;margin:2px;box-sizing:border-box;"
    "border:1px dashed currentColor;opacity:.25;border-radius:3px'></div>"
)


class HistoryPanel(ipywidgets.VBox):
    """Panel of all steps taken, with the current one marked.

    Args:
        rewind: called with the step that the slider was moved to.
        branch: called with the number of the last node of the chosen branch.
    """

    def __init__(self, rewind: Callable[[int], object], branch: Callable[[int], object]) -> None:
        self._rewind, self._branch = rewind, branch
        self._showing = False
        self.frames = [_Frame(self._moved) for _ in range(FRAMES)]
        strip = ipywidgets.HBox(
            self.frames,
            layout=Layout(height="76px", overflow="hidden", width="100%", padding="2px"),
        )
        self.slider = ipywidgets.IntSlider(
            min=0, max=1, value=0, description="Step", continuous_update=False, disabled=True,
            layout=Layout(width="auto", flex="1 1 0", min_width="0"),
            style={"description_width": "34px"},
        )  # fmt: skip
        self.branches = ipywidgets.Dropdown(
            options=[("the only branch", 0)],
            disabled=True,
            layout=Layout(width="140px", flex="0 0 auto"),
        )
        self._tree = ipywidgets.HTML(layout=Layout(height="44px", overflow="hidden"))
        self.slider.observe(lambda change: self._moved(change["new"]), "value")
        self.branches.observe(lambda change: self._chosen(change["new"]), "value")
        super().__init__(
            [strip, ipywidgets.HBox([self.slider, self.branches]), self._tree],
            layout=Layout(width="100%"),
        )
        self.add_class("dragwidget-history")
        self.show(None, Images())

    def show(self, history: History | None, images: Images, why_not: str = "") -> None:
        """Show the history; ``why_not``: why the current step cannot be changed now."""
        # Its place stays, so that nothing jumps when there is one.
        self.layout.visibility = "hidden" if history is None else None
        path = [] if history is None else history.path(history.tip)
        here = 0 if history is None else history.current.index
        self._show_frames(path, here, images, why_not)
        self._showing = True
        try:
            last = len(path) - 1
            with self.slider.hold_trait_notifications():
                self.slider.max = max(1, last)
                self.slider.value = here
            locked = bool(why_not) or last < 1
            self.slider.disabled = locked
            set_tooltip(self.slider, why_not or "Go to any step; Run continues from there")
            self._show_branches(history, locked)
        finally:
            self._showing = False

    def _show_frames(self, path: list[Node], here: int, images: Images, why_not: str) -> None:
        nodes = _chosen(path, here, images)
        for k, frame in enumerate(self.frames):
            if k < len(nodes):
                node = nodes[k]
                uri = images.thumbnail(node)
                frame.show(node.index, uri, is_here=node.index == here, why_not=why_not)
            else:
                frame.clear()

    def _show_branches(self, history: History | None, locked: bool) -> None:
        tips = [] if history is None else history.tips
        options = [
            (f"branch {k} of {len(tips)}, {tip.index} steps", tip.number)
            for k, tip in enumerate(tips, start=1)
        ]
        if history is None or len(tips) < 2:
            options = [("the only branch", 0 if history is None else history.tip.number)]
        if list(self.branches.options) != options:
            self.branches.options = options
        self.branches.value = options[0][1] if history is None else history.tip.number
        self.branches.disabled = locked or len(tips) < 2
        if history is None:
            self._tree.value = ""
            return
        parents = [node.parent for node in history.nodes]
        self._tree.value = tree(parents, history.current.number, history.tip.number)

    def _moved(self, step: int) -> None:
        if not self._showing:
            self._rewind(step)

    def _chosen(self, number: int | None) -> None:
        if not self._showing and number is not None:
            self._branch(number)


class _Frame(ipywidgets.VBox):
    """A thumbnail with a button that goes to its step.

    Args:
        choose: called with the step.
    """

    def __init__(self, choose: Callable[[int], object]) -> None:
        self.thumbnail = ipywidgets.HTML(_EMPTY, layout=Layout(margin="0", height="48px"))
        self.button = ipywidgets.Button(description="-", tooltip="No preview yet", disabled=True)
        self._step = 0
        self.button.on_click(lambda _: choose(self._step))
        super().__init__(
            [self.thumbnail, self.button],
            layout=Layout(width="52px", height="68px", flex="0 0 auto", overflow="hidden"),
        )
        self.add_class("dragwidget-frame")

    def clear(self) -> None:
        """Show no step."""
        self.thumbnail.value = _EMPTY
        self.button.description, self.button.tooltip = "-", "No preview yet"
        self.button.disabled = True

    def show(self, step: int, uri: str | None, *, is_here: bool, why_not: str) -> None:
        """Show a step; ``uri``: its thumbnail, if any."""
        self._step = step
        frame = "outline:2px solid var(--jp-brand-color1, #2196f3);" if is_here else ""
        shape = f"width:48px;height:48px;margin:2px;border-radius:3px;display:block;{frame}"
        self.thumbnail.value = (
            f"<div style='{shape}'></div>"
            if uri is None
            else f"<img src='{uri}' alt='step {step}' style='object-fit:cover;{shape}'>"
        )
        self.button.description = f"▸ {step}" if is_here else str(step)
        self.button.tooltip = f"Not now: {why_not}" if why_not else f"Go to step {step}"
        self.button.disabled = bool(why_not)


def spread(last: int) -> set[int]:
    """Return the steps from 1 to ``last`` that fill the filmstrip, evenly spread."""
    return {1 + k for k in evenly(last, FRAMES)}


def _chosen(path: list[Node], here: int, images: Images) -> list[Node]:
    """Return up to FRAMES nodes of a path: the current one, and others that have a thumbnail.

    They are evenly spread, with both ends among them. The start is among them if it is current and
    anything was dragged.
    """
    if len(path) < 2:
        return []
    seen = [node for node in path if node.index == here or images.thumbnail(node) is not None]
    chosen = [seen[k] for k in evenly(len(seen), FRAMES)]
    if all(node.index != here for node in chosen):
        current = next(node for node in seen if node.index == here)
        nearest = min(range(1, FRAMES - 1), key=lambda k: abs(chosen[k].index - here))
        chosen[nearest] = current
    return chosen
