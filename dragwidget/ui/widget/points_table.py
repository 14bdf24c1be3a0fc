"""A table of the points, to edit their coordinates by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets
from ipywidgets import Layout

from dragwidget.ui.tooltips import set_tooltip

_NAMES = ("handle x", "handle y", "target x", "target y")


class _Row(ipywidgets.HBox):
    """One pair: four numbers and a button."""

    def __init__(self, index: int, changed: Callable[[int], None], delete: Callable[[int], None]):
        self.label = ipywidgets.Label(f"{index + 1}", layout=Layout(width="16px", flex="none"))
        self.numbers = [
            ipywidgets.BoundedFloatText(
                min=0, max=0, step=1, layout=Layout(flex="0 1 76px", width="auto", min_width="0")
            )
            for _ in _NAMES
        ]
        for box, name in zip(self.numbers, _NAMES, strict=True):
            set_tooltip(box, f"{name.capitalize()} of pair {index + 1}, image pixels")
        self.button = ipywidgets.Button(
            description="Delete", tooltip=f"Delete pair {index + 1}",
            layout=Layout(width="auto", flex="none", padding="0 6px"),
        )  # fmt: skip
        for box in self.numbers:
            box.observe(lambda _: changed(index), "value")
        self.button.on_click(lambda _: delete(index))
        super().__init__(
            [self.label, *self.numbers, self.button], layout=Layout(align_items="center")
        )

    def show(self, values: list[float], size: tuple[int, int]) -> None:
        for box, value, side in zip(self.numbers, values, (*size, *size), strict=True):
            box.max = max(0, side - 1)
            box.value = min(round(value, 2), box.max)


class PointsTable(ipywidgets.VBox):
    """Table of a canvas' pairs, in image pixels, with a button that adds one.

    Args:
        canvas: the ``DragCanvas`` with these pairs.
    """

    def __init__(self, canvas: Any) -> None:
        self._canvas = canvas
        self._rows: list[_Row] = []
        self.children: tuple[Any, ...]
        self._showing = False
        self._head = ipywidgets.HTML(
            "<span style='opacity:.7'>handle x, y &rarr; target x, y, image pixels</span>"
        )
        self._add = ipywidgets.Button(
            description="Add pair",
            tooltip="Add a pair in the middle of the image, image pixels",
            layout=Layout(width="110px"),
        )
        self._add.on_click(lambda _: self._add_pair())
        super().__init__([self._head, self._add])
        self.add_class("dragwidget-points")
        canvas.observe(lambda _: self._show(), "pairs")
        self._show()

    def _show(self) -> None:
        pairs, size = self._canvas.pairs, self._canvas.size
        while len(self._rows) < len(pairs):
            self._rows.append(_Row(len(self._rows), self._changed, self._canvas.delete_pair))
        self._showing = True
        try:
            for row, pair in zip(self._rows, pairs, strict=False):
                row.show([*pair.handle, *pair.target], size)
        finally:
            self._showing = False
        shown = (self._head, *self._rows[: len(pairs)], self._add)
        if tuple(self.children) != shown:  # or a number that is being typed would lose the focus
            self.children = shown
        self._add.disabled = self._canvas.read_only or self._canvas.image is None

    def _changed(self, index: int) -> None:
        if self._showing or index >= len(self._canvas.pairs):
            return
        pair = self._canvas.pairs[index]
        hx, hy, tx, ty = (box.value for box in self._rows[index].numbers)
        if max(abs(hx - pair.handle[0]), abs(hy - pair.handle[1])) > 0.005:
            self._canvas.move_handle(index, (hx, hy))
        if max(abs(tx - pair.target[0]), abs(ty - pair.target[1])) > 0.005:
            self._canvas.move_target(index, (tx, ty))

    def _add_pair(self) -> None:
        width, height = self._canvas.size
        self._canvas.add_pair((width / 2, height / 2), (min(width - 1, width * 0.6), height / 2))
