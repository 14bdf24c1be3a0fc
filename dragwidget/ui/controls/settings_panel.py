"""``SettingsPanel``: all settings of an edit as labelled controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from threading import RLock
from typing import Any

import ipywidgets as widgets
import traitlets

from dragwidget.data.settings import Settings
from dragwidget.ui.controls.fields import FIELDS, TITLES
from dragwidget.ui.controls.rows import CHANGED, Row
from dragwidget.ui.styles import STYLE, error_line, escape
from dragwidget.ui.tooltips import set_tooltip

CUSTOM = "Custom"
ESSENTIAL = {  # what an edit most depends on, and its label beside the others
    ("inversion", "strength"): "Strength",
    ("drag", "steps"): "Drag steps",
    ("lora", "steps"): "LoRA steps",
}
STAGES = tuple(stage.name for stage in fields(Settings))


class SettingsPanel(widgets.VBox):
    """Panel of inversion, LoRA, drag and render settings, with their meanings.

    A setting that differs from the recommended one carries a dot and a reset button.

    Args:
        settings: initial settings; by default the recommended ones.
        recommended: the settings that the model recommends.
        paper: the settings of DragDiffusion's paper; by default ``Settings()``, which has them.
        presets: more presets, by name.
        check: raises ``ValueError`` for settings that the model does not support.

    Attributes:
        settings: a ``Settings``, replaced as a whole; observe it, or set it.
        essentials: a box to place elsewhere: the preset, and the settings that matter most.
        error: why the user's last change was refused; empty if it was not. The settings before
            it stay.

    Raises:
        traitlets.TraitError: ``settings`` is set to anything else.
        ValueError: ``settings`` is set to settings that ``check`` refuses.
    """

    settings = traitlets.Instance(Settings)
    error = traitlets.Unicode("")

    def __init__(
        self,
        settings: Settings | None = None,
        recommended: Settings | None = None,
        paper: Settings | None = None,
        presets: Mapping[str, Settings] | None = None,
        check: Callable[[Settings], object] | None = None,
    ) -> None:
        self._lock = RLock()  # what is shown is written by one thread at a time
        self._ready = self._showing_preset = False
        self._check, self._recommended = check, recommended or Settings()
        self._paper, self._more_presets = paper or Settings(), dict(presets or {})

        self.rows = {
            stage: {
                name: Row(field, self._editor(stage, name)) for name, field in FIELDS[stage].items()
            }
            for stage in STAGES
        }
        self._essential = {
            (stage, name): Row(replace(FIELDS[stage][name], label=label), self._editor(stage, name))
            for (stage, name), label in ESSENTIAL.items()
        }
        self.preset = widgets.Dropdown(
            description="Preset",
            style={"description_width": "52px"},
            layout=widgets.Layout(flex="1 1 0%", width="auto", min_width="0", margin="2px"),
        )
        self.preset.observe(self._choose_preset, "value")
        self.reset_button = widgets.Button(
            description="↺ Reset all",
            tooltip="Reset all settings to the recommended ones",
            layout=widgets.Layout(width="auto", flex="none", margin="2px", padding="0 8px"),
        )
        self.reset_button.on_click(lambda _: self._try(lambda: self._recommended))
        self.tabs = widgets.Tab(
            [self._page(stage) for stage in STAGES],
            selected_index=STAGES.index("drag"),
            layout=widgets.Layout(width="100%", margin="0"),
        )
        self.message = widgets.HTML(
            error_line(None), layout=widgets.Layout(margin="0", min_height="22px", width="100%")
        )
        top = widgets.HBox(
            [self.preset, self.reset_button], layout=widgets.Layout(width="100%", margin="0 0 4px")
        )
        super().__init__(
            [widgets.HTML(STYLE, layout=_NO_SPACE), top, self.tabs, self.message],
            layout=widgets.Layout(width="100%", min_width="0"),
        )
        self.add_class("dragwidget-settings")
        self.essentials = widgets.VBox(
            [widgets.HBox([self.preset]), *self._essential.values(), self.message],
            layout=widgets.Layout(width="100%", min_width="0"),
        )
        self.essentials.add_class("dragwidget-essentials")
        self.settings = settings or self._recommended
        self._ready = True
        self._show()

    def _page(self, stage: str) -> widgets.VBox:
        meanings = "".join(
            f"<dt>{escape(field.label)}</dt><dd>{escape(field.help)}</dd>"
            for field in FIELDS[stage].values()
        )
        explained = widgets.HTML(
            '<details class="dragwidget-help"><summary>Help</summary>'
            f"<dl>{meanings}</dl></details>",
            layout=widgets.Layout(margin="4px 0 0", width="100%"),
        )
        return widgets.VBox(
            [*self.rows[stage].values(), explained], layout=widgets.Layout(width="100%")
        )

    # From Python

    @property
    def recommended(self) -> Settings:
        """The settings that the model recommends; others are marked."""
        return self._recommended

    @recommended.setter
    def recommended(self, recommended: Settings) -> None:
        self._recommended = recommended
        self._show()

    def offer(
        self,
        recommended: Settings,
        paper: Settings,
        presets: Mapping[str, Settings],
        check: Callable[[Settings], object],
    ) -> None:
        """Offer what another model recommends and accepts; ``settings`` stay until they are set."""
        self._check, self._paper, self._more_presets = check, paper, dict(presets)
        self.recommended = recommended

    @property
    def presets(self) -> dict[str, Settings]:
        """All presets, by name."""
        return {"Recommended": self._recommended, "Paper": self._paper, **self._more_presets}

    def changed(self, stage: str) -> list[str]:
        """Return the names of a stage's settings that are not as recommended."""
        now, wanted = getattr(self.settings, stage), getattr(self._recommended, stage)
        return [name for name in FIELDS[stage] if getattr(now, name) != getattr(wanted, name)]

    def reset(self, stage: str | None = None, name: str | None = None) -> None:
        """Reset everything, one stage, or one setting to the recommended values."""
        if stage is None:
            self.settings = self._recommended
            return
        wanted = getattr(self._recommended, stage)
        if name is not None:
            wanted = replace(getattr(self.settings, stage), **{name: getattr(wanted, name)})
        self.settings = replace(self.settings, **{stage: wanted})

    @traitlets.validate("settings")
    def _refuse_what_the_model_cannot(self, proposal: Any) -> Settings:
        settings: Settings = proposal["value"]
        if self._check is not None:
            self._check(settings)
        return settings

    @traitlets.observe("settings")
    def _on_settings(self, change: Any) -> None:  # noqa: ARG002 - all is shown
        if self._ready:
            self.error = ""
            self._show()

    @traitlets.observe("error")
    def _on_error(self, change: Any) -> None:
        self.message.value = error_line(change["new"])

    # From the page

    def _editor(self, stage: str, name: str) -> Callable[[Any], None]:
        def edit(value: Any) -> None:
            def changed() -> Settings:
                record = replace(getattr(self.settings, stage), **{name: value})
                return replace(self.settings, **{stage: record})

            self._try(changed)
            # The name of the record is one that the user has not seen.
            said = f"{type(getattr(self.settings, stage)).__name__}.{name}"
            self.error = self.error.replace(said, FIELDS[stage][name].label)

        return edit

    def _try(self, make: Callable[[], Settings]) -> None:
        """Apply settings; if they are refused, show why and the settings that still hold."""
        try:
            self.settings = make()
            self.error = ""
        except (TypeError, ValueError, traitlets.TraitError) as problem:
            self.error = str(problem)
            self._show()

    def _choose_preset(self, change: Any) -> None:
        if not self._showing_preset and change["new"] in self.presets:
            self._try(lambda: self.presets[change["new"]])
        self._show()

    # What is seen

    def _show(self) -> None:
        with self._lock:
            changed = 0
            for i, stage in enumerate(STAGES):
                now, wanted = getattr(self.settings, stage), getattr(self._recommended, stage)
                for name, row in self.rows[stage].items():
                    row.show(getattr(now, name), getattr(wanted, name))
                different = len(self.changed(stage))
                changed += different
                title = (CHANGED if different else "") + TITLES[stage]
                if self.tabs.get_title(i) != title:
                    self.tabs.set_title(i, title)
            for (stage, name), row in self._essential.items():
                shown = (getattr(all_of, stage) for all_of in (self.settings, self._recommended))
                row.show(*(getattr(record, name) for record in shown))
            self._show_preset()
            self.reset_button.disabled = not changed
            tooltip = (
                f"Reset {changed} changed setting{'s' * (changed > 1)} to the recommended values"
                if changed
                else "All settings are as recommended"
            )
            set_tooltip(self.reset_button, tooltip)

    def _show_preset(self) -> None:
        presets = self.presets
        fitting = next((n for n, s in presets.items() if s == self.settings), CUSTOM)
        self._showing_preset = True
        try:
            options = [*presets, CUSTOM] if fitting == CUSTOM else [*presets]
            if list(self.preset.options) != options:
                self.preset.options = options
            self.preset.value = fitting
        finally:
            self._showing_preset = False


_NO_SPACE = {"height": "0", "margin": "0", "overflow": "hidden"}
