"""The drag methods by name, one file each; ``METHODS[name] = method`` adds one."""

from __future__ import annotations

from dragwidget.drag.method import DragMethod
from dragwidget.drag.methods.dragdiffusion import DragDiffusion
from dragwidget.drag.methods.gooddrag import GoodDrag
from dragwidget.drag.methods.progressive import Progressive
from dragwidget.drag.methods.warp import Warp

__all__ = ["METHODS", "method_named"]

METHODS: dict[str, DragMethod] = {
    "dragdiffusion": DragDiffusion(),
    "gooddrag": GoodDrag(),
    "warp": Warp(),
    "progressive": Progressive(),
}


def method_named(name: str) -> DragMethod:
    """Return the method of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(
            f"DragSettings.method must be one of {', '.join(map(repr, sorted(METHODS)))}, "
            f"got {name!r}"
        )
    return METHODS[name]
