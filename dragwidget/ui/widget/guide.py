"""The line that says what to do next, with the button that it offers."""

from __future__ import annotations

import ipywidgets
from ipywidgets import Layout

from dragwidget.editor.hints import Situation, hint
from dragwidget.ui.styles import hint_line


class Guide(ipywidgets.HBox):
    """Line of one hint, and a button to select the part that the pairs move.

    It has a fixed height: nothing below it moves, whatever it says and offers.

    Attributes:
        select_part: the button.
    """

    def __init__(self) -> None:
        self._line = ipywidgets.HTML(
            layout=Layout(flex="0 1 auto", width="auto", min_width="0", height="40px", margin="0")
        )
        self.select_part = ipywidgets.Button(
            description="Select the part",
            tooltip="Make a mask of the things under the handles and the space to their targets",
            icon="magic",
            layout=Layout(flex="0 0 auto", width="auto", margin="6px 2px", display="none"),
        )
        self.select_part.add_class("dragwidget-select-part")
        super().__init__(
            [self._line, self.select_part],
            layout=Layout(width="100%", max_width="720px", align_items="center", overflow="hidden"),
        )
        self.show(Situation())

    def show(self, situation: Situation) -> None:
        """Show the hint for a situation, and what it offers."""
        self._line.value = hint_line(hint(situation))
        self.select_part.layout.display = None if situation.may_drift else "none"
