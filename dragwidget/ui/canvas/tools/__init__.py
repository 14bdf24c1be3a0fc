"""The tools of the canvas, one a module; ``TOOLS`` is all that the canvas knows of them."""

from dragwidget.ui.canvas.tools.brush import BRUSH
from dragwidget.ui.canvas.tools.eraser import ERASER
from dragwidget.ui.canvas.tools.lasso import LASSO
from dragwidget.ui.canvas.tools.pan import PAN
from dragwidget.ui.canvas.tools.points import POINTS
from dragwidget.ui.canvas.tools.probe import PROBE
from dragwidget.ui.canvas.tools.rectangle import RECTANGLE
from dragwidget.ui.canvas.tools.select import SELECT
from dragwidget.ui.canvas.tools.tool import Gesture, Host, Pointer, Tool, Unfinished

__all__ = ["TOOLS", "Gesture", "Host", "Pointer", "Tool", "Unfinished"]

TOOLS = {tool.name: tool for tool in (POINTS, SELECT, BRUSH, ERASER, LASSO, RECTANGLE, PAN, PROBE)}
"""By name, in the toolbar's order; a canvas that is made later offers what is added here."""
