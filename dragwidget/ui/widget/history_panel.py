"""The history under the canvas: a filmstrip, a slider, and the branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets
from ipywidgets import Layout

from dragwidget.editor.images import Images
from dragwidget.ui.plots.tree import tree
from dragwidget.ui.tooltips import set_tooltip

if TYPE_CHECKING:
    from dragwidget.session.history import History, Node

__all__ = ["HistoryPanel"]

FRAMES = 8  # of the filmstrip
_SMALL = "font-size:10px;line-height:14px"
_EMPTY = (
    "<span style='display:inline-block;width:48px;height:48px;box-sizing:border-box;"
    "border:1px dashed currentColor;opacity:.25;border-radius:3px'></span>"
)


class HistoryPanel(ipywidgets.VBox):
    """Where the edit stands among all steps that were taken.

    Args:
        rewind: called with the step that the slider was moved to.
        branch: called with the number of the node at the end of the branch chosen.
    """

    def __init__(self, rewind: Callable[[int], object], branch: Callable[[int], object]) -> None:
        self._rewind, self._branch = rewind, branch
        self._showing = False
        self._film = ipywidgets.HTML(layout=Layout(height="78px", overflow="hidden"))
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
            [self._film, ipywidgets.HBox([self.slider, self.branches]), self._tree],
            layout=Layout(width="100%"),
        )
        self.add_class("dragwidget-history")
        self.show(None, Images())

    def show(self, history: History | None, images: Images, why_not: str = "") -> None:
        """Show where the edit stands; ``why_not`` says why it cannot be moved now."""
        path = [] if history is None else history.path(history.tip)
        here = 0 if history is None else history.current.index
        self._film.value = _filmstrip(path, here, images)
        self._showing = True
        try:
            last = len(path) - 1
            with self.slider.hold_trait_notifications():
                self.slider.max = max(1, last)
                self.slider.value = here
            locked = bool(why_not) or last < 1
            self.slider.disabled = locked
            set_tooltip(self.slider, why_not or "Back to any step; Run goes on from there")
            self._show_branches(history, locked)
        finally:
            self._showing = False

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


def _filmstrip(path: list[Node], here: int, images: Images) -> str:
    """Up to FRAMES nodes of a path that were seen, evenly spread; the one that is shown, framed."""
    seen = [node for node in path if images.thumbnail(node) is not None]
    if len(seen) > FRAMES:
        seen = [seen[round(k * (len(seen) - 1) / (FRAMES - 1))] for k in range(FRAMES)]
    nearest = min((node.index for node in seen), key=lambda i: abs(i - here), default=None)
    cells = []
    for node in seen:
        shown = node.index == nearest
        frame = "outline:2px solid var(--jp-brand-color1, #2196f3);" if shown else ""
        cells.append(
            f"<img src='{images.thumbnail(node)}' alt='step {node.index}' style='width:48px;"
            f"height:48px;object-fit:cover;border-radius:3px;{frame}'>"
            f"<div style='{_SMALL}'>{'▸ ' if shown else ''}{node.index}</div>"
        )
    cells += [f"{_EMPTY}<div style='{_SMALL}'>&nbsp;</div>"] * (FRAMES - len(cells))
    boxes = "".join(f"<div style='text-align:center'>{cell}</div>" for cell in cells)
    return f"<div style='display:flex;gap:4px;padding:3px'>{boxes}</div>"
