"""Name the LoRA files that change the model, one a line with its weight."""

from __future__ import annotations

from typing import Any

import ipywidgets
from ipywidgets import Layout

from dragwidget.ui.tooltips import set_tooltip


class LoRAField(ipywidgets.Textarea):
    """Text of LoRA files and their weights; a line without a number at its end has weight 1."""

    def __init__(self) -> None:
        super().__init__(
            description="LoRAs", placeholder="style.safetensors 0.8", rows=2,
            continuous_update=False, layout=Layout(width="auto"),
            style={"description_width": "52px"},
        )  # fmt: skip
        self.add_class("dragwidget-loras")
        set_tooltip(
            self, "LoRA files that are added to the model, one a line with its weight, 1 by default"
        )
        self._shown: dict[str, Any] = {}

    def show(self, styles: Any) -> None:
        """Show LoRAs with their weights; one that was not read from a file by its digest."""
        names = [style.path or f"LoRA {style.digest[:12]}" for style, _ in styles]
        self._shown = {name: style for name, (style, _) in zip(names, styles, strict=True)}
        weights = [f"{weight!r}" for _, weight in styles]
        self.value = "\n".join(map(" ".join, zip(names, weights, strict=True)))

    @property
    def given(self) -> list[tuple[Any, float]]:
        """Pairs of a file, or of a LoRA that is shown already, and its weight."""
        pairs = [_pair(line.strip()) for line in self.value.splitlines() if line.strip()]
        return [(self._shown.get(name, name), weight) for name, weight in pairs]


def _pair(line: str) -> tuple[str, float]:
    name, _, last = line.rpartition(" ")
    try:
        weight = float(last)
    except ValueError:
        return line, 1.0
    return (name.strip(), weight) if name else (line, 1.0)
