"""Export an edit: files, and code that repeats it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets
from ipywidgets import Layout

from dragwidget.data.image_writing import encode_image
from dragwidget.editor.export import link

if TYPE_CHECKING:
    from dragwidget.editor.editing import Editing
    from dragwidget.ui.canvas import DragCanvas

Make = Callable[[], bytes]


def makers(editing: Editing, canvas: DragCanvas, gif: Make) -> dict[str, tuple[str, str, Make]]:
    """Return what ``ExportPanel`` offers."""

    def png() -> bytes:
        history, source = editing.history, editing.session.request.image
        shown = None if history is None else editing.image_of(history.current)
        return encode_image(source.completed(shown or editing.session.image), "PNG")

    def instructions() -> bytes:
        if canvas.instructions is None:
            raise ValueError("there are no instructions yet: draw a pair of points first")
        return canvas.instructions.to_json().encode()

    return {
        "PNG": ("Save the image that the canvas shows, without marks", "edited.png", png),
        "GIF": ("Save an animation of the previewed steps", "drag.gif", gif),
        "Instructions": (
            "Save points, mask and prompt as JSON",
            "instructions.json",
            instructions,
        ),
    }


class ExportPanel(ipywidgets.VBox):
    """Panel with a button for each file, which shows a download link.

    Args:
        makers: label of a button -> tooltip, file name, function that returns the bytes or raises.
        code: returns Python code that repeats the edit.
        guard: runs a function and reports what it raises.
    """

    def __init__(
        self,
        makers: dict[str, tuple[str, str, Make]],
        code: Callable[[], str],
        guard: Callable[[Callable[[], object]], object],
    ) -> None:
        self._link = ipywidgets.HTML("&nbsp;", layout=Layout(height="28px"))
        self.code = ipywidgets.Textarea(
            layout=Layout(width="auto", height="120px", display="none"),
            description="",
            placeholder="Python code that repeats this edit",
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
            tooltip="Show Python code that repeats this edit, bit for bit",
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
