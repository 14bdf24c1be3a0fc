"""Choose another model in the widget: what the user did stays, what fails changes nothing."""

from __future__ import annotations

from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from tiny_models import write_model
from tiny_sessions import FAR, left_half, session_on

from dragwidget import DragSession
from dragwidget.data.presets import presets
from dragwidget.diffusion.loading import load_model
from dragwidget.session.journal import journals, restore
from dragwidget.session.switching import settings_for
from dragwidget.ui.widget import DragWidget


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory):
    """A model like the tiny one, of other weights."""
    return write_model(tmp_path_factory.mktemp("models") / "other", seed=7)


@pytest.fixture
def widget(tiny):
    """A widget with a pair, a mask and a prompt."""
    made = DragWidget(session_on(tiny), clock="sync", render_when_done=False)
    made.canvas.add_pair(*FAR)
    made.canvas.set_mask(left_half())
    yield made
    made.close()


def chosen(widget, name):
    """What a user does: write a name, and press *Load*."""
    widget._view.models.name.value = str(name)
    widget._view.models.button.click()


def drawn(widget):
    """All that the user did, and sees."""
    session = widget.session
    return {
        "image": np.asarray(widget.image).tobytes(),
        "shown": np.asarray(widget.canvas.image).tobytes(),
        "pairs": widget.canvas.pairs,
        "mask": widget.canvas.mask.tobytes(),
        "asked": (session.instructions, session.prompt, widget.prompt, widget._view.prompt.value),
        "undo": widget.canvas.can_undo,
    }


def status(widget):
    return widget._view.status._line.value


def test_a_model_that_is_chosen_is_used_and_what_was_drawn_stays(widget, other_folder):
    before = drawn(widget)
    chosen(widget, f"  {other_folder} ")
    assert widget.error == ""
    assert widget.session.model.name == str(other_folder)
    assert str(other_folder) in widget._view.model.value
    assert f"Loaded {other_folder}" in status(widget)
    assert drawn(widget) == before
    assert not widget._view.models.button.disabled
    widget.canvas.undo()
    assert widget.canvas.mask is None  # the strokes before can still be undone


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crittres", ["'crittres'", "'critters', 'critters-base'", "a folder", "owner/model"]),
        ("", ["1 to 4096 printable characters", "''"]),
        ("https://example.org/model", ["download the file"]),
        (__file__, ["test_widget_model.py"]),
    ],
)
def test_a_name_that_is_none_is_one_sentence_and_changes_nothing(widget, tiny, name, words):
    before, settings = drawn(widget), widget.settings
    chosen(widget, name)
    assert all(word in widget.error for word in words), widget.error
    assert "\n" not in widget.error
    assert widget.error in unescape(widget._view.error_line.value)
    assert widget._view.models._line.value.count("<div") == 1  # beside the button, too
    assert all(word in unescape(widget._view.models._line.value) for word in words)
    assert f"{tiny.name} stays in use" in status(widget)
    assert widget.session.model is tiny
    assert widget._view.models.name.value == name  # to be corrected
    assert (drawn(widget), widget.settings) == (before, settings)
    widget._editing.runner.error = None


@pytest.mark.slow
def test_steps_and_badges_of_the_model_before_come_back_with_it(widget, tiny_folder, other_folder):
    widget.run(2)
    first = widget.session.edit
    assert widget._view.index == 2
    chosen(widget, other_folder)
    assert widget.index == 0
    assert "Steps made with" in status(widget)
    assert "are kept" in status(widget)
    badges = widget.session.status
    assert badges["inversion"].state == "outdated"
    assert badges["inversion"].why == "the model changed since it was made"
    assert widget._view.status.badges.value.count("the model changed") >= 1
    widget.run(1)
    assert widget.error == ""
    assert widget.session.edit is not first
    assert (widget.index, len(widget.session.history.nodes)) == (1, 2)
    chosen(widget, tiny_folder)
    assert widget.session.edit is first
    assert len(widget.session.history.nodes) == 3
    widget.rewind(2)
    widget.run(1)
    assert widget.error == ""
    assert widget.index == 3
    chosen(widget, other_folder)
    assert len(widget.session.history.nodes) == 2


@pytest.mark.slow
def test_code_file_and_journal_name_the_model_in_use(tiny, other_folder, tmp_path):
    widget = DragWidget(session_on(tiny), clock="sync", render_when_done=False)
    widget.canvas.add_pair(*FAR)
    widget.run(1)
    chosen(widget, other_folder)
    widget.run(2)
    assert f"from_pretrained({str(other_folder)!r}" in widget.code()
    assert widget.code().count("session.step(") == 1
    widget.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", load_model(other_folder, device="cpu"))
    assert len(again.history.nodes) == 3
    with pytest.raises(ValueError, match="model"):
        DragSession.load(tmp_path / "edit.drag", tiny)
    widget.close()
    steps = {}
    for folder in journals():  # what was dragged with either can be restored
        for model in (tiny, again.model):
            try:
                session, _ = restore(folder, model)
            except ValueError:
                continue
            steps[model.name] = len(session.history.nodes) - 1
    assert steps == {tiny.name: 1, str(other_folder): 2}


def test_recommended_settings_follow_the_model_and_changed_ones_stay(tiny, lcm):
    then, now = tiny.numbered(tiny.recommended), lcm.numbered(lcm.recommended)
    assert then != now
    assert settings_for(lcm, tiny, then) == (now, ())
    for name, settings in presets(then, tiny.check).items():
        assert settings_for(lcm, tiny, settings)[0] == presets(now, lcm.check).get(name, now)
    changed = replace(then, drag=replace(then.drag, step_length=2.5))
    assert settings_for(lcm, tiny, changed) == (
        replace(now, drag=replace(now.drag, step_length=2.5)),
        (),
    )


@pytest.mark.slow
def test_a_changed_setting_that_the_new_model_cannot_take_is_reset_and_named(widget, sd3_folder):
    widget.settings = replace(widget.settings, lora=replace(widget.settings.lora, steps=5, rank=3))
    chosen(widget, sd3_folder)
    assert widget.error == ""
    settings, model = widget.settings, widget.session.model
    assert settings.lora.steps == model.recommended.lora.steps == 0
    assert settings.lora.rank == 3
    warning = widget._view.warning.value
    assert f"Reset to what {model.name} recommends" in warning
    assert "Training steps" in warning
    assert widget._view.settings.recommended == model.numbered(model.recommended)
    assert widget._view.settings.settings == settings


def test_what_the_panel_recommends_and_refuses_is_the_new_models(widget, lcm_folder):
    chosen(widget, lcm_folder)
    assert widget.error == ""
    panel, model = widget._view.settings, widget.session.model
    assert panel.recommended == model.numbered(model.recommended)
    assert set(presets(panel.recommended, model.check)) <= set(panel.presets)
    panel.reset()
    assert widget.settings == panel.recommended


@pytest.mark.slow
def test_a_lora_that_does_not_fit_the_new_model_keeps_the_old_one(widget, tiny, xl_folder):
    random = torch.Generator().manual_seed(0)
    widget.session.use_lora([(tiny.initial_lora(2, random), 0.5)])
    before = drawn(widget)
    chosen(widget, xl_folder)
    assert widget.error
    assert widget.session.model is tiny
    assert drawn(widget) == before
    assert len(widget.session.request.styles) == 1


@pytest.mark.slow
def test_a_model_for_larger_images_fits_the_image_anew_and_keeps_what_is_drawn(widget, xl_folder):
    before, size = drawn(widget), widget.session.request.image.fitted_size
    chosen(widget, xl_folder)
    assert widget.error == ""
    model, image = widget.session.model, widget.session.request.image
    assert image.fitted_size != size or model.image_side == max(size)
    assert max(image.fitted_size) == model.longer_side(image.size)
    assert drawn(widget) == before


@pytest.mark.slow
def test_a_generated_image_is_edited_with_the_other_model_and_comes_back(
    widget, tiny_folder, other_folder
):
    widget.generate("a cat")
    widget.canvas.add_pair((4, 4), (20, 20))
    widget.run(1)
    image = widget.session.request.image
    chosen(widget, other_folder)
    assert widget.error == ""
    assert np.array_equal(widget.session.request.image.original, image.original)
    widget.run(1)
    assert widget.error == ""
    chosen(widget, tiny_folder)
    assert widget.session.request.image is image
    assert len(widget.session.history.nodes) == 2


@pytest.mark.slow
def test_a_model_is_not_loaded_in_the_middle_of_a_step_and_stop_keeps_the_old_one(
    widget, tiny, other_folder, monkeypatch
):
    said = []

    def load_another(progress):
        if progress.phase == "drag" and not said:
            said.append(widget._view.models.button.disabled)
            with pytest.raises(RuntimeError) as refused:
                widget.load_model(other_folder)
            said.append(str(refused.value))

    widget._editing.work.monitor.progress = load_another
    widget.run(1)
    assert said == [True, "cannot load: Drag is running: pause or stop it first"]
    load = load_model

    def stopped(*arguments, **options):
        widget.stop()
        return load(*arguments, **options)

    monkeypatch.setattr("dragwidget.diffusion.loading.load_model", stopped)
    chosen(widget, other_folder)
    assert widget.session.model is tiny
    assert "Load cancelled" in status(widget)
    assert len(widget.session.history.nodes) == 2


@pytest.mark.slow
def test_the_kernel_is_free_while_a_model_is_loaded(tiny, other_folder, monkeypatch):
    """Loading is done by the worker: what is drawn meanwhile is there after it."""
    import threading

    widget = DragWidget(session_on(tiny), clock="thread", render_when_done=False, journal=False)
    load, may_go_on, seen = load_model, threading.Event(), []

    def slowly(*arguments, **options):
        seen.append(threading.current_thread())
        assert may_go_on.wait(60)
        return load(*arguments, **options)

    monkeypatch.setattr("dragwidget.diffusion.loading.load_model", slowly)
    chosen(widget, other_folder)
    assert widget.state == "running"
    assert widget._view.buttons.by_name["pause"].disabled
    assert not widget._view.buttons.by_name["stop"].disabled
    widget.canvas.add_pair(*FAR)
    widget.prompt = "a dog"
    may_go_on.set()
    widget.wait(120)
    assert seen != [threading.current_thread()]
    assert widget.session.model.name == str(other_folder)
    assert len(widget.canvas.pairs) == len(widget.session.instructions.pairs) == 1
    assert widget.session.prompt == widget._view.prompt.value == "a dog"
    widget.run(1)
    widget.wait(120)
    assert (widget.error, widget.index) == ("", 1)
    widget.close()


def test_code_that_switches_the_model_is_shown_too(widget, other_folder):
    from dragwidget.session.switching import use_model

    use_model(widget.session, load_model(other_folder, device="cpu"))
    assert str(other_folder) in widget._view.model.value
    assert widget._editing.work.model is widget.session.model
    assert len(widget.canvas.pairs) == 1
