"""Drawing point pairs and a mask on a picture. No torch."""

from dragwidget.ui.canvas.drag_canvas import DragCanvas

__all__ = ["DragCanvas"]
