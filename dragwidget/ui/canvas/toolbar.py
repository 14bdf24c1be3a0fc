"""The toolbar of the canvas: each action has a button with a text label and a tooltip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import ipywidgets

from dragwidget.data.frames import Size
from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.overlay import MASK_STYLES
from dragwidget.ui.canvas.tools import TOOLS, Tool
from dragwidget.ui.canvas.viewport import Viewport
from dragwidget.ui.tooltips import set_tooltip

_GROW = 0.01  # of the longest side, for one press of Grow or Shrink
_NONE = "none"  # the value for no pair; with ``None`` ipywidgets shows a blank list
_COMPACT = {"width": "auto", "height": "28px", "padding": "0 8px"}


class ToolbarHost(Protocol):
    """What the toolbar needs of the canvas."""

    tool: str
    brush_size: float
    mask_style: str
    mask_tint: str
    mask_opacity: float
    zoom: float
    read_only: bool
    shows_source: bool
    selected: int | None
    pairs: tuple[PointPair, ...]

    @property
    def size(self) -> Size | None: ...
    @property
    def viewport(self) -> Viewport: ...
    @property
    def selected_end(self) -> str: ...
    @property
    def can_undo(self) -> bool: ...
    @property
    def can_redo(self) -> bool: ...
    @property
    def has_keys(self) -> bool: ...
    @property
    def lists_keys(self) -> bool: ...

    def guarded(self, action: Callable[..., Any], *args: Any) -> None: ...
    def undo(self) -> bool: ...
    def redo(self) -> bool: ...
    def zoom_by(self, factor: float) -> None: ...
    def fit(self) -> None: ...
    def show_keys(self) -> None: ...
    def grow(self, pixels: float) -> None: ...
    def shrink(self, pixels: float) -> None: ...
    def invert_mask(self) -> None: ...
    def fill_mask(self) -> None: ...
    def set_mask(self, mask: Any) -> None: ...
    def select(self, index: int | None, end: str = ...) -> None: ...
    def nudge(self, dx: float, dy: float) -> None: ...
    def delete_pair(self, index: int) -> None: ...


class Toolbar:
    """Three rows of controls of one canvas; ``update`` shows its state.

    The first has what an edit needs all the time; the button "More" shows the others.
    """

    def __init__(self, canvas: ToolbarHost, probe: bool = False) -> None:
        self._canvas = canvas
        self._is_updating = False
        self._tips: list[tuple[Any, str, str]] = []  # control, what it does, its key
        self._names_keys: bool | None = None  # in the tooltips
        self.tools = {
            name: self._tool(tool) for name, tool in TOOLS.items() if probe or not tool.is_optional
        }
        button = self._button
        self.undo = button("Undo", "undo", "Undo the last change", canvas.undo, "Ctrl+Z")
        self.redo = button(
            "Redo", "repeat", "Redo the change undone last", canvas.redo, "Ctrl+Shift+Z"
        )
        self.undo.add_class("dragwidget-undo")
        self.redo.add_class("dragwidget-redo")
        self.size = self._tip(
            ipywidgets.IntSlider(
                40, 1, 200, description="Size", continuous_update=False,
                style={"description_width": "28px"}, layout={"width": "190px"},
            ),
            "Diameter of brush and eraser, image pixels",
            "[ and ]",
        )  # fmt: skip
        self._listen(self.size, self._set_size)
        self.zoom_out = button(
            "\N{MINUS SIGN}", "", "Zoom out", lambda: canvas.zoom_by(0.5**0.5), "-"
        )
        self.zoom = ipywidgets.Label("100 %", layout={"width": "46px"})
        self.zoom_in = button("+", "", "Zoom in", lambda: canvas.zoom_by(2**0.5), "+")
        self.fit = button("Fit", "", "Fit the whole image", canvas.fit, "0")
        self.keys = button("Keys", "keyboard-o", "List the keys", canvas.show_keys, "?")
        self.keys.add_class("dragwidget-key-list")
        self.style = self._tip(
            ipywidgets.Dropdown(
                options=list(MASK_STYLES), description="Mask",
                style={"description_width": "34px"}, layout={"width": "118px"},
            ),
            "Darken the protected region, tint the editable one, or hide the mask",
            "m",
        )  # fmt: skip
        self.style.add_class("dragwidget-mask-style")
        self._listen(self.style, self._set_style)
        self.opacity = self._tip(
            ipywidgets.FloatSlider(
                0.55, min=0.0, max=1.0, step=0.05, readout=False, continuous_update=False,
                layout={"width": "70px"},
            ),
            "Opacity of the mask overlay, 0 to 1",
        )  # fmt: skip
        self._listen(self.opacity, self._set_opacity)
        self.tint = self._tip(
            ipywidgets.ColorPicker(concise=True, value="#ff2d87", layout={"width": "28px"}),
            "Colour of the tint",
        )
        self._listen(self.tint, self._set_tint)
        self.mask_buttons = [
            button(
                "Grow",
                "",
                "Grow the editable region by 1 % of the longest side",
                lambda: self._grow(1),
            ),
            button(
                "Shrink",
                "",
                "Shrink the editable region by 1 % of the longest side",
                lambda: self._grow(-1),
            ),
            button("Invert", "", "Swap the editable and the protected region", canvas.invert_mask),
            button("Fill", "", "Make the whole image editable", canvas.fill_mask),
            button("No mask", "", "Remove the mask: the whole image is editable", self._drop_mask),
        ]
        self.pair = self._tip(
            ipywidgets.Dropdown(options=[("no pair", _NONE)], layout={"width": "92px"}),
            "Select a point to move with the arrows, or its pair to delete",
            "1-9",
        )
        self._listen(self.pair, self._select)
        self.nudges = [
            button(label, "", f"Move the point 1 pixel {way}", self._nudger(dx, dy), "arrow keys")
            for label, way, dx, dy in (
                ("\N{LEFTWARDS ARROW}", "left", -1, 0), ("\N{RIGHTWARDS ARROW}", "right", 1, 0),
                ("\N{UPWARDS ARROW}", "up", 0, -1), ("\N{DOWNWARDS ARROW}", "down", 0, 1),
            )
        ]  # fmt: skip
        self.delete = button("Delete", "", "Delete the selected pair", self._delete, "Delete")
        # Hidden while there is no pair; their space stays, so that nothing jumps.
        self.of_pair = _row([self.pair, *self.nudges, self.delete])
        self.source = self._tip(
            ipywidgets.ToggleButton(description="Source", icon="eye", layout=dict(_COMPACT)),
            "Hold to see the source image, without mask and marks",
        )
        self.source.add_class("dragwidget-source")
        self._listen(self.source, self._show_source)
        self.more = self._tip(
            ipywidgets.ToggleButton(description="More", icon="sliders", layout=dict(_COMPACT)),
            "Show brush size, zoom, how the mask looks, and what acts on all of it or on one point",
        )
        self.more.add_class("dragwidget-more")
        self.more.observe(lambda change: self._show_more(change["new"]), "value")
        tools = [self.tools[name] for name in self.tools if not TOOLS[name].is_optional]
        optional = [self.tools[name] for name in self.tools if TOOLS[name].is_optional]
        self.box = ipywidgets.VBox(
            [
                _row([*tools, _gap(), self.undo, self.redo, _gap(), self.source, self.more]),
                _row(
                    [
                        self.size, _gap(), self.zoom_out, self.zoom, self.zoom_in, self.fit,
                        _gap(), self.style, self.opacity, self.tint, *optional, self.keys,
                    ]
                ),
                _row([*self.mask_buttons, _gap(), self.of_pair]),
            ],
            layout={"max_width": "100%"},
        )  # fmt: skip
        self._show_more(False)

    def _show_more(self, on: bool) -> None:
        for row in self.box.children[1:]:
            row.layout.display = None if on else "none"

    def update(self) -> None:
        """Show the state of the canvas; send only what differs."""
        canvas = self._canvas
        self._name_keys(canvas.has_keys)
        can_draw = canvas.size is not None and not canvas.read_only
        self._is_updating = True
        try:
            for name, toggle in self.tools.items():
                toggle.value = name == canvas.tool
                toggle.disabled = not can_draw and TOOLS[name].draws
            self.undo.disabled = not (can_draw and canvas.can_undo)
            self.redo.disabled = not (can_draw and canvas.can_redo)
            for control in self.mask_buttons:
                control.disabled = not can_draw
            self._update_pair(can_draw)
            self.size.max = max(200, int(max(canvas.viewport.size) // 2), int(canvas.brush_size))
            self.size.value = round(canvas.brush_size)
            self.zoom.value = f"{round(100 * canvas.zoom)} %"
            self.style.value = canvas.mask_style
            self.opacity.value = canvas.mask_opacity
            self.tint.value = canvas.mask_tint
            self.source.value = canvas.shows_source
            self.source.disabled = canvas.size is None
            self.keys.disabled = not canvas.lists_keys
            self.tint.disabled = canvas.mask_style != "tint"
        finally:
            self._is_updating = False

    def close(self) -> None:
        """Close every control, so that none keeps the canvas alive."""
        for row in (*self.box.children, self.of_pair):
            for control in (*row.children, row):
                control.close()
        self.box.close()

    def _update_pair(self, can_draw: bool) -> None:
        canvas = self._canvas
        options: list[tuple[str, Any]] = [("none" if canvas.pairs else "no pair", _NONE)]
        for index in range(len(canvas.pairs)):
            options += [(f"{index + 1} {end}", (index, end)) for end in ("handle", "target")]
        selected = canvas.selected
        with self.pair.hold_sync():  # one message for both
            if list(self.pair.options) != options:
                self.pair.options = options
            self.pair.value = _NONE if selected is None else (selected, canvas.selected_end)
        for nudge in self.nudges:  # greyed no more often: four messages each time
            nudge.disabled = not can_draw
        self.delete.disabled = not can_draw or selected is None
        self.of_pair.layout.visibility = "visible" if canvas.pairs else "hidden"

    # ------------------------------------------------------------ making controls

    def _tool(self, tool: Tool) -> ipywidgets.ToggleButton:
        toggle = ipywidgets.ToggleButton(
            description=tool.label, icon=tool.icon, layout=dict(_COMPACT)
        )
        self._tip(toggle, tool.hint, tool.key)
        toggle.add_class(f"dragwidget-tool-{tool.name}")

        def choose(is_on: bool) -> None:
            if is_on:
                self._canvas.tool = tool.name
            self.update()  # the tool that is on cannot be switched off

        self._listen(toggle, choose)
        return toggle

    def _button(
        self, label: str, icon: str, tip: str, action: Callable[[], Any], key: str = ""
    ) -> ipywidgets.Button:
        button = ipywidgets.Button(description=label, icon=icon, layout=dict(_COMPACT))
        self._tip(button, tip, key)
        button.on_click(lambda _: self._canvas.guarded(action))
        return button

    def _tip(self, control: Any, text: str, key: str = "") -> Any:
        self._tips.append((control, text, key))
        return control

    def _name_keys(self, on: bool) -> None:
        """Name the keys in the tooltips only where they act."""
        if on != self._names_keys:
            self._names_keys = on
            for control, text, key in self._tips:
                set_tooltip(control, f"{text} ({key})" if on and key else text)

    def _listen(self, control: Any, action: Callable[[Any], None]) -> None:
        def take(change: Any) -> None:
            if not self._is_updating:
                self._canvas.guarded(action, change["new"])

        control.observe(take, "value")

    # ------------------------------------------------------------ what they do

    def _show_source(self, on: bool) -> None:
        self._canvas.shows_source = on

    def _set_size(self, size: int) -> None:
        self._canvas.brush_size = float(size)

    def _set_style(self, style: str) -> None:
        self._canvas.mask_style = style

    def _set_opacity(self, opacity: float) -> None:
        self._canvas.mask_opacity = opacity

    def _set_tint(self, colour: str) -> None:
        self._canvas.mask_tint = colour

    def _select(self, value: tuple[int, str] | str | None) -> None:
        if isinstance(value, tuple):
            self._canvas.select(*value)
        else:
            self._canvas.select(None)
            self.update()  # also where nothing was selected before: the list is never blank

    def _grow(self, sign: int) -> None:
        step = max(1.0, round(_GROW * max(self._canvas.viewport.size)))
        (self._canvas.grow if sign > 0 else self._canvas.shrink)(step)

    def _drop_mask(self) -> None:
        self._canvas.set_mask(None)

    def _delete(self) -> None:
        if self._canvas.selected is not None:
            self._canvas.delete_pair(self._canvas.selected)

    def _nudger(self, dx: int, dy: int) -> Callable[[], None]:
        return lambda: self._canvas.nudge(dx, dy)


def _row(controls: list[Any]) -> ipywidgets.HBox:
    layout = {"flex_flow": "row wrap", "align_items": "center", "max_width": "100%"}
    return ipywidgets.HBox(controls, layout=layout)


def _gap() -> ipywidgets.Box:
    return ipywidgets.Box(layout={"width": "8px"})
