"""Settings as labelled controls. No torch."""

from dragwidget.ui.controls.settings_panel import SettingsPanel

__all__ = ["SettingsPanel"]
