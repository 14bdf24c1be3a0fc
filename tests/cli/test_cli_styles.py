"""``--style FILE WEIGHT``, the widget's field and the code of an edit name the same LoRAs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import write_inputs
from PIL import Image
from tiny_models import random_lora
from tiny_sessions import ask, session_on

from dragwidget.__main__ import main
from dragwidget.diffusion.lora import save_lora
from dragwidget.editor.recipe import python_of
from dragwidget.session.session import DragSession
from dragwidget.ui.widget import DragWidget


@pytest.fixture
def files(tiny, tmp_path):
    """Two LoRA files, the name of one with a number and a space."""
    names = {2: "two.safetensors", 4: "number 4.safetensors"}
    return [save_lora(random_lora(tiny.unet, r), tmp_path / name) for r, name in names.items()]


@pytest.fixture
def edit(tiny_folder, tmp_path, monkeypatch):
    """Runs the command on a small image."""
    folder = write_inputs(tmp_path)
    monkeypatch.chdir(folder)
    given = ["edit", "fox.png", "--pair", "20,20:40,24", "--model", tiny_folder, "--settings",
             "quick.json", "--steps", "1", "--device", "cpu", "--log", "log.json"]  # fmt: skip
    return lambda *words: main([str(word) for word in (*given, *words)])


@pytest.mark.slow
def test_the_command_line_takes_several_loras_with_weights(edit, files, tiny, tmp_path, capsys):
    out = tmp_path / "out.png"
    words = ("--style", files[0], "0.3", "--style", files[1], "-0.2", "-o", out)
    assert edit(*words) == 0
    said = capsys.readouterr().out
    assert f"LoRA {files[0]} at weight 0.3: diffusers format" in said
    assert f"LoRA {files[1]} at weight -0.2: diffusers format" in said
    log = json.loads((tmp_path / "log.json").read_text())
    assert [style["weight"] for style in log["styles"]] == [0.3, -0.2]
    session = DragSession(tiny)
    session.settings = type(session.settings).from_dict(log["settings"])
    session.set_image(tmp_path / "fox.png")
    session.use_lora([(files[0], 0.3), (files[1], -0.2)])
    session.instructions = ask(((20, 20), (40, 24)), size=session.image.size)
    session.run()
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(session.render()))
    assert edit("-o", tmp_path / "without.png") == 0
    assert (np.asarray(Image.open(out)) != np.asarray(Image.open(tmp_path / "without.png"))).any()


@pytest.mark.parametrize("weight", ["strong", "nan", ""])
def test_a_weight_that_is_no_number_is_one_plain_line(edit, files, capsys, weight):
    assert edit("--style", files[0], weight) == 2
    assert "--style takes a LoRA file here and its weight, a number" in capsys.readouterr().err


def test_a_style_file_that_is_not_there_is_one_plain_line(edit, capsys):
    assert edit("--style", "gone.safetensors", "1") == 2
    assert "there is no LoRA file gone.safetensors" in capsys.readouterr().err


# ---------------------------------------------------------------- the widget


@pytest.fixture
def widget(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = DragWidget(session_on(tiny, steps=1), instructions=ask(), clock="sync", journal=False)
    yield made
    made.close()


def test_loras_that_are_typed_are_those_of_the_session(widget, files):
    field = widget._view.loras
    field.value = f"{files[0]} 0.3\n\n  {files[1]}  "
    assert widget.error == ""
    styles = widget.session.request.styles
    assert [(style.path, weight) for style, weight in styles] == [
        (str(files[0]), 0.3), (str(files[1]), 1.0)
    ]  # fmt: skip
    field.value = f"{files[1]} -0.5"
    assert [weight for _, weight in widget.session.request.styles] == [-0.5]
    assert widget.session.request.styles[0][0] is styles[1][0]  # it was not read again
    field.value = ""
    assert widget.session.request.styles == ()


def test_loras_that_code_gives_are_shown_and_can_be_changed(widget, files, tiny):
    own = random_lora(tiny.unet, 3)
    widget.session.use_lora([(files[0], 0.25), (own, 1)])
    lines = widget._view.loras.value.splitlines()
    assert lines == [f"{files[0]} 0.25", f"LoRA {own.digest[:12]} 1.0"]
    widget._view.loras.value = lines[1].replace("1.0", "0.5")
    assert widget.session.request.styles == ((own, 0.5),)


def test_a_lora_that_cannot_be_read_is_said_and_changes_nothing(widget, files, caplog):
    widget._view.loras.value = f"{files[0]} 0.3"
    before = widget.session.request
    caplog.clear()
    with caplog.at_level("CRITICAL"):
        widget._view.loras.value = f"{files[0]} 0.3\ngone.safetensors 0.5"
    assert "there is no LoRA file gone.safetensors" in widget.error
    assert widget.session.request is before
    assert widget._view.loras.value.endswith("gone.safetensors 0.5")  # to be mended


# ---------------------------------------------------------------- the code


@pytest.mark.slow
def test_the_code_of_an_edit_with_styles_repeats_it(widget, files, tiny):
    session = widget.session
    session.use_lora([(files[0], 0.3), (files[1], -0.2)])
    widget.run()
    code = widget.code()
    assert f"session.use_lora([({str(files[0])!r}, 0.3), ({str(files[1])!r}, -0.2)])" in code
    names = {"image": session.image, "model": tiny}
    exec(code, names)
    assert names["session"].request == session.request
    assert np.array_equal(names["result"], session.render())


def test_the_code_asks_for_styles_that_have_no_file_and_tells_alpha(tiny, files):
    session = session_on(tiny)
    session.use_lora([(random_lora(tiny.unet), 0.5)])
    code = python_of(session)
    assert "# styles = ...  # not all were read from files" in code
    assert "session.use_lora(styles)" in code
    told = random_lora(tiny.unet)
    told = type(told)(told.down, told.up, "", str(files[0]), 2.0)
    session.use_lora([(told, 0.5)])
    given = f"session.use_lora([(session.model.read_lora({str(files[0])!r}, 2.0), 0.5)])"
    assert given in python_of(session)
