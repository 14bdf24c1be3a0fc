"""The settings panel: every field has a control, nothing echoes, nothing bad is kept."""

from __future__ import annotations

import threading
from dataclasses import fields, replace

import pytest
import traitlets

from dragwidget.data.presets import presets, with_method
from dragwidget.data.settings import DragSettings, InversionSettings, LoRASettings, Settings
from dragwidget.drag.methods import METHODS
from dragwidget.ui.controls.fields import FIELDS, Blocks, Choice, Flag, Number, shown
from dragwidget.ui.controls.rows import CHANGED, BlocksControl
from dragwidget.ui.controls.settings_panel import ESSENTIAL, STAGES, SettingsPanel

PAPER = Settings()
RECOMMENDED = Settings.from_dict(
    {
        "inversion": {"strength": 0.5},
        "lora": {"steps": 0},
        "drag": {"start": "warped", "feature_blocks": [2]},
        "render": {"start_layer": 3, "keep_protected": True},
    }
)
ALL = [(stage.name, f.name) for stage in fields(Settings) for f in fields(type(stage.default))]
OTHER = {  # another value that each kind of setting may have
    Number: lambda field, now: (
        now + 1 if field.whole or now / 2 + 0.125 < field.low else now / 2 + 0.125
    ),
    Choice: lambda field, now: next(v for _, v in field.options if v != now),
    Flag: lambda _, now: not now,
    Blocks: lambda *_: (0, 1),
}


def value(settings, stage, name):
    return getattr(getattr(settings, stage), name)


def changed(settings, stage, name, new):
    return replace(settings, **{stage: replace(getattr(settings, stage), **{name: new})})


def other(settings, stage, name):
    field = FIELDS[stage][name]
    return OTHER[type(field)](field, value(settings, stage, name))


def by_hand(panel, stage, name, new):
    """What the page does when somebody uses the control."""
    control = panel.rows[stage][name].control
    if isinstance(control, BlocksControl):
        for number, button in enumerate(control.children[1:]):
            button.value = number in new
    else:
        control.value = new


@pytest.fixture
def panel():
    return SettingsPanel(recommended=RECOMMENDED)


# ---------------------------------------------------------------- every field


def test_every_setting_has_a_control_and_no_control_is_left_over():
    assert {(stage, name) for stage in FIELDS for name in FIELDS[stage]} == {
        *ALL,
        ("drag", "method"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), ALL)
def test_a_setting_is_named_explained_and_fits_its_row(panel, stage, name):
    field, row = FIELDS[stage][name], panel.rows[stage][name]
    assert 0 < len(field.label) <= 16
    assert len(field.unit) <= 6
    assert field.meaning.endswith(".")
    assert field.source
    assert not field.source.endswith(".")
    assert field.label in row.control.description


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), ALL)
def test_the_tooltip_says_what_it_is_and_where_it_comes_from(panel, stage, name):
    field, control = FIELDS[stage][name], panel.rows[stage][name].control
    if isinstance(control, BlocksControl):
        said = control.children[0].value
    else:
        said = control.tooltip if control.has_trait("tooltip") else control.description_tooltip
    assert field.meaning.split()[0] in said
    assert field.source.split()[-1] in said


@pytest.mark.parametrize(
    ("stage", "name"), [(s, n) for s, n in ALL if isinstance(FIELDS[s][n], Number)]
)
def test_the_range_of_a_control_is_the_one_that_is_accepted(stage, name):
    field = FIELDS[stage][name]
    number = int if field.whole else float
    changed(PAPER, stage, name, number(field.high))
    outside = [field.high + 1 if field.whole else field.high * 1.01]
    if field.open_low:
        outside.append(field.low)
    else:
        changed(PAPER, stage, name, number(field.low))
        outside.append(field.low - 1)
    for bad in outside:
        with pytest.raises(ValueError, match="must lie in"):
            changed(PAPER, stage, name, number(bad))


@pytest.mark.parametrize(
    ("stage", "name"),
    # a method may have any name; its menu is tested below
    [(s, n) for s, n in ALL if isinstance(FIELDS[s][n], Choice) and (s, n) != ("drag", "method")],
)
def test_every_choice_is_accepted_and_none_is_missing(stage, name):
    field = FIELDS[stage][name]
    for _, word in field.options:
        changed(PAPER, stage, name, word)
    with pytest.raises(ValueError, match="must be one of") as refused:
        changed(PAPER, stage, name, "something else")
    assert str(refused.value).count("'") == 2 * len(field.options) + 2


def test_ranges_are_sentences():
    assert FIELDS["drag"]["motion_radius"].range == "0 to 64 cells."
    assert FIELDS["inversion"]["strength"].range == "More than 0, at most 1."
    assert FIELDS["lora"]["steps"].range == "0 to 100,000."
    assert FIELDS["lora"]["seed"].range == "0 or more."


# ---------------------------------------------------------------- both ways


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), ALL)
def test_what_is_changed_by_hand_is_in_the_settings_once(panel, stage, name):
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), "settings")
    new = other(panel.settings, stage, name)
    wanted = changed(panel.settings, stage, name, new)
    by_hand(panel, stage, name, new)
    assert panel.settings == wanted
    assert seen[-1] == wanted
    assert panel.error == ""
    if not isinstance(FIELDS[stage][name], Blocks):  # several buttons: one after the other
        assert len(seen) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), ALL)
def test_what_is_set_from_python_is_shown_and_does_not_come_back(panel, stage, name):
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), "settings")
    new = other(panel.settings, stage, name)
    wanted = changed(panel.settings, stage, name, new)
    panel.settings = wanted
    assert panel.rows[stage][name].control.value == new
    assert seen == [wanted]
    assert panel.settings is wanted


def test_settings_from_another_thread_do_not_swallow_what_is_done_by_hand(panel):
    threads = [
        threading.Thread(target=lambda n=n: setattr(panel, "settings", with_steps(n)))
        for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    by_hand(panel, "lora", "rank", 7)
    for thread in threads:
        thread.join()
    by_hand(panel, "lora", "seed", 5)
    assert panel.settings.lora.seed == 5


def with_steps(n):
    return Settings(drag=DragSettings(steps=n))


def test_large_and_odd_values_survive(panel):
    odd = Settings(
        inversion=InversionSettings(strength=0.123456789),
        lora=LoRASettings(seed=2**62 + 1, learning_rate=1e-7),
        drag=DragSettings(feature_blocks=(6, 1), region_weight=1e6, step_length=3),
    )
    panel.settings = odd
    by_hand(panel, "drag", "steps", 9)
    assert panel.settings == replace(odd, drag=replace(odd.drag, steps=9))
    blocks = panel.rows["drag"]["feature_blocks"].control
    assert blocks.value == (1, 6)
    assert len(blocks.children) == 1 + 7


# ---------------------------------------------------------------- what is not as recommended


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), ALL)
def test_a_change_is_marked_and_one_click_goes_back(panel, stage, name):
    row, title = panel.rows[stage][name], STAGES.index(stage)
    assert CHANGED not in row.control.description
    assert row.back.layout.visibility == "hidden"
    assert not panel.tabs.get_title(title).startswith(CHANGED)
    panel.settings = changed(RECOMMENDED, stage, name, other(RECOMMENDED, stage, name))
    assert CHANGED in row.control.description
    assert row.back.layout.visibility == "visible"
    assert shown(value(RECOMMENDED, stage, name)) in row.back.tooltip
    assert panel.tabs.get_title(title).startswith(CHANGED)
    assert panel.changed(stage) == [name]
    row.back.click()
    assert panel.settings == RECOMMENDED
    assert CHANGED not in row.control.description
    assert row.back.layout.visibility == "hidden"


def test_one_click_goes_back_to_all_that_is_recommended(panel):
    assert panel.reset_button.disabled
    panel.settings = PAPER
    assert not panel.reset_button.disabled
    panel.reset_button.click()
    assert panel.settings == RECOMMENDED
    assert panel.reset_button.disabled


def test_another_model_recommends_something_else(panel):
    panel.recommended = PAPER
    assert panel.settings == RECOMMENDED
    assert panel.preset.value == "Custom"
    assert sorted(panel.changed("drag")) == ["feature_blocks", "start"]
    panel.reset("drag", "start")
    assert panel.changed("drag") == ["feature_blocks"]
    panel.reset("drag")
    assert panel.changed("drag") == []
    assert panel.changed("lora") == ["steps"]
    panel.reset()
    assert panel.settings == PAPER


def test_the_method_is_chosen_from_a_menu_and_its_settings_as_a_preset():
    panel = SettingsPanel(recommended=RECOMMENDED, presets=presets(RECOMMENDED))
    menu = panel.rows["drag"]["method"].control
    assert [word for _, word in menu.options] == list(METHODS)
    menu.value = "gooddrag"
    assert panel.settings == changed(RECOMMENDED, "drag", "method", "gooddrag")
    panel.preset.value = "GoodDrag"
    assert panel.settings == with_method(RECOMMENDED, "gooddrag")
    by_hand(panel, "drag", "drag_timesteps", 40)
    assert panel.error.startswith("Drag timesteps must be below 38")
    assert panel.settings == with_method(RECOMMENDED, "gooddrag")


def test_presets_are_chosen_and_recognised():
    mine = with_steps(7)
    panel = SettingsPanel(recommended=RECOMMENDED, presets={"Mine": mine})
    assert panel.preset.value == "Recommended"
    assert list(panel.preset.options) == ["Recommended", "Paper", "Mine"]
    panel.preset.value = "Paper"
    assert panel.settings == PAPER
    panel.settings = mine
    assert panel.preset.value == "Mine"
    by_hand(panel, "drag", "steps", 8)
    assert panel.preset.value == "Custom"
    panel.preset.value = "Recommended"
    assert panel.settings == RECOMMENDED
    assert "Custom" not in panel.preset.options


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("stage", "name", "bad", "message"),
    [
        ("inversion", "strength", 0.0, r"Strength must lie in \(0, 1\], got 0.0"),
        ("drag", "learning_rate", 0.0, r"Learning rate must lie in \(0, 10\], got 0.0"),
        ("drag", "feature_blocks", (), "Feature blocks must name decoder blocks"),
    ],
)
def test_what_is_refused_is_said_and_the_last_good_is_kept(panel, stage, name, bad, message):
    before = panel.settings
    by_hand(panel, stage, name, bad)
    assert panel.settings is before
    assert panel.rows[stage][name].control.value == value(before, stage, name)
    with pytest.raises(ValueError, match=message):
        raise ValueError(panel.error)
    assert "⚠" in panel.message.value
    by_hand(panel, "drag", "steps", 12)
    assert panel.error == ""
    assert "⚠" not in panel.message.value


def test_a_model_may_refuse_what_the_settings_allow():
    def check(settings):
        if settings.render.start_layer > 7:
            raise ValueError("this model has 8 self-attention layers")

    panel = SettingsPanel(recommended=RECOMMENDED, check=check)
    by_hand(panel, "render", "start_layer", 9)
    assert panel.error == "this model has 8 self-attention layers"
    assert panel.settings == RECOMMENDED
    panel.preset.value = "Paper"  # starts at layer 10
    assert panel.error
    assert panel.preset.value == "Recommended"
    with pytest.raises(ValueError, match="8 self-attention layers"):
        panel.settings = PAPER
    assert panel.settings == RECOMMENDED


@pytest.mark.parametrize("bad", [None, {"drag": {"steps": 3}}, DragSettings()])
def test_only_settings_are_settings(panel, bad):
    with pytest.raises(traitlets.TraitError):
        panel.settings = bad
    assert panel.settings == RECOMMENDED


def test_everything_in_the_panel_has_a_class_to_find_it_by(panel):
    assert "dragwidget-settings" in panel._dom_classes


# ---------------------------------------------------------------- what matters most


def essential(panel, label):
    (row,) = [row for row in panel.essentials.children[1:-1] if row.field.label == label]
    return row


def test_the_settings_that_matter_most_are_the_same_beside_the_others(panel):
    for (stage, name), label in ESSENTIAL.items():
        row = essential(panel, label)
        row.control.value = OTHER[type(row.field)](row.field, row.control.value)
        assert panel.rows[stage][name].control.value == row.control.value
        assert value(panel.settings, stage, name) == row.control.value
        panel.reset(stage, name)
        assert row.control.value == value(RECOMMENDED, stage, name)
        assert row.control.description == label


def test_a_refusal_is_told_beside_the_settings_that_matter_most():
    def check(settings):
        if settings.drag.steps == 7:
            raise ValueError("seven is too many")

    panel = SettingsPanel(recommended=RECOMMENDED, check=check)
    essential(panel, "Drag steps").control.value = 7
    assert "seven is too many" in panel.essentials.children[-1].value
    assert essential(panel, "Drag steps").control.value == RECOMMENDED.drag.steps


def test_the_preset_is_beside_the_settings_that_matter_most(panel):
    assert panel.preset in panel.essentials.children[0].children
