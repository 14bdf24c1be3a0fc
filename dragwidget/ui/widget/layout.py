"""The layout of the widget: its buttons, columns and sections."""

from __future__ import annotations

from typing import Any

import ipywidgets
from ipywidgets import Layout

from dragwidget.editor.editing import Action

LEAST = 380  # CSS pixels of the image's column beside another; with less, the other goes below

_BUTTONS: dict[Action, tuple[str, str]] = {
    "prepare": ("Prepare", "Train the LoRA and invert the image, where they are not up to date"),
    "step": ("Step", "Take one drag step"),
    "run": ("Run", "Drag until all handles reach their targets, or the maximum number of steps"),
    "pause": ("Pause", "Pause after the step in progress; Run or Step continues"),
    "stop": ("Stop", "Stop within the step in progress; finished steps are kept"),
    "reset": ("Reset", "Go back to the start of the drag; all steps stay in the history"),
    "render": ("Render", "Denoise the latent to the final render; previews are approximate"),
}


PRIMARY: tuple[Action, ...] = ("run", "pause", "stop", "step", "render")


class Buttons(ipywidgets.HBox):
    """A row of the buttons that an edit needs all the time, above the image.

    Attributes:
        by_name: the buttons, by action; those that are seldom needed are not in the row.
        tooltips: their tooltips, by action.
    """

    def __init__(self) -> None:
        self.by_name: dict[Action, Any] = {}
        self.tooltips: dict[Action, str] = {}
        for name, (text, tooltip) in _BUTTONS.items():
            self.tooltips[name] = tooltip
            button = ipywidgets.Button(
                description=text,
                tooltip=tooltip,
                layout=Layout(width="auto", flex="1 1 62px", max_width="92px", padding="0 4px"),
                button_style="primary" if name == "run" else "",
            )
            button.add_class(f"dragwidget-{name}")
            self.by_name[name] = button
        super().__init__(
            [self.by_name[name] for name in PRIMARY],
            layout=Layout(flex_flow="row wrap", width="100%"),
        )
        self.add_class("dragwidget-actions")


def allow(button: Any, why_not: str, tooltip: str) -> None:
    """Disable a button, with the reason as its tooltip; enable it if there is no reason."""
    button.disabled = bool(why_not)
    button.tooltip = f"Not now: {why_not}" if why_not else tooltip


def two_columns(left: list[Any], right: list[Any], width: int) -> Any:
    """Return ``left``, up to ``width`` CSS pixels wide, and ``right`` beside it, or below it."""
    shape = Layout(flex=f"3 1 {min(width, LEAST)}px", min_width="0", max_width=f"{width}px")
    first = ipywidgets.VBox(left, layout=shape)
    second = ipywidgets.VBox(
        right,
        layout=Layout(flex="1 1 280px", min_width="260px", max_width="510px"),
    )
    columns = ipywidgets.HBox(
        [first, second],
        layout=Layout(
            flex_flow="row wrap", width="100%", align_items="flex-start", grid_gap="0 10px"
        ),
    )
    columns.add_class("dragwidget-columns")
    return columns


def preparation(badges: Any, buttons: Buttons, *more: Any) -> Any:
    """Return the section of what comes before a drag: the stages, what makes them, and more."""
    row = ipywidgets.HBox([buttons.by_name["prepare"], buttons.by_name["reset"]])
    return ipywidgets.VBox([badges, row, *more])


def sections(parts: dict[str, Any]) -> Any:
    """Return folded sections, one open at a time."""
    box = ipywidgets.Accordion(list(parts.values()), selected_index=None)
    for k, title in enumerate(parts):
        box.set_title(k, title)
    return box
