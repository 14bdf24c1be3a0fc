"""Curves, heat maps and the branches of a history, as SVG and images. No torch, no matplotlib."""

from dragwidget.ui.plots.heat import heat_overlay
from dragwidget.ui.plots.lines import COLOURS, decimate, line_plot
from dragwidget.ui.plots.tree import tree

__all__ = ["COLOURS", "decimate", "heat_overlay", "line_plot", "tree"]
