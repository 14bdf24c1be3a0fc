"""Draw point pairs and a mask on an image; imports no torch."""

from dragwidget.ui.canvas.drag_canvas import DragCanvas

__all__ = ["DragCanvas"]
