"""The files that the widget's section *Export* offers."""

from __future__ import annotations

from dragwidget.ui.widget import DragWidget
from dragwidget.ui.widget.export_panel import makers


def exported(widget: DragWidget, name: str) -> bytes:
    """Return what a button of the section makes, ``PNG``, ``GIF`` or ``Instructions``."""
    _, _, make = makers(widget._editing, widget.canvas, widget.gif)[name]
    return make()
