"""The headless driver of an edit: any front end can stand on it. No Jupyter, no torch."""

from dragwidget.editor.runner import Outcome, Runner, State

__all__ = ["Outcome", "Runner", "State"]
