"""Trait types of a canvas."""

from __future__ import annotations

from typing import Any

import traitlets

from dragwidget.ui.canvas.tools import TOOLS


class Clamped(traitlets.Float[float, float | int]):
    """A number, clamped to [low, high]."""

    def __init__(self, default: float, low: float, high: float) -> None:
        super().__init__(default)
        self.low, self.high = low, high

    def validate(self, obj: Any, value: Any) -> float:
        return float(min(max(super().validate(obj, value), self.low), self.high))


class HexColor(traitlets.Unicode[str, str | bytes]):
    """A colour like "#ff2d87"."""

    def validate(self, obj: Any, value: Any) -> str:
        colour: str = super().validate(obj, value)
        if len(colour) != 7 or colour[0] != "#" or set(colour[1:]) - set("0123456789abcdefABCDEF"):
            raise traitlets.TraitError(f'{self.name} must be a colour "#rrggbb", got {colour!r}')
        return colour


class ToolName(traitlets.Unicode[str, str | bytes]):
    """The name of a tool in ``TOOLS``."""

    def validate(self, obj: Any, value: Any) -> str:
        name: str = super().validate(obj, value)
        if name not in TOOLS:
            raise traitlets.TraitError(f"tool must be one of {', '.join(TOOLS)}, got {name!r}")
        return name
