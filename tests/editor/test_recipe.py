"""The Python that repeats an edit: it is run, and gives the same bits."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sessions import ask, left_half, session_on, settings_of, waves

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import save_lora
from dragwidget.editor.recipe import python_of
from dragwidget.session.session import DragSession


@pytest.fixture
def repeated(tmp_path, monkeypatch):
    """Runs the code in an empty folder, with what it asks to fill in; returns its variables."""

    def repeat(session, **filled_in):
        monkeypatch.chdir(tmp_path)
        names = {"image": waves(), **filled_in}
        exec(python_of(session), names)
        return names

    return repeat


def edited(model, **options):
    session = session_on(model, **options)
    session.instructions = ask(prompt="a cat")
    session.step(2)
    return session


def on_file(model, path, **size):
    """A session on an image file, with two steps taken."""
    Image.fromarray(waves(70, 50)).save(path)
    session = DragSession(model)
    session.settings = settings_of(model)
    session.set_image(path, "a cat", **size)
    session.instructions = ask(size=(70, 50))
    session.step(2)
    return session


def assert_repeated(session, names):
    again = names["session"]
    assert torch.equal(again.history.current.latent, session.history.current.latent)
    assert np.array_equal(names["result"], session.render())
    assert again.settings == session.settings
    assert again.prompt == session.prompt
    assert (again.model.dtype, again.model.memory) == (session.model.dtype, session.model.memory)
    assert again.model.fingerprint == session.model.fingerprint


@pytest.mark.slow
def test_an_edit_is_repeated_bit_for_bit(tiny, repeated):
    session = edited(tiny, lora_steps=2)
    assert_repeated(session, repeated(session))


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_latent_warped_twice_is_repeated(tiny, repeated):
    session = edited(tiny, start="warped")
    session.instructions = ask(((12, 12), (20, 40)), mask=left_half())
    session.step(1)
    assert_repeated(session, repeated(session))


@pytest.mark.slow
def test_of_a_branch_only_its_own_steps_are_repeated(tiny, repeated):
    session = edited(tiny)
    session.rewind(1)
    session.instructions = ask(((12, 12), (20, 40)))
    session.step(1)
    names = repeated(session)
    assert len(names["session"].history.nodes) == 3
    assert_repeated(session, names)


@pytest.mark.slow
def test_a_mask_drawn_after_the_last_step_counts_for_the_render(tiny, repeated):
    session = edited(tiny)
    keep = replace(session.settings.render, keep_protected=True)
    session.settings = replace(session.settings, render=keep)
    session.instructions = ask(mask=left_half())
    assert_repeated(session, repeated(session))


@pytest.mark.slow
def test_an_edit_that_was_not_dragged_yet_has_code_too(tiny, repeated):
    session = session_on(tiny)
    session.instructions = ask()
    assert np.array_equal(repeated(session)["result"], session.render())


@pytest.mark.slow
def test_a_generated_image_is_generated_again(tiny, repeated):
    session = DragSession(tiny)
    session.settings = settings_of(tiny)
    session.generate("a cat", "a dog", guidance_scale=3.5, seed=3, size=(64, 64))
    session.instructions = ask(size=(64, 64))
    session.step(1)
    assert_repeated(session, repeated(session))


@pytest.mark.slow
def test_a_generated_image_keeps_its_own_steps_and_takes_the_edits_prompt(tiny, repeated):
    session = DragSession(tiny)
    session.settings = settings_of(tiny)
    session.generate("a cat", seed=3, size=(64, 64))
    other = replace(session.settings.inversion, steps=9)
    session.settings = replace(session.settings, inversion=other)
    session.prompt = "a dog"
    session.instructions = ask(size=(64, 64))
    session.step(1)
    assert_repeated(session, repeated(session))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_the_type_and_the_memory_of_the_model_are_those_of_the_edit(
    tiny_folder, repeated, dtype, memory
):
    session = edited(load_model(tiny_folder, device="cpu", dtype=dtype, memory=memory))
    assert_repeated(session, repeated(session))


@pytest.mark.slow
def test_every_option_of_the_model_is_given_again(broken, tmp_path, repeated):
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".non_ema.safetensors"))
    other = load_model(broken, device="cpu").vae
    with torch.no_grad():
        other.decoder.conv_out.bias += 0.1
    other.save_pretrained(tmp_path / "other vae")
    model = load_model(
        broken, vae=tmp_path / "other vae", prediction_type="v_prediction", device="cpu",
        variant="non_ema", cache_dir=tmp_path / "hub", revision="main",
    )  # fmt: skip
    session = edited(model)
    names = repeated(session)
    assert_repeated(session, names)
    assert names["session"].model.loaded_with == model.loaded_with
    assert len(model.loaded_with) == 5


@pytest.mark.slow
def test_a_model_that_was_not_loaded_by_name_is_asked_for(tiny, repeated):
    model = tiny.with_parts(name="stabilityai/some-model")
    session = edited(model)
    code = python_of(session)
    assert "# model = ...  # it was not loaded by name" in code
    assert "some-model" not in code
    with pytest.raises(NameError, match="'model' is not defined"):
        repeated(session)
    assert_repeated(session, repeated(session, model=model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", [{}, {"max_side": 48}, {"multiple": 8}, {"max_side": 40, "multiple": 8}]
)
@pytest.mark.parametrize("opened", [False, True])
def test_the_size_that_was_worked_at_is_that_of_the_edit(tiny, tmp_path, repeated, size, opened):
    session = on_file(tiny, tmp_path / "an image.png", **size)
    if opened:  # the file does not say where its image was, nor how its size was asked for
        session.save(tmp_path / "edit.drag")
        session = DragSession.load(tmp_path / "edit.drag", tiny)
    assert_repeated(session, repeated(session, image=waves(70, 50)))


def test_an_image_from_no_file_is_asked_for(tiny):
    session = edited(tiny)
    code = python_of(session)
    assert "# image = ...  # it was not read from a file" in code
    with pytest.raises(NameError, match="'image' is not defined"):
        exec(code, {})


@pytest.mark.slow
def test_relative_paths_name_the_same_files_from_every_folder(tiny_folder, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    shutil.copytree(tiny_folder, tmp_path / "work" / "model")
    monkeypatch.chdir(tmp_path / "work")
    session = on_file(load_model("model", device="cpu"), Path("an image.png"))
    code = python_of(session)
    assert "Fill in" not in code
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert_repeated(session, names)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_a_lora_of_a_file_is_read_again(tiny, tmp_path, repeated, alpha):
    trained = session_on(tiny, lora_steps=2).train_lora()
    if alpha is None:
        save_lora(trained, tmp_path / "my lora.safetensors")
    else:  # a file that does not say its alpha
        from safetensors.torch import save_file

        keys = {f"unet.{path}.lora_A.weight": m for path, m in trained.down.items()}
        keys |= {f"unet.{path}.lora_B.weight": m for path, m in trained.up.items()}
        tensors = {key: m.contiguous() for key, m in keys.items()}
        save_file(tensors, tmp_path / "my lora.safetensors")
    session = session_on(tiny)
    session.use_lora(tmp_path / "my lora.safetensors", alpha=alpha)
    session.instructions = ask()
    session.step(1)
    names = repeated(session)
    assert_repeated(session, names)
    assert names["session"].lora.digest == session.lora.digest


@pytest.mark.slow
def test_a_lora_from_no_file_is_asked_for(tiny, repeated):
    lora = session_on(tiny, lora_steps=2).train_lora()
    session = session_on(tiny)
    session.use_lora(lora)
    session.instructions = ask()
    session.step(1)
    assert "# lora = ...  # it was not read from a file" in python_of(session)
    with pytest.raises(NameError, match="'lora' is not defined"):
        repeated(session)
    assert_repeated(session, repeated(session, lora=lora))


def test_a_lora_that_took_the_place_of_a_files_is_asked_for(tiny, tmp_path):
    lora = session_on(tiny, lora_steps=2).train_lora()
    save_lora(lora, tmp_path / "lora.safetensors")
    session = session_on(tiny)
    session.use_lora(tmp_path / "lora.safetensors")
    session.use_lora(lora)
    assert "use_lora(lora)" in python_of(session)
    session.use_lora(None)
    assert "lora" not in python_of(session).replace("'lora': {", "")


@pytest.mark.slow
def test_a_prompt_that_was_changed_after_the_drawing_is_the_one_that_is_repeated(tiny, repeated):
    session = edited(tiny)
    session.prompt = "a dog"
    session.prepare()
    names = repeated(session)
    assert_repeated(session, names)
    assert names["session"].prompt == "a dog"


@pytest.mark.slow
def test_strange_prompts_and_paths_stay_text(tiny, tmp_path, repeated):
    name = 'it\'s "an" image \\ n.png'
    session = on_file(tiny, tmp_path / name)
    session.prompt = "it's \"a\" \\ cat\n')"
    session.step(1)
    assert_repeated(session, repeated(session))
