"""The Python that repeats an edit: it is run, and gives the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sessions import ask, image, left_half, session_on, settings_of

from dragwidget.editor.recipe import python_of
from dragwidget.session.session import DragSession


@pytest.fixture
def repeated(tiny, tmp_path, monkeypatch):
    """Runs the code in an empty folder and returns what it left behind."""

    def repeat(session, path="image.png"):
        Image.fromarray(image()).save(tmp_path / "image.png")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(DragSession, "from_pretrained", lambda _: DragSession(tiny))
        names = {}
        exec(python_of(session, path), names)
        return names

    return repeat


def edited(tiny, **options):
    session = session_on(tiny, **options)
    session.instructions = ask(prompt="a cat")
    session.step(2)
    return session


def assert_repeated(session, names):
    assert torch.equal(names["session"].history.current.latent, session.history.current.latent)
    assert np.array_equal(names["result"], session.render())
    assert names["session"].settings == session.settings


def test_an_edit_is_repeated_bit_for_bit(tiny, repeated):
    session = edited(tiny, lora_steps=2)
    assert_repeated(session, repeated(session))


def test_targets_masks_and_settings_changed_on_the_way_are_repeated(tiny, repeated):
    session = edited(tiny, learning_rate=0.02)
    session.instructions = ask(((12, 12), (20, 40)), mask=left_half())
    session.step(1)
    drag = replace(session.settings.drag, learning_rate=0.05, region_weight=0.3)
    session.settings = replace(session.settings, drag=drag)
    session.step(2)
    session.settings = replace(session.settings, drag=replace(drag, steps=9))
    assert len(session.history) >= 4
    assert_repeated(session, repeated(session))


def test_a_latent_warped_twice_is_repeated(tiny, repeated):
    session = edited(tiny, start="warped")
    session.instructions = ask(((12, 12), (20, 40)), mask=left_half())
    session.step(1)
    assert_repeated(session, repeated(session))


def test_of_a_branch_only_its_own_steps_are_repeated(tiny, repeated):
    session = edited(tiny)
    session.rewind(1)
    session.instructions = ask(((12, 12), (20, 40)))
    session.step(1)
    names = repeated(session)
    assert len(names["session"].history.nodes) == 3
    assert_repeated(session, names)


def test_a_mask_drawn_after_the_last_step_counts_for_the_render(tiny, repeated):
    session = edited(tiny)
    keep = replace(session.settings.render, keep_protected=True)
    session.settings = replace(session.settings, render=keep)
    session.instructions = ask(mask=left_half())
    assert_repeated(session, repeated(session))


def test_an_edit_that_was_not_dragged_yet_has_code_too(tiny, repeated):
    session = session_on(tiny)
    session.instructions = ask()
    assert np.array_equal(repeated(session)["result"], session.render())


def test_a_generated_image_is_generated_again(tiny, repeated):
    session = DragSession(tiny)
    session.settings = settings_of(tiny)
    session.generate("a cat", seed=3, size=(64, 64))
    session.instructions = ask(size=(64, 64))
    session.step(1)
    assert_repeated(session, repeated(session))


def test_an_image_from_no_file_says_how_to_write_it(tiny):
    text = python_of(edited(tiny))
    assert "widget.image.save('image.png')" in text


def test_strange_prompts_and_paths_stay_text(tiny):
    session = session_on(tiny, prompt="it's \"a\" \\ cat\n')")
    session.instructions = ask()
    compile(python_of(session, "C:\\new\\it's.png"), "code", "exec")
