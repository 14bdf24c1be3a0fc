"""What each key does on the canvas; every one has a button too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragwidget.ui.canvas import DragCanvas

TOOL_KEYS = {
    "p": "points",
    "b": "brush",
    "e": "eraser",
    "l": "lasso",
    "r": "rectangle",
    "h": "pan",
}
ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}
WIDGET_KEYS = {" ": "run", "s": "step"}
SIZE_STEP = 1.2
ZOOM_STEP = 2**0.5
_STYLES = ("darken", "tint", "hidden")


def press_key(canvas: DragCanvas, key: str, shift: bool, command: bool) -> None:
    """Do what a key means; ``command``: Ctrl or Cmd is down. Any other key does nothing."""
    if command:
        _with_command(canvas, key.lower(), shift)
        return
    if key in TOOL_KEYS:
        canvas.tool = TOOL_KEYS[key]
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


def _edit(canvas: DragCanvas, key: str, shift: bool) -> None:
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


def _with_command(canvas: DragCanvas, key: str, shift: bool) -> None:
    if canvas.read_only:
        return
    if key == "y" or (key == "z" and shift):
        canvas.redo()
    elif key == "z":
        canvas.undo()
