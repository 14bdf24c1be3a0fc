"""Driving any iterator without freezing the notebook. No torch."""

from dragwidget.editor.latest import Latest
from dragwidget.editor.runner import Outcome, Runner, State

__all__ = ["Latest", "Outcome", "Runner", "State"]
