"""How the widget lies on the page: its controls, and where they stand."""

from __future__ import annotations

from typing import Any

import ipywidgets
from ipywidgets import Layout

from dragwidget.editor.editing import Action
from dragwidget.ui.styles import STYLE

__all__ = ["Buttons", "allow", "sections", "style_sheet", "two_columns"]

_BUTTONS: dict[Action, tuple[str, str]] = {
    "prepare": ("Prepare", "Train the LoRA and invert the image now, where they are not fresh"),
    "step": ("Step", "One drag step"),
    "run": ("Run", "Drag on until all handles have reached their targets"),
    "pause": ("Pause", "Pause after this step; go on with Run or Step"),
    "stop": ("Stop", "Stop at once; the steps that were taken stay"),
    "reset": ("Reset", "Back to the start of the drag; what was dragged stays in the history"),
    "render": ("Render", "Denoise to the exact image (the previews are approximate)"),
}


class Buttons(ipywidgets.HBox):
    """What can be done, one button each.

    Attributes:
        by_name: the buttons, by action.
        tooltips: what each does.
    """

    def __init__(self) -> None:
        self.by_name: dict[Action, Any] = {}
        self.tooltips: dict[Action, str] = {}
        for name, (text, tooltip) in _BUTTONS.items():
            self.tooltips[name] = tooltip
            button = ipywidgets.Button(
                description=text,
                tooltip=tooltip,
                layout=Layout(width="auto", flex="1 1 74px", padding="0 4px"),
                button_style="primary" if name == "run" else "",
            )
            button.add_class(f"dragwidget-{name}")
            self.by_name[name] = button
        super().__init__(
            list(self.by_name.values()), layout=Layout(flex_flow="row wrap", width="100%")
        )


def allow(button: Any, why_not: str, tooltip: str) -> None:
    """Grey a button, with the reason as its tooltip; or not, where there is no reason."""
    button.disabled = bool(why_not)
    button.tooltip = f"Not now: {why_not}" if why_not else tooltip


def two_columns(left: list[Any], right: list[Any], width: int) -> Any:
    """The image, ``width`` CSS pixels wide, and beside it, or below it, everything else."""
    shape = Layout(flex="0 1 auto", width=f"{width}px", max_width="100%")
    first = ipywidgets.VBox(left, layout=shape)
    second = ipywidgets.VBox(
        right,
        layout=Layout(flex="1 1 290px", min_width="270px", max_width="480px", padding="0 0 0 10px"),
    )
    columns = ipywidgets.HBox(
        [first, second], layout=Layout(flex_flow="row wrap", width="100%", align_items="flex-start")
    )
    columns.add_class("dragwidget-columns")
    return columns


def style_sheet() -> Any:
    """What the browser has to know of our class names; takes no room."""
    return ipywidgets.HTML(STYLE, layout=Layout(display="none"))


def sections(parts: dict[str, Any]) -> Any:
    """Folded sections, one open at a time."""
    box = ipywidgets.Accordion(list(parts.values()), selected_index=None)
    for k, title in enumerate(parts):
        box.set_title(k, title)
    return box
