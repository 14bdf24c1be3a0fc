"""Close widgets with everything that they made: layouts, styles and hidden parts are models too.

``Widget.close`` closes one model and its comm. What it displays, its layout and its style stay
registered, and with them all that their callbacks hold.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ipywidgets

_OURS = "dragwidget.ui."
_later: weakref.WeakSet[Any] = weakref.WeakSet()


def close_all(root: Any) -> None:
    """Close a widget, or a list of widgets, and every widget that it or its parts hold."""
    for widget in list(_widgets_in(root)):
        if widget not in _later:
            widget.unobserve_all()
            ipywidgets.Widget.close(widget)


def close_later(widgets: Iterable[Any]) -> Callable[[], None]:
    """Let ``close_all`` skip these widgets; return a function that closes them, thread-safe."""
    kept = list(widgets)
    _later.update(kept)

    def close() -> None:
        _later.difference_update(kept)
        close_all(kept)

    return close


def _widgets_in(root: Any) -> Iterator[ipywidgets.Widget]:
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part  # held, or another object could get its id
        if isinstance(part, list | tuple):
            waiting.extend(part)
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, ipywidgets.Widget):
            if type(part).__name__ == "_CanvasManager":  # one for all canvases of a kernel
                continue
            yield part
            waiting.extend(part._trait_values.values())
            waiting.extend(vars(part).values())
        elif type(part).__module__.startswith(_OURS):
            waiting.extend(getattr(part, "__dict__", {}).values())
