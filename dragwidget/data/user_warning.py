"""Warnings that point to the line of whoever called the package."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

_PACKAGE = __name__.partition(".")[0]


def warn_user(message: str) -> None:
    """Give a ``UserWarning`` at the innermost line that is not of this package.

    ``stacklevel=`` counts frames, and would have to be right for every way into the package.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] in (_PACKAGE, "contextlib", "functools")
