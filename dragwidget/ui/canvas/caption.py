"""What the line under the canvas says."""

from __future__ import annotations

import html

import numpy as np

from dragwidget.data.instructions import MAX_PAIRS
from dragwidget.ui.canvas.sketch import Sketch

HINTS = {
    "points": "Press on a point and drag it to where it should go.",
    "brush": "Paint over what may change.",
    "eraser": "Paint over what must stay.",
    "lasso": "Draw round what may change, or click corner by corner.",
    "rectangle": "Drag a rectangle over what may change.",
    "pan": "Drag the image; + and - zoom.",
    "probe": "Click a point to look at.",
}


def describe(sketch: Sketch | None) -> str:
    """How much may change and how many pairs there are; a warning where they do not agree."""
    if sketch is None:
        return "no image yet"
    count = len(sketch.pairs)
    pairs = {0: "no pair", 1: "1 pair"}.get(count, f"{count} pairs")
    mask = sketch.mask
    allowed = 0 if mask is None else int(np.count_nonzero(mask))
    if mask is None:
        text = f"no mask: everything may change, {pairs}"
    else:
        text = f"{percent(allowed, mask.size)} may change, {pairs}"
    if count == MAX_PAIRS:
        return f"{text}. No more than {MAX_PAIRS} pairs can be dragged"
    if mask is None:
        return text
    if not allowed:
        return f"{text}. Nothing may change: paint what may, or drop the mask"
    protected = [
        str(number)
        for number, pair in enumerate(sketch.pairs, start=1)
        if not mask[int(pair.handle[1]), int(pair.handle[0])]
    ]
    if len(protected) == 1:
        text += f". Handle {protected[0]} lies in the protected area"
    elif protected:
        shown = ", ".join(protected[:5]) + (" ..." if len(protected) > 5 else "")
        text += f". Handles {shown} lie in the protected area"
    return text


def percent(part: int, whole: int) -> str:
    """Never "0 %" of something, nor "100 %" of less than all."""
    share = 100 * part / whole
    if 0 < share < 1:
        return "under 1 %"
    if 99 < share < 100:
        return "over 99 %"
    return f"{round(share)} %"


def as_html(text: str, hint: str = "", error: str = "") -> str:
    """One quiet line that a screen reader announces; warnings are words, not colours."""
    first, _, warning = text.partition(". ")
    loud = error or warning
    strong = f". <b>&#9888; {html.escape(loud)}</b>" if loud else ""
    hint = "" if loud else hint
    soft = f' <span style="opacity:.65">&middot; {html.escape(hint)}</span>' if hint else ""
    rest = loud or hint
    whole = html.escape(f"{first}. {rest}" if rest else first)  # what is cut off can be pointed at
    # As wide as there is room, and no wider: a long line would widen what it stands in, and so be
    # cut off at a border that it does not know.
    return (
        f'<div role="status" title="{whole}" style="width:0;min-width:100%;white-space:nowrap;'
        f'overflow:hidden;text-overflow:ellipsis;line-height:1.6">'
        f"{html.escape(first)}{strong}{soft}</div>"
    )
