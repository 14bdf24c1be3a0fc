"""The tool "eraser": erases from the editable region."""

from dragwidget.ui.canvas.tools.brush import Stroke
from dragwidget.ui.canvas.tools.tool import Tool


class Erasure(Stroke):
    """Erases; rasterised once, on release."""

    erase = True


ERASER = Tool("eraser", "Eraser", "eraser", "e", "Erase from the editable region", Erasure)
