"""Files and code of an edit, to take away."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets
from ipywidgets import Layout

from dragwidget.editor.export import link

__all__ = ["ExportPanel"]


class ExportPanel(ipywidgets.VBox):
    """A button for each file; pressed, a link to it appears.

    Args:
        makers: for each button's text, a tooltip, the file's name and what makes its bytes, or
            raises with a reason.
        code: makes the Python that repeats the edit.
        guard: runs a function and reports what it raises.
    """

    def __init__(
        self,
        makers: dict[str, tuple[str, str, Callable[[], bytes]]],
        code: Callable[[], str],
        guard: Callable[[Callable[[], object]], object],
    ) -> None:
        self._link = ipywidgets.HTML("&nbsp;", layout=Layout(height="28px"))
        self.code = ipywidgets.Textarea(
            layout=Layout(width="auto", height="120px", display="none"),
            description="",
            placeholder="Python that repeats this edit",
        )
        buttons = []
        for text, (tooltip, name, make) in makers.items():
            button = ipywidgets.Button(
                description=text, tooltip=tooltip, layout=Layout(width="auto", min_width="80px")
            )
            button.on_click(
                lambda _, name=name, make=make: guard(lambda: self._offer(name, make()))
            )
            button.add_class(f"dragwidget-export-{name.rpartition('.')[2]}")
            buttons.append(button)
        copy = ipywidgets.Button(
            description="Copy as Python",
            tooltip="A cell that repeats this edit without a hand, bit for bit",
            layout=Layout(width="auto"),
        )
        copy.add_class("dragwidget-export-python")
        copy.on_click(lambda _: guard(lambda: self._show_code(code())))
        row = ipywidgets.HBox([*buttons, copy], layout=Layout(flex_flow="row wrap"))
        super().__init__([row, self._link, self.code])

    def _offer(self, name: str, data: bytes) -> None:
        self._link.value = link(name, data)

    def _show_code(self, text: str) -> None:
        self.code.layout.display = ""
        self.code.value = text
