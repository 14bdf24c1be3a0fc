"""What is said of a widget when the pointer rests on it."""

from __future__ import annotations

from typing import Any

__all__ = ["set_tooltip"]


def set_tooltip(widget: Any, text: str) -> None:
    """Give a widget its tooltip; some have none in ipywidgets 7."""
    # there, it has another name on everything but buttons
    name = "tooltip" if widget.has_trait("tooltip") else "description_tooltip"
    if widget.has_trait(name):
        setattr(widget, name, text)
