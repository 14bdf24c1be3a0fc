"""Settings: the paper's defaults, what they refuse, and that they survive as plain data."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from dragwidget.data.settings import (
    DragSettings,
    InversionSettings,
    LoRASettings,
    RenderSettings,
    Settings,
)

STAGES = [InversionSettings, LoRASettings, DragSettings, RenderSettings]

# The paper's, as METHOD states them; ours are off.
PAPER = {
    InversionSettings: {
        "steps": 50,
        "strength": 0.7,
        "method": "plain",
        "iterations": 1,
        "seed": 0,
        "spacing": "model",
        "embedded_guidance": 1.0,
    },
    LoRASettings: {
        "rank": 16,
        "steps": 80,
        "learning_rate": 5e-4,
        "batch_size": 4,
        "weight_decay": 1e-2,
        "random_crop": False,
        "early_stop_ratio": 0.0,
        "seed": 0,
    },
    DragSettings: {
        "method": "dragdiffusion",
        "steps": 80,
        "learning_rate": 0.01,
        "motion_radius": 1,
        "tracking_radius": 3,
        "tracking": "window",
        "trace_back": 0.0,
        "step_length": 1.0,
        "region_weight": 0.1,
        "prior_weight": 0.0,
        "stop_distance": 2.0,
        "patience": 0,
        "extra_weight": 0.0,
        "template": "current",
        "start": "inverted",
        "reference_attention": False,
        "correspondence": 0.0,
        "feature_blocks": (-2,),
        "feature_scale": 0.5,
        "drag_timesteps": 7,
        "tracks_per_timestep": 10,
        "updates_per_track": 3,
        "loss_threshold": 0.0,
        "warp_field": "near",
        "warp_combine": "mean",
        "warp_holes": "keep",
        "warp_reach": 2.5,
    },
    RenderSettings: {
        "mutual_self_attention": True,
        "start_step": 0,
        "start_layer": 10,
        "keep_protected": False,
        "keep_source_pixels": False,
        "correspondence": 0.0,
        "correspondence_share": 0.8,
    },
}

# The smallest and largest of every number, and what lies just outside.
RANGES = {
    (InversionSettings, "steps"): (1, 1000, 0, 1001),
    (InversionSettings, "strength"): (1e-9, 1, 0, 1.001),
    (InversionSettings, "iterations"): (1, 100, 0, 101),
    (InversionSettings, "seed"): (0, 2**63 - 1, -1, 2**63),
    (InversionSettings, "embedded_guidance"): (1, 1000, 0.999, 1000.5),
    (LoRASettings, "rank"): (1, 256, 0, 257),
    (LoRASettings, "steps"): (0, 100_000, -1, 100_001),
    (LoRASettings, "learning_rate"): (1e-9, 1, 0, 1.001),
    (LoRASettings, "batch_size"): (1, 64, 0, 65),
    (LoRASettings, "weight_decay"): (0, 1, -1e-9, 1.001),
    (LoRASettings, "early_stop_ratio"): (0, 1, -1e-9, 1.001),
    (LoRASettings, "seed"): (0, 2**63 - 1, -1, 2**63),
    (DragSettings, "steps"): (1, 100_000, 0, 100_001),
    (DragSettings, "learning_rate"): (1e-9, 10, 0, 10.1),
    (DragSettings, "motion_radius"): (0, 64, -1, 65),
    (DragSettings, "tracking_radius"): (0, 64, -1, 65),
    (DragSettings, "trace_back"): (0, 1e6, -1e-9, 2e6),
    (DragSettings, "step_length"): (1e-9, 64, 0, 65),
    (DragSettings, "region_weight"): (0, 1e6, -1e-9, 2e6),
    (DragSettings, "prior_weight"): (0, 1e6, -1e-9, 2e6),
    (DragSettings, "stop_distance"): (1e-9, 1000, 0, 1001),
    (DragSettings, "patience"): (0, 100_000, -1, 100_001),
    (DragSettings, "extra_weight"): (0, 1e6, -1e-9, 2e6),
    (DragSettings, "correspondence"): (0, 1, -1e-9, 1.001),
    (DragSettings, "feature_scale"): (1e-9, 1, 0, 1.001),
    (DragSettings, "drag_timesteps"): (1, 999, 0, 1000),
    (DragSettings, "tracks_per_timestep"): (1, 1000, 0, 1001),
    (DragSettings, "updates_per_track"): (1, 1000, 0, 1001),
    (DragSettings, "loss_threshold"): (0, 1e6, -1e-9, 2e6),
    (DragSettings, "warp_reach"): (1e-9, 100, 0, 101),
    (RenderSettings, "start_step"): (0, 1000, -1, 1001),
    (RenderSettings, "start_layer"): (0, 1000, -1, 1001),
    (RenderSettings, "correspondence"): (0, 1, -1e-9, 1.001),
    (RenderSettings, "correspondence_share"): (1e-9, 1, 0, 1.001),
}
NUMBERS = list(RANGES)
INTEGERS = [(kind, name) for kind, name in NUMBERS if isinstance(PAPER[kind][name], int)]
FLAGS = [
    (kind, name)
    for kind, values in PAPER.items()
    for name, value in values.items()
    if isinstance(value, bool)
]
CHOICES = {
    (InversionSettings, "method"): ("plain", "lookahead", "fixed_point", "cycle_sde"),
    (InversionSettings, "spacing"): ("model", "leading", "linspace", "trailing"),
    (DragSettings, "tracking"): ("window", "nearer", "cone"),
    (DragSettings, "template"): ("current", "original"),
    (DragSettings, "start"): ("inverted", "warped"),
    (DragSettings, "warp_field"): ("near", "stretch"),
    (DragSettings, "warp_combine"): ("mean", "winner"),
    (DragSettings, "warp_holes"): ("keep", "neighbours", "noise"),
}


def label(value):
    return value.__name__ if isinstance(value, type) else str(value)


# ---------------------------------------------------------------- defaults


@pytest.mark.parametrize("kind", STAGES, ids=label)
def test_the_defaults_are_the_papers(kind):
    assert {field.name: field.default for field in fields(kind)} == PAPER[kind]


def test_the_paper_inverts_35_steps():
    assert InversionSettings().count == 35


@pytest.mark.parametrize(
    ("steps", "strength", "count"), [(6, 0.5, 3), (50, 0.001, 1), (1, 1, 1), (50, 1, 50)]
)
def test_at_least_one_step_is_inverted(steps, strength, count):
    assert InversionSettings(steps=steps, strength=strength).count == count


def test_the_papers_feature_grid_is_half_the_image():
    assert DragSettings().grid(512, 333) == (256, 166)
    assert DragSettings(feature_scale=0.01).grid(20, 300) == (1, 3)


# ---------------------------------------------------------------- what is refused


def test_every_field_is_checked():
    names = {(kind, field.name) for kind in STAGES for field in fields(kind)}
    assert names == {
        *NUMBERS,
        *FLAGS,
        *CHOICES,
        (DragSettings, "feature_blocks"),
        (DragSettings, "method"),
    }


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=label)
def test_a_number_out_of_range_is_refused(kind, name):
    low, high, below, above = RANGES[kind, name]
    for value in (low, high):
        assert getattr(kind(**{name: value}), name) == value
    for value in (below, above):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.{name} must lie in [\[(].*, got"):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=label)
@pytest.mark.parametrize("value", ["1", None, True, 1j, [1]], ids=repr)
def test_what_is_no_number_is_refused(kind, name, value):
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.{name} must be a (whole )?number, got"):
        kind(**{name: value})


@pytest.mark.parametrize("value", ["", 1, None, "x" * 101], ids=repr)
def test_a_method_has_a_name(value):
    with pytest.raises(TypeError, match=r"DragSettings\.method must be the name of a method, got"):
        DragSettings(method=value)


@pytest.mark.parametrize(("kind", "name"), INTEGERS, ids=label)
@pytest.mark.parametrize("value", [1.0, 1.5, float("inf")])
def test_half_a_step_is_refused(kind, name, value):
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.{name} must be a whole number, got"):
        kind(**{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
@pytest.mark.parametrize(
    ("kind", "name"), [pair for pair in NUMBERS if pair not in INTEGERS], ids=label
)
def test_what_is_not_finite_is_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} must lie in"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), FLAGS, ids=label)
@pytest.mark.parametrize("value", [1, 0, "no", None], ids=repr)
def test_a_flag_is_true_or_false(kind, name, value):
    assert getattr(kind(**{name: True}), name) is True
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.{name} must be True or False, got"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), CHOICES, ids=label)
def test_a_choice_is_one_of_those_named(kind, name):
    for value in CHOICES[kind, name]:
        assert getattr(kind(**{name: value}), name) == value
    for value in ("", "Current", None, 1, ["current"]):
        with pytest.raises(ValueError, match=rf"\.{name} must be one of '\w+'(, '\w+')+, got"):
            kind(**{name: value})


@pytest.mark.parametrize(
    ("given", "kept"), [((3,), (3,)), ([1, 3], (1, 3)), (2, (2,)), ((0, 4), (0, 4)), (-1, (-1,))]
)
def test_feature_blocks_become_a_tuple(given, kept):
    assert DragSettings(feature_blocks=given).feature_blocks == kept


@pytest.mark.parametrize("value", [(), [], (-1001,), (1.5,), (True,), "3", ("3",), None])
def test_feature_blocks_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="feature_blocks must name decoder blocks by whole num"):
        DragSettings(feature_blocks=value)


@pytest.mark.parametrize("name", ["inversion", "lora", "drag", "render"])
@pytest.mark.parametrize("value", [None, {}, InversionSettings, 3], ids=repr)
def test_every_stage_has_settings_of_its_own_kind(name, value):
    with pytest.raises(TypeError, match=rf"Settings\.{name} must be \w+Settings, got \w+"):
        Settings(**{name: value})


# ---------------------------------------------------------------- as keys and as plain data


@pytest.mark.parametrize("kind", [*STAGES, Settings], ids=label)
def test_settings_are_frozen_and_keyword_only(kind):
    name = fields(kind)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(kind(), name, getattr(kind(), name))
    with pytest.raises(TypeError, match="positional"):
        kind(1)


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=label)
def test_equal_settings_are_one_key_and_any_change_is_another(kind, name):
    changed = kind(**{name: RANGES[kind, name][0]})
    if changed == kind():
        changed = kind(**{name: RANGES[kind, name][1]})
    assert hash(kind()) == hash(kind())
    assert len({kind(), kind(), changed}) == 2


SOME = Settings(
    inversion=InversionSettings(strength=0.5),
    drag=DragSettings(feature_blocks=(1, 2), template="original"),
    render=RenderSettings(keep_protected=True),
)


def test_plain_data_is_settings_again():
    assert Settings.from_dict(SOME.to_dict()) == SOME
    assert Settings.from_dict(json.loads(json.dumps(SOME.to_dict()))) == SOME
    assert hash(Settings.from_dict(json.loads(json.dumps(SOME.to_dict())))) == hash(SOME)


def test_what_is_left_out_keeps_its_default():
    assert Settings.from_dict({}) == Settings()
    wanted = replace(Settings(), drag=DragSettings(steps=5))
    assert Settings.from_dict({"drag": {"steps": 5}}) == wanted


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"drags": {}}, ValueError, r"unknown settings \['drags'\]; there are \['drag', 'inv"),
        (
            {"drag": {"lr": 1}},
            ValueError,
            r"unknown drag settings \['lr'\]; there are \['corr",
        ),
        ({"drag": {"steps": 0}}, ValueError, r"DragSettings\.steps must lie in \[1, 100000\], go"),
        ({"drag": {"steps": "5"}}, TypeError, r"DragSettings\.steps must be a whole number, got"),
        ({"drag": 5}, TypeError, "drag settings must be names with values, got 5"),
        ([], TypeError, r"settings must be names with values, got \[\]"),
    ],
)
def test_data_that_are_no_settings_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        Settings.from_dict(data)
