"""The whole edit in a notebook: the only room that knows all the others."""

from dragwidget.ui.widget.drag_widget import DragWidget

__all__ = ["DragWidget"]
