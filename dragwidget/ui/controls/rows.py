"""One setting as a row: its control, its unit, and a button that resets it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from dragwidget.ui.controls.fields import Blocks, Choice, Field, Flag, Number, shown
from dragwidget.ui.styles import escape
from dragwidget.ui.tooltips import set_tooltip

LABEL_WIDTH = "122px"  # of the longest label, with the mark before it
CHANGED = "● "  # before the label of a setting that is not as recommended
_FLEXIBLE = {"flex": "1 1 0%", "width": "auto", "min_width": "0", "margin": "2px 0"}
DECODER_BLOCKS = 4  # of Stable Diffusion; a model with more shows more


class BlocksControl(widgets.HBox):
    """One toggle button for each decoder block; ``value`` is a tuple of block numbers."""

    def __init__(self, field: Field, changed: Callable[[tuple[int, ...]], None]) -> None:
        self._changed = changed
        self._writing = False
        self._label = widgets.HTML(
            layout=widgets.Layout(width=LABEL_WIDTH, flex="none", margin="0 4px 0 0")
        )
        self._buttons: list[Any] = []
        super().__init__([self._label], layout=widgets.Layout(**_FLEXIBLE))
        self._help = field.help
        self.grow(DECODER_BLOCKS)

    def grow(self, last: int) -> None:
        """Add buttons up to block ``last``."""
        for number in range(len(self._buttons), last + 1):
            name = "mid" if number == 0 else str(number)
            button = widgets.ToggleButton(
                description=name,
                layout=widgets.Layout(
                    flex="1 1 0%", width="auto", min_width="20px", margin="0 1px", padding="0"
                ),
            )
            where = "the mid block" if number == 0 else f"decoder block {number}"
            set_tooltip(button, f"Compare the features of {where}")
            button.observe(self._clicked, "value")
            self._buttons.append(button)
        self.children = (self._label, *self._buttons)

    @property
    def description(self) -> str:
        return str(self._label.value)

    @description.setter
    def description(self, text: str) -> None:
        self._label.value = (
            f'<span class="widget-label" title="{escape(self._help)}">{escape(text)}</span>'
        )

    @property
    def value(self) -> tuple[int, ...]:
        return tuple(i for i, button in enumerate(self._buttons) if button.value)

    @value.setter
    def value(self, blocks: tuple[int, ...]) -> None:
        self._writing = True
        try:
            self.grow(max(len(self._buttons) - 1, *blocks))
            count = len(self._buttons)  # blocks may be counted from the end
            for i, button in enumerate(self._buttons):
                button.value = i in blocks or i - count in blocks
        finally:
            self._writing = False

    def _clicked(self, change: Any) -> None:  # noqa: ARG002 - all buttons count
        if not self._writing:
            self._changed(self.value)


def _make_control(field: Field, changed: Callable[[Any], None]) -> Any:
    style = {"description_width": LABEL_WIDTH}
    common: dict[str, Any] = {"style": style, "layout": dict(_FLEXIBLE)}
    match field:
        case Blocks():
            return BlocksControl(field, changed)
        case Choice(options=options):
            control = widgets.Dropdown(options=list(options), **common)
        case Flag():
            control = widgets.Checkbox(indent=True, **common)
        case Number(slider=True):
            control = widgets.FloatSlider(
                min=field.low,
                max=field.high,
                step=field.step,
                readout_format=".2f",
                continuous_update=False,
                **common,
            )
        case Number():
            kind = widgets.BoundedIntText if field.whole else widgets.BoundedFloatText
            control = kind(min=field.low, max=field.high, step=field.step, **common)
        case _:
            raise TypeError(f"no control for {field!r}")
    control.observe(lambda change: changed(change["new"]), "value")
    set_tooltip(control, field.help)
    return control


class Row(widgets.HBox):
    """A control for one setting.

    Args:
        field: the setting.
        changed: called with the new value when the user changed it, not by ``show``.

    Attributes:
        control: the widget that holds the value.
        back: the button that resets to the recommended value.
    """

    def __init__(self, field: Field, changed: Callable[[Any], None]) -> None:
        self.field = field
        self._changed = changed
        self._recommended: Any = None
        self._writer: int | None = None  # the thread that shows a value just now
        self.control = _make_control(field, self._on_value)
        self.unit = widgets.HTML(
            f'<span class="dragwidget-unit">{escape(field.unit)}</span>',
            layout=widgets.Layout(width="34px", flex="none", margin="0 0 0 4px"),
        )
        self.back = widgets.Button(
            description="↺",
            layout=widgets.Layout(width="28px", height="28px", flex="none", margin="0"),
        )
        self.back.add_class("dragwidget-settings-back")
        self.back.on_click(lambda _: self._changed(self._recommended))
        parts = [self.control, self.unit, self.back]
        if not isinstance(field, Number) or field.slider:  # these have no unit, and need the room
            parts.remove(self.unit)
            self.back.layout.margin = "0 0 0 4px"
        super().__init__(
            parts,
            layout=widgets.Layout(width="100%", min_height="32px"),
        )
        self.add_class("dragwidget-settings-field")

    def _on_value(self, value: Any) -> None:
        if self._writer != threading.get_ident():
            self._changed(value)

    def show(self, value: Any, recommended: Any) -> None:
        """Show a value, and mark it if it is not the recommended one."""
        self._recommended = recommended
        before, self._writer = self._writer, threading.get_ident()
        try:
            if isinstance(self.control, widgets.Dropdown):  # perhaps a method that somebody added
                known = [choice for _, choice in self.control.options]
                if value not in known:
                    self.control.options = [*self.control.options, (str(value), value)]
            self.control.value = value
        finally:
            self._writer = before
        changed = value != recommended
        self.control.description = (CHANGED if changed else "") + self.field.label
        # hidden, but in its place: nothing moves
        self.back.layout.visibility = "visible" if changed else "hidden"
        set_tooltip(self.back, f"Reset {self.field.label} to {shown(recommended)}")
