"""Act on keys; every key has a button too."""

from __future__ import annotations

from typing import Protocol

from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.tools import TOOLS

ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}
WIDGET_KEYS = {" ": "run", "s": "step"}
SIZE_STEP = 1.2
ZOOM_STEP = 2**0.5
_STYLES = ("darken", "tint", "hidden")
EDIT_KEYS = (*ARROWS, "Delete", "Backspace", "Enter", "Escape")
OTHER_KEYS = (*WIDGET_KEYS, *"?x[]+=-0m123456789", *EDIT_KEYS, "Mod+z", "Mod+y")
MEANINGS = (  # beside the tools; the page itself acts on "?", see canvas.js
    ("x", "Brush, or eraser"),
    ("[ and ]", "Smaller or larger brush"),
    ("m", "Darken, tint or hide the mask"),
    ("1 to 9", "Select a pair"),
    ("Arrows", "Move the selected point by 1 pixel, with Shift by 10"),
    ("Delete", "Delete the selected pair"),
    ("Enter", "Close the lasso"),
    ("Esc", "Cancel what is half drawn"),
    ("Ctrl+Z", "Undo; with Shift, or Ctrl+Y: redo"),
    ("+ and -", "Zoom; so does Ctrl with the mouse wheel"),
    ("0", "Fit the whole image"),
    ("Space", "Run, or pause"),
    ("s", "Take one drag step"),
    ("?", "Show or hide this list"),
)


class KeyHost(Protocol):
    """What keys need of the canvas."""

    tool: str
    mask_style: str
    selected: int | None
    pairs: tuple[PointPair, ...]
    read_only: bool

    def tell_key(self, name: str) -> None: ...
    def scale_brush(self, factor: float) -> None: ...
    def zoom_by(self, factor: float) -> None: ...
    def fit(self) -> None: ...
    def select(self, index: int | None, end: str = ...) -> None: ...
    def nudge(self, dx: float, dy: float) -> None: ...
    def delete_pair(self, index: int) -> None: ...
    def close_lasso(self) -> None: ...
    def cancel_gesture(self) -> bool: ...
    def undo(self) -> bool: ...
    def redo(self) -> bool: ...


def known_keys() -> list[str]:
    """Return all keys that act, "Mod+" before one with Ctrl or Cmd, with or without Shift."""
    return [*_tool_keys(), *OTHER_KEYS]


def key_help() -> list[tuple[str, str]]:
    """Return keys and what they do, tools first."""
    tools = [(tool.key, f"Tool: {tool.label}") for tool in TOOLS.values() if tool.key]
    return [*tools, *MEANINGS]


def _tool_keys() -> dict[str, str]:
    return {tool.key: tool.name for tool in TOOLS.values() if tool.key}


def press_key(canvas: KeyHost, key: str, shift: bool, command: bool) -> None:
    """Act on a key; ``command``: with Ctrl or Cmd. Unknown keys do nothing."""
    if command:
        _with_command(canvas, key.lower(), shift)
        return
    if key in _tool_keys():
        canvas.tool = _tool_keys()[key]
    elif key in WIDGET_KEYS:
        canvas.tell_key(WIDGET_KEYS[key])
    elif key == "x":
        canvas.tool = "brush" if canvas.tool == "eraser" else "eraser"
    elif key in ("[", "]"):
        canvas.scale_brush(SIZE_STEP if key == "]" else 1 / SIZE_STEP)
    elif key in ("+", "=", "-"):
        canvas.zoom_by(1 / ZOOM_STEP if key == "-" else ZOOM_STEP)
    elif key == "0":
        canvas.fit()
    elif key == "m":
        canvas.mask_style = _STYLES[(_STYLES.index(canvas.mask_style) + 1) % len(_STYLES)]
    elif len(key) == 1 and key in "123456789":
        if int(key) <= len(canvas.pairs):
            canvas.select(int(key) - 1)
    elif not canvas.read_only:
        _edit(canvas, key, shift)


def _edit(canvas: KeyHost, key: str, shift: bool) -> None:
    if key in ARROWS:
        dx, dy = ARROWS[key]
        far = 10 if shift else 1
        canvas.nudge(dx * far, dy * far)
    elif key in ("Delete", "Backspace"):
        if canvas.selected is not None:
            canvas.delete_pair(canvas.selected)
    elif key == "Enter":
        canvas.close_lasso()
    elif key == "Escape":
        canvas.cancel_gesture()


def _with_command(canvas: KeyHost, key: str, shift: bool) -> None:
    if canvas.read_only:
        return
    if key == "y" or (key == "z" and shift):
        canvas.redo()
    elif key == "z":
        canvas.undo()
