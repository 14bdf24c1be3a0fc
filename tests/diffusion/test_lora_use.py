"""A LoRA file in a session and on the command line: its text encoder's part, and what is said."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import noise, random_lora
from tiny_sessions import session_on, waves

from dragwidget.__main__ import main
from dragwidget.diffusion.lora import LoRA, load_lora, save_lora
from dragwidget.session.session import DragSession


def paths_of(text_encoder):
    """The text encoder's linear layers, by their path as a LoRA has it."""
    return {
        path: path.removeprefix("text_model.")
        for path, layer in text_encoder.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


@pytest.fixture
def lora(tiny):
    """Of both networks."""
    lora, down, up = random_lora(tiny.unet), {}, {}
    for k, (path, name) in enumerate(paths_of(tiny.text_encoder).items()):
        outputs, inputs = tiny.text_encoder.get_submodule(path).weight.shape
        down[f"text_encoder.{name}"] = noise(2, inputs, seed=k)
        up[f"text_encoder.{name}"] = 0.3 * noise(outputs, 2, seed=k + 1)
    return LoRA({**lora.down, **down}, {**lora.up, **up})


@pytest.fixture
def merged(tiny, lora):
    """A model whose own weights have the LoRA added to them."""
    networks = {"": copy.deepcopy(tiny.unet), "text_encoder.": copy.deepcopy(tiny.text_encoder)}
    for start, network in networks.items():
        for path, layer in network.named_modules():
            name = start + path.removeprefix("text_model.")
            if name in lora.down:
                layer.weight.data += lora.up[name] @ lora.down[name]
    return tiny.with_parts(unet=networks[""], text_encoder=networks["text_encoder."])


def test_prompts_are_embedded_with_the_text_encoders_part(tiny, lora, merged):
    plain = tiny.embed("a cat")
    got = tiny.embed("a cat", lora)
    assert (got - plain).abs().max() > 0.1
    torch.testing.assert_close(got, merged.embed("a cat"), rtol=1e-3, atol=1e-4)
    assert torch.equal(tiny.embed("a cat"), plain)
    assert torch.equal(tiny.embed("a cat", random_lora(tiny.unet)), plain)


def test_a_session_uses_both_parts_of_a_file(tiny, lora, merged, tmp_path):
    session = session_on(tiny)
    session.use_lora(save_lora(lora, tmp_path))
    wanted = session_on(merged).invert().latents[-1]
    torch.testing.assert_close(session.invert().latents[-1], wanted, rtol=1e-3, atol=1e-3)
    assert (session_on(tiny).invert().latents[-1] - wanted).abs().max() > 0.1


def test_both_parts_survive_in_an_archive(tiny, lora, tmp_path):
    session = session_on(tiny)
    session.use_lora(lora)
    session.prepare()
    session.save(tmp_path / "edit.drag")
    assert DragSession.load(tmp_path / "edit.drag", tiny).lora.digest == lora.digest


@pytest.fixture
def unsaid(tiny, tmp_path):
    """A file of peft without its configuration."""
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(save_lora(random_lora(tiny.unet), file))
    save_file({k.replace("unet.", "base_model.model."): v for k, v in tensors.items()}, file)
    return file


def test_an_alpha_is_told_to_a_session(tiny, unsaid):
    session = session_on(tiny)
    with pytest.raises(ValueError, match="give alpha="):
        session.use_lora(unsaid)
    session.use_lora(unsaid, alpha=2)
    assert session.lora.digest == load_lora(unsaid, tiny.unet, alpha=2).digest
    for given in (None, random_lora(tiny.unet)):
        with pytest.raises(ValueError, match="alpha is only for a LoRA file"):
            session.use_lora(given, alpha=2)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def edit(tiny_folder, tmp_path):
    Image.fromarray(waves()).save(tmp_path / "fox.png")
    quick = {"inversion": {"steps": 6, "strength": 0.5}, "drag": {"steps": 2}, "lora": {"steps": 0}}
    (tmp_path / "quick.json").write_text(json.dumps(quick))
    given = ["edit", tmp_path / "fox.png", "--pair", "20,20:40,24", "--model", tiny_folder]
    given += ["--settings", tmp_path / "quick.json", "--device", "cpu"]
    return lambda *words: main([str(word) for word in (*given, *words)])


@pytest.mark.slow
def test_the_command_line_uses_a_lora_and_says_what_it_is(edit, unsaid, tmp_path, capsys):
    out, log = tmp_path / "out.png", tmp_path / "log.json"
    assert edit("-o", tmp_path / "without.png") == 0
    capsys.readouterr()
    assert edit("--lora", unsaid, "--lora-alpha", 2, "-o", out, "--log", log) == 0
    said = "peft format, scale 0.5, rank 4, layers: 80 attention"
    assert capsys.readouterr().out.startswith(f"LoRA {unsaid}: {said}\n{out}: 2 drag steps")
    assert json.loads(log.read_text())["lora"] == said
    assert (np.asarray(Image.open(out)) != np.asarray(Image.open(tmp_path / "without.png"))).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora", "gone.safetensors"], "there is no LoRA file gone.safetensors"),
        (["--lora-alpha", "2"], "give --lora too"),
    ],
)
def test_a_lora_that_cannot_be_used_is_one_plain_line(edit, capsys, words, message):
    assert edit(*words) != 0
    assert message in capsys.readouterr().err
