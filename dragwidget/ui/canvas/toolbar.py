"""The buttons over the canvas: each action has one, with a text label and a tooltip."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from dragwidget.ui.canvas.overlay import MASK_STYLES
from dragwidget.ui.tooltips import set_tooltip

if TYPE_CHECKING:
    from dragwidget.ui.canvas import DragCanvas

_TOOLS = {  # name: (label, icon, tooltip)
    "points": ("Points", "map-marker", "Press on a point and drag it to where it should go (p)"),
    "brush": ("Brush", "paint-brush", "Paint over what may change (b)"),
    "eraser": ("Eraser", "eraser", "Paint over what must stay (e)"),
    "lasso": ("Lasso", "pencil", "Draw round what may change, or click corner by corner (l)"),
    "rectangle": ("Rect", "square-o", "Drag a rectangle over what may change (r)"),
    "pan": ("Pan", "arrows", "Drag the image; only seen when zoomed in (h)"),
    "probe": ("Probe", "crosshairs", "Click a point to look at"),
}
_GROW = 0.01  # of the longest side, for one press of Grow or Shrink
_COMPACT = {"width": "auto", "height": "28px", "padding": "0 8px"}


class Toolbar:
    """Three rows of controls of one canvas; ``update`` makes them say what the canvas is."""

    def __init__(self, canvas: DragCanvas, probe: bool = False) -> None:
        self._canvas = canvas
        self._is_updating = False
        self.tools = {name: self._tool(name) for name in _TOOLS if probe or name != "probe"}
        button = self._button
        self.undo = button("Undo", "undo", "Take back the last change (Ctrl+Z)", canvas.undo)
        self.redo = button("Redo", "repeat", "Do it again (Ctrl+Shift+Z)", canvas.redo)
        self.undo.add_class("dragwidget-undo")
        self.redo.add_class("dragwidget-redo")
        self.size = _tip(
            ipywidgets.IntSlider(
                40, 1, 200, description="Size", continuous_update=False,
                style={"description_width": "28px"}, layout={"width": "190px"},
            ),
            "Diameter of brush and eraser, image pixels ([ and ])",
        )  # fmt: skip
        self._listen(self.size, self._set_size)
        self.zoom_out = button(
            "\N{MINUS SIGN}", "", "Zoom out (-)", lambda: canvas.zoom_by(0.5**0.5)
        )
        self.zoom = ipywidgets.Label("100 %", layout={"width": "46px"})
        self.zoom_in = button("+", "", "Zoom in (+)", lambda: canvas.zoom_by(2**0.5))
        self.fit = button("Fit", "", "Show the whole image (0)", canvas.fit)
        self.style = _tip(
            ipywidgets.Dropdown(
                options=list(MASK_STYLES), description="Mask",
                style={"description_width": "34px"}, layout={"width": "118px"},
            ),
            "How the mask is shown: the protected region darkened, what may change tinted, or not (m)",
        )  # fmt: skip
        self._listen(self.style, self._set_style)
        self.opacity = _tip(
            ipywidgets.FloatSlider(
                0.55, min=0.0, max=1.0, step=0.05, readout=False, continuous_update=False,
                layout={"width": "70px"},
            ),
            "How strongly the mask is shown",
        )  # fmt: skip
        self._listen(self.opacity, self._set_opacity)
        self.tint = _tip(
            ipywidgets.ColorPicker(concise=True, value="#ff2d87", layout={"width": "28px"}),
            "Colour of the tint",
        )
        self._listen(self.tint, self._set_tint)
        self.mask_buttons = [
            button("Grow", "", "Let the mask reach further", lambda: self._grow(1)),
            button("Shrink", "", "Let the mask reach less far", lambda: self._grow(-1)),
            button(
                "Invert", "", "Swap what may change and the protected region", canvas.invert_mask
            ),
            button("Fill", "", "A mask that lets everything change", canvas.fill_mask),
            button("No mask", "", "Drop the mask: everything may change", self._drop_mask),
        ]
        self.pair = _tip(
            ipywidgets.Dropdown(options=[("no pair", None)], value=None, layout={"width": "92px"}),
            "The point that the arrows move and Delete removes (1-9)",
        )
        self._listen(self.pair, self._select)
        self.nudges = [
            button(label, "", f"Move the point 1 pixel {way}", self._nudger(dx, dy))
            for label, way, dx, dy in (
                ("\N{LEFTWARDS ARROW}", "left", -1, 0), ("\N{RIGHTWARDS ARROW}", "right", 1, 0),
                ("\N{UPWARDS ARROW}", "up", 0, -1), ("\N{DOWNWARDS ARROW}", "down", 0, 1),
            )
        ]  # fmt: skip
        self.delete = button("Delete", "", "Remove the selected pair (Delete)", self._delete)
        # Of no use, and out of sight, while there is no pair; their place stays, nothing jumps.
        self.of_pair = _row([self.pair, *self.nudges, self.delete])
        self.box = ipywidgets.VBox(
            [
                _row([*self.tools.values(), _gap(), self.undo, self.redo]),
                _row(
                    [
                        self.size, _gap(), self.zoom_out, self.zoom, self.zoom_in, self.fit,
                        _gap(), self.style, self.opacity, self.tint,
                    ]
                ),
                _row([*self.mask_buttons, _gap(), self.of_pair]),
            ],
            layout={"max_width": "100%"},
        )  # fmt: skip

    def update(self) -> None:
        """Say what the canvas is now; only what differs is sent."""
        canvas = self._canvas
        can_draw = canvas.size is not None and not canvas.read_only
        self._is_updating = True
        try:
            for name, tool in self.tools.items():
                tool.value = name == canvas.tool
                tool.disabled = not can_draw and name not in ("pan", "probe")
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
            self.tint.disabled = canvas.mask_style != "tint"
        finally:
            self._is_updating = False

    def close(self) -> None:
        """Close every control, so that nothing of the canvas is kept by them."""
        for row in (*self.box.children, self.of_pair):
            for control in (*row.children, row):
                control.close()
        self.box.close()

    def _update_pair(self, can_draw: bool) -> None:
        canvas = self._canvas
        options: list[tuple[str, Any]] = [("no pair", None)]
        for index in range(len(canvas.pairs)):
            options += [(f"{index + 1} {end}", (index, end)) for end in ("handle", "target")]
        selected = canvas.selected
        with self.pair.hold_sync():  # one message for both
            if list(self.pair.options) != options:
                self.pair.options = options
            self.pair.value = None if selected is None else (selected, canvas.selected_end)
        for nudge in self.nudges:  # greyed no more often: four messages each time
            nudge.disabled = not can_draw
        self.delete.disabled = not can_draw or selected is None
        self.of_pair.layout.visibility = "visible" if canvas.pairs else "hidden"

    # ------------------------------------------------------------ making controls

    def _tool(self, name: str) -> ipywidgets.ToggleButton:
        label, icon, tip = _TOOLS[name]
        toggle = ipywidgets.ToggleButton(
            description=label, icon=icon, tooltip=tip, layout=dict(_COMPACT)
        )
        toggle.add_class(f"dragwidget-tool-{name}")

        def choose(is_on: bool) -> None:
            if is_on:
                self._canvas.tool = name
            self.update()  # the tool that is on cannot be switched off

        self._listen(toggle, choose)
        return toggle

    def _button(
        self, label: str, icon: str, tip: str, action: Callable[[], Any]
    ) -> ipywidgets.Button:
        button = ipywidgets.Button(description=label, icon=icon, tooltip=tip, layout=dict(_COMPACT))
        button.on_click(lambda _: self._canvas.guarded(action))
        return button

    def _listen(self, control: Any, action: Callable[[Any], None]) -> None:
        def take(change: Any) -> None:
            if not self._is_updating:
                self._canvas.guarded(action, change["new"])

        control.observe(take, "value")

    # ------------------------------------------------------------ what they do

    def _set_size(self, size: int) -> None:
        self._canvas.brush_size = float(size)

    def _set_style(self, style: str) -> None:
        self._canvas.mask_style = style

    def _set_opacity(self, opacity: float) -> None:
        self._canvas.mask_opacity = opacity

    def _set_tint(self, colour: str) -> None:
        self._canvas.mask_tint = colour

    def _select(self, value: tuple[int, str] | None) -> None:
        if value is None:
            self._canvas.select(None)
        else:
            self._canvas.select(*value)

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


def _tip(control: Any, text: str) -> Any:
    set_tooltip(control, text)
    return control


def _row(controls: list[Any]) -> ipywidgets.HBox:
    layout = {"flex_flow": "row wrap", "align_items": "center", "max_width": "100%"}
    return ipywidgets.HBox(controls, layout=layout)


def _gap() -> ipywidgets.Box:
    return ipywidgets.Box(layout={"width": "8px"})
