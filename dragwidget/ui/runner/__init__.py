"""Driving any iterator without freezing the notebook. No torch."""

from dragwidget.ui.runner.latest import Latest
from dragwidget.ui.runner.runner import Outcome, Runner, State

__all__ = ["Latest", "Outcome", "Runner", "State"]
