"""Choose the model, and the LoRA files that change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets
from ipywidgets import Layout

from dragwidget.diffusion.loading import EMBEDDED
from dragwidget.ui.styles import escape
from dragwidget.ui.tooltips import set_tooltip
from dragwidget.ui.widget.layout import allow
from dragwidget.ui.widget.lora_field import LoRAField

if TYPE_CHECKING:
    from dragwidget.diffusion.backbone import Backbone

TOOLTIP = "Load this model for the same image; points, mask and prompt stay"


class ModelPanel(ipywidgets.VBox):
    """Panel with the name of a model, a button that loads it, and its LoRA files.

    Args:
        load: called with the name.

    Attributes:
        name: the field, which offers the embedded models and those that were in use.
        button: loads what the field names.
        loras: the LoRA files.
    """

    def __init__(self, load: Callable[[str], object]) -> None:
        self.name = ipywidgets.Combobox(
            description="Name", options=list(EMBEDDED), ensure_option=False,
            placeholder="name, Hub id, folder or .safetensors file",
            layout=Layout(flex="1 1 0", width="auto", min_width="0"),
            style={"description_width": "52px"},
        )  # fmt: skip
        self.name.add_class("dragwidget-model-name")
        set_tooltip(
            self.name,
            "An embedded model, an id owner/model of the Hugging Face hub, a diffusers folder, or "
            "a checkpoint file",
        )
        self.button = ipywidgets.Button(description="Load", layout=Layout(width="72px"))
        self.button.add_class("dragwidget-load")
        self.button.on_click(lambda _: load(self.name.value))
        self.loras = LoRAField()
        row = ipywidgets.HBox([self.name, self.button], layout=Layout(width="100%"))
        self._line = ipywidgets.HTML(layout=Layout(width="auto", min_height="28px"))
        super().__init__([row, self._line, self.loras])
        self.allow("")

    def show(self, model: Backbone) -> None:
        """Show the model in use, and offer it from now on."""
        if model.name not in self.name.options:
            self.name.options = [*self.name.options, model.name]
        self.name.value = model.name

    def say(self, text: str) -> None:
        """Show what became of loading beside the button: all else may be scrolled away."""
        self._line.value = f'<div class="dragwidget-model">{escape(text)}</div>'

    def allow(self, why_not: str) -> None:
        """Disable the button, with the reason as its tooltip; enable it if there is none."""
        allow(self.button, why_not, TOOLTIP)
