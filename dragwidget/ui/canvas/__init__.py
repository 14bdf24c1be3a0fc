"""Drawing point pairs and a mask on an image. No torch."""

from dragwidget.ui.canvas.drag_canvas import DragCanvas

__all__ = ["DragCanvas"]
