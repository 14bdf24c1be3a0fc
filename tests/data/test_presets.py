"""What the authors of each method recommend, and what models of a few steps need."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dragwidget.data.presets import METHOD_SETTINGS, WARPS, presets, with_method, with_preset
from dragwidget.data.settings import (
    DragSettings,
    InversionSettings,
    LoRASettings,
    RenderSettings,
    Settings,
)
from dragwidget.drag.methods import METHODS

MODELS_OWN = Settings(
    inversion=InversionSettings(steps=40, strength=0.6),
    lora=LoRASettings(steps=0),
    drag=DragSettings(start="warped", feature_blocks=(2,), feature_scale=0.25, steps=33),
    render=RenderSettings(start_layer=3),
)


def test_there_are_settings_for_every_method():
    assert METHOD_SETTINGS.keys() == METHODS.keys() >= set(WARPS)


def test_gooddrags_settings_are_its_authors_with_the_sources_pixels_outside_the_mask():
    settings = with_method(Settings(), "gooddrag")
    assert settings == Settings(
        inversion=InversionSettings(steps=50, strength=0.75),
        lora=LoRASettings(steps=70),
        drag=DragSettings(
            method="gooddrag", steps=210, learning_rate=0.02, motion_radius=4, tracking_radius=12,
            step_length=4.0, region_weight=0.2, patience=10, template="original",
            drag_timesteps=7, tracks_per_timestep=10, updates_per_track=3, loss_threshold=0,
        ),
        render=RenderSettings(keep_source_pixels=True),
    )  # fmt: skip
    drag = settings.drag
    assert drag.steps == drag.drag_timesteps * drag.tracks_per_timestep * drag.updates_per_track


def test_a_warp_trains_and_optimises_nothing():
    settings = with_method(Settings(), "warp")
    assert settings == Settings(
        inversion=InversionSettings(method="lookahead"),
        lora=LoRASettings(steps=0),
        drag=DragSettings(
            method="warp", warp_field="stretch", warp_combine="winner", warp_holes="noise"
        ),
        render=RenderSettings(keep_protected=True, keep_source_pixels=True),
    )


def test_a_progressive_warp_leaves_inversion_and_lora_as_they_suit_the_model():
    settings = with_method(MODELS_OWN, "progressive")
    assert (settings.inversion, settings.lora) == (MODELS_OWN.inversion, MODELS_OWN.lora)
    assert settings.render == RenderSettings(
        start_layer=3, keep_protected=True, keep_source_pixels=True
    )
    assert settings.drag == DragSettings(
        method="progressive", feature_blocks=(2,), feature_scale=0.25, step_length=0.4,
        updates_per_track=2, stop_distance=0.5,
    )  # fmt: skip


def test_the_papers_settings_are_the_defaults():
    assert with_method(with_method(Settings(), "gooddrag"), "dragdiffusion") == Settings()


def test_what_suits_the_model_stays():
    settings = with_method(MODELS_OWN, "gooddrag")
    assert settings.drag.feature_blocks == (2,)
    assert settings.drag.feature_scale == 0.25
    assert settings.inversion == InversionSettings(steps=40, strength=0.75)
    assert settings.lora == MODELS_OWN.lora
    assert settings.render == replace(MODELS_OWN.render, keep_source_pixels=True)
    assert with_method(MODELS_OWN, "dragdiffusion") is MODELS_OWN


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="there are the drag methods 'dragdiffusion', 'gooddrag'"):
        with_method(Settings(), "magic")


def test_a_model_has_a_preset_for_every_other_method_that_fits_it():
    assert presets(MODELS_OWN)["GoodDrag"] == with_method(MODELS_OWN, "gooddrag")
    short = replace(MODELS_OWN, inversion=InversionSettings(steps=6))
    assert "GoodDrag" not in presets(short)
    good = with_method(MODELS_OWN, "gooddrag")
    assert "DragDiffusion" in presets(good)
    assert "GoodDrag" not in presets(good)


@pytest.mark.parametrize("method", ["warp", "progressive"])
def test_few_steps_leave_a_warp_as_it_is(method):
    before = with_method(MODELS_OWN, method)
    settings = with_preset(before, "few-step")
    assert (settings.drag, settings.render) == (before.drag, before.render)
    assert settings.inversion == InversionSettings(
        steps=10, strength=0.7, method="lookahead", spacing="trailing"
    )
    assert settings.lora == LoRASettings(steps=0)


@pytest.mark.parametrize("method", ["dragdiffusion", "gooddrag"])
def test_few_steps_take_the_place_of_gradients_at_one_timestep(method):
    settings = with_preset(with_method(MODELS_OWN, method), "few-step")
    assert settings.drag == with_method(MODELS_OWN, "warp").drag


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="there are the presets few-step, got 'magic'"):
        with_preset(Settings(), "magic")


def test_few_steps_are_in_the_menu_unless_the_model_recommends_them():
    assert presets(MODELS_OWN)["Few-step"] == with_preset(MODELS_OWN, "few-step")
    assert "Few-step" not in presets(with_preset(MODELS_OWN, "few-step"))
