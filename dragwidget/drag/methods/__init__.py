"""The drag methods by name, one file each; ``METHODS[name] = method`` adds one."""

from __future__ import annotations

from dragwidget.drag.method import DragMethod
from dragwidget.drag.methods.dragdiffusion import DragDiffusion

__all__ = ["METHODS", "method_named"]

METHODS: dict[str, DragMethod] = {"dragdiffusion": DragDiffusion()}


def method_named(name: str) -> DragMethod:
    """The method of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(
            f"there is no drag method {name!r}; there are {', '.join(map(repr, sorted(METHODS)))}: "
            "set DragSettings.method"
        )
    return METHODS[name]
