"""The whole edit in a notebook: the only package that imports all others."""

from dragwidget.ui.widget.drag_widget import DragWidget

__all__ = ["DragWidget"]
