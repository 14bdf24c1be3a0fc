"""What the authors of each drag method recommend, and what models of a few steps need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from dragwidget.data.quoting import quoted
from dragwidget.data.settings import DragSettings, Settings

METHOD_TITLES = {
    "dragdiffusion": "DragDiffusion",
    "gooddrag": "GoodDrag",
    "warp": "Warp",
    "progressive": "Progressive warp",
}

METHOD_SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "dragdiffusion": {
        "inversion": {"strength": 0.7},
        "lora": {"steps": 80},
        "drag": {},
        "render": {"keep_source_pixels": False},
    },
    "gooddrag": {
        "inversion": {"strength": 0.75},
        "lora": {"steps": 70},
        "drag": {
            "steps": 210,  # 7 timesteps, 10 trackings at each, 3 updates for each
            "learning_rate": 0.02,
            "motion_radius": 4,
            "tracking_radius": 12,
            "step_length": 4.0,
            "region_weight": 0.2,
            "patience": 10,
            "template": "original",
        },
        "render": {"keep_source_pixels": True},
    },
    "warp": {  # FastDrag's field with two changes of LazyDrag's
        "inversion": {"strength": 0.7, "method": "lookahead"},
        "lora": {"steps": 0},
        "drag": {"warp_field": "stretch", "warp_combine": "winner", "warp_holes": "noise"},
        "render": {"keep_protected": True, "keep_source_pixels": True},
    },
    "progressive": {  # ours; of the inversion and the LoRA it asks nothing
        "inversion": {},
        "lora": {},
        "drag": {"step_length": 0.4, "updates_per_track": 2, "stop_distance": 0.5},
        "render": {"keep_protected": True, "keep_source_pixels": True},
    },
}
"""For each method the values that its authors recommend, as far as they are no defaults.

All but the paper's also keep the source's pixels outside the mask, as an editor of images does.
"""

WARPS = ("warp", "progressive")
"""The methods that move content by a warp: what a model distilled for a few steps can do."""

FEW_STEPS = "few-step"
PRESETS = (FEW_STEPS,)
"""The names that ``with_preset`` takes."""
_FEW_STEPS: Mapping[str, Mapping[str, Any]] = {
    # FastDrag's numbers (arXiv 2405.15769), with a latent consistency model. By trailing timesteps
    # these 10 are the ones of diffusers' LCMScheduler.
    "inversion": {"steps": 10, "strength": 0.7, "method": "lookahead", "spacing": "trailing"},
    "lora": {"steps": 0},
}


def with_method(settings: Settings, method: str) -> Settings:
    """Return settings for another drag method, as its authors recommend them.

    Args:
        settings: what suits the model: their feature blocks and scale, inversion steps, attention
            layers and choice to train no LoRA stay. With the same method they are returned as is.
        method: name of the method.

    Returns:
        The settings, with those of the method changed.

    Raises:
        ValueError: there is no such method, or it does not fit the inversion.

    Examples:
        >>> with_method(Settings(), "gooddrag").drag.learning_rate
        0.02
    """
    if method not in METHOD_SETTINGS:
        known = ", ".join(map(repr, METHOD_SETTINGS))
        raise ValueError(f"there are the drag methods {known}, got {quoted(method)}")
    if settings.drag.method == method:
        return settings
    values = METHOD_SETTINGS[method]
    lora = values["lora"] if settings.lora.steps else {}
    return replace(
        settings,
        inversion=replace(settings.inversion, **values["inversion"]),
        lora=replace(settings.lora, **lora),
        render=replace(settings.render, **values.get("render", {})),
        drag=DragSettings(
            method=method,
            feature_blocks=settings.drag.feature_blocks,
            feature_scale=settings.drag.feature_scale,
            **values["drag"],
        ),
    )


def with_preset(settings: Settings, preset: str) -> Settings:
    """Return settings with those of a preset.

    ``"few-step"`` is for models, and LoRAs, that were distilled for a few steps (LCM, SD-Turbo,
    SDXL-Turbo, Hyper-SD): 10 trailing steps, 7 of them inverted by look-ahead, no LoRA training,
    and a warp. ``"warp"`` and ``"progressive"`` stay, any other method becomes ``"warp"``.

    Args:
        settings: what suits the model.
        preset: name of the preset.

    Returns:
        The settings, with those of the preset changed.

    Raises:
        ValueError: there is no such preset.

    Examples:
        >>> with_preset(Settings(), "few-step").inversion.steps
        10
    """
    if preset not in PRESETS:
        raise ValueError(f"there are the presets {', '.join(PRESETS)}, got {quoted(preset)}")
    if settings.drag.method not in WARPS:
        settings = with_method(settings, "warp")
    return replace(
        settings,
        inversion=replace(settings.inversion, **_FEW_STEPS["inversion"]),
        lora=replace(settings.lora, **_FEW_STEPS["lora"]),
    )


def presets(
    recommended: Settings, check: Callable[[Settings], object] = lambda _: None
) -> dict[str, Settings]:
    """Return what a menu offers: the settings of every other method that fits, and of few steps.

    Args:
        recommended: what suits the model.
        check: raises ValueError for settings that the model cannot take; they are not offered.
    """
    made: dict[str, Callable[[], Settings]] = {
        METHOD_TITLES[method]: partial(with_method, recommended, method)
        for method in METHOD_SETTINGS
        if method != recommended.drag.method
    }
    made["Few-step"] = partial(with_preset, recommended, FEW_STEPS)
    found = {}
    for title, make in made.items():
        with suppress(ValueError):  # its inversion may be too short for a method
            settings = make()
            check(settings)
            if settings != recommended:
                found[title] = settings
    return found
