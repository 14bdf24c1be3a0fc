"""The warnings about what a model distilled for a few steps is not made for."""

from __future__ import annotations

from dragwidget.data.presets import FEW_STEPS, METHOD_TITLES, WARPS
from dragwidget.data.settings import Settings
from dragwidget.data.user_warning import warn_user
from dragwidget.diffusion.backbone import Backbone

__all__ = ["few_step_warning", "warn_of_guidance", "warn_once"]


def few_step_warning(model: Backbone, settings: Settings) -> str:
    """Return a warning where a model of a few steps is to be dragged by gradients; else empty."""
    if not model.few_step or settings.drag.method in WARPS:
        return ""
    title = METHOD_TITLES.get(settings.drag.method, settings.drag.method)
    return (
        f"The model {model.name} was distilled for a few steps ({model.few_step}), and {title} "
        f"takes up to {settings.drag.steps} gradient updates, many at one timestep, which such a "
        f"model is not made for: the edit may fall apart. Use the preset {FEW_STEPS}, or the "
        f"method {' or '.join(WARPS)}"
    )


def warn_once(model: Backbone, settings: Settings, before: Settings | None) -> None:
    """Warn of a method that was not asked for before; see ``few_step_warning``."""
    warning = few_step_warning(model, settings)
    if warning and (before is None or not few_step_warning(model, before)):
        warn_user(warning)


def warn_of_guidance(model: Backbone, scale: float) -> None:
    """Warn of classifier-free guidance of a model of a few steps that does not read the scale."""
    if model.few_step and not model.embeds_guidance and scale > 1:
        warn_user(
            f"The model {model.name} was distilled for a few steps ({model.few_step}). Most such "
            "models hold their guidance already, and classifier-free guidance makes their images "
            f"worse: guidance_scale=1 is none, got {scale:g}"
        )
