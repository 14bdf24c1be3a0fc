"""Compose the line under the canvas."""

from __future__ import annotations

import html

import numpy as np

from dragwidget.data.instructions import MAX_PAIRS
from dragwidget.ui.canvas.sketch import Sketch
from dragwidget.ui.canvas.tools import Tool, Unfinished


def hint(tool: Tool, unfinished: Unfinished | None, *, clicks: bool, keys: bool) -> str:
    """Return the hint for the next action.

    Args:
        tool: the current tool.
        unfinished: its unfinished gesture, if any.
        clicks: whether mouse clicks draw.
        keys: whether keyboard shortcuts act.
    """
    if unfinished is not None:
        return unfinished.hint(keys) + ("; Esc cancels." if keys else "; Undo reverts it.")
    return f"{tool.hint}{tool.by_click if clicks else ''}."


def describe(sketch: Sketch | None) -> str:
    """Return the editable share and the number of pairs, with a warning where they conflict."""
    if sketch is None:
        return "no image yet"
    count = len(sketch.pairs)
    pairs = {0: "no pair", 1: "1 pair"}.get(count, f"{count} pairs")
    mask = sketch.mask
    editable = 0 if mask is None else int(np.count_nonzero(mask))
    if mask is None:
        text = f"no mask: all editable, {pairs}"
    else:
        text = f"{percent(editable, mask.size)} editable, {pairs}"
    if count == MAX_PAIRS:
        return f"{text}. No more than {MAX_PAIRS} pairs can be dragged"
    if mask is None:
        return text
    if not editable:
        return f"{text}. Nothing is editable: paint a region, or remove the mask"
    protected = [
        str(number)
        for number, pair in enumerate(sketch.pairs, start=1)
        if not mask[int(pair.handle[1]), int(pair.handle[0])]
    ]
    if len(protected) == 1:
        text += f". Handle {protected[0]} is in the protected region"
    elif protected:
        shown = ", ".join(protected[:5]) + (" ..." if len(protected) > 5 else "")
        text += f". Handles {shown} are in the protected region"
    return text


def percent(part: int, whole: int) -> str:
    """Return a share in percent: never "0 %" of something, nor "100 %" of less than all."""
    share = 100 * part / whole
    if 0 < share < 1:
        return "under 1 %"
    if 99 < share < 100:
        return "over 99 %"
    return f"{round(share)} %"


def as_html(text: str, hint: str = "", error: str = "") -> str:
    """Return two lines at most that a screen reader announces; warnings are words, not colours."""
    first, _, warning = text.partition(". ")
    loud = error or warning
    strong = f". <b>&#9888; {html.escape(loud)}</b>" if loud else ""
    hint = "" if loud else hint
    soft = f' <span style="opacity:.65">&middot; {html.escape(hint)}</span>' if hint else ""
    rest = loud or hint
    whole = html.escape(f"{first}. {rest}" if rest else first)  # what is cut off can be pointed at
    # As wide as there is room, and no wider: a long line would widen what it stands in. Always as
    # high as two lines: nothing below moves, and in a narrow window a warning is read whole.
    return (
        f'<div role="status" title="{whole}" style="width:0;min-width:100%;height:2.8em;'
        f'overflow:hidden;line-height:1.4">'
        f"{html.escape(first)}{strong}{soft}</div>"
    )
