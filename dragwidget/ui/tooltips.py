"""Set the tooltips of widgets, in ipywidgets 7 and 8."""

from __future__ import annotations

from typing import Any


def set_tooltip(widget: Any, text: str) -> None:
    """Set the tooltip of a widget; some widgets have none in ipywidgets 7."""
    # in ipywidgets 7 it has another name on everything but buttons
    name = "tooltip" if widget.has_trait("tooltip") else "description_tooltip"
    if widget.has_trait(name):
        setattr(widget, name, text)
