"""A tiny autoencoder (TAESD) draws previews as diffusers' ``AutoencoderTiny`` decodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import write_inputs
from diffusers import AutoencoderTiny
from tiny_models import edit_json, noise, pickled_trap
from tiny_sessions import ask, session_on

from dragwidget.__main__ import main
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.reading import quiet
from dragwidget.editor.recipe import python_of
from dragwidget.session.source import to_pixels


def write(folder, **changes):
    """A tiny autoencoder of factor 4 with random weights, as diffusers writes it."""
    widths = (8, 8, 8)
    options = {"encoder_block_out_channels": widths, "decoder_block_out_channels": widths,
               "num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}  # fmt: skip
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(4)
        AutoencoderTiny(**{**options, **changes}).save_pretrained(folder)
    return folder


@pytest.fixture
def taesd(tmp_path):
    return write(tmp_path / "taesd")


@pytest.fixture
def model(tiny_folder, taesd):
    return load_model(tiny_folder, device="cpu", dtype="float32", preview_vae=taesd)


@pytest.mark.loads(
    "autoencoder",
    "`AutoencoderTiny` by `preview_vae=`",
    "SD 1.x",
    "draws previews: what diffusers decodes",
)
def test_it_decodes_a_latent_as_diffusers_does(model, taesd):
    """A latent as the UNet has it, with no scale: ``AutoencoderTiny.config.scaling_factor``."""
    latent = noise(1, 4, 12, 16)
    theirs = AutoencoderTiny.from_pretrained(taesd)
    with torch.no_grad():
        wanted = (theirs.decode(latent).sample / 2 + 0.5).clamp(0, 1)
    assert torch.equal(model.decode_quickly(latent), wanted)
    assert wanted.shape == (1, 3, 48, 64)
    assert wanted.std() > 0


def test_previews_are_drawn_by_it_and_nothing_else_is(model, tiny):
    session, without = (session_on(each) for each in (model, tiny))
    for each in (session, without):
        each.instructions = ask()
        each.step(2)
    edit = session.edit
    latent = edit.inversion.latents[0] + edit.change(edit.history.current, session.settings.drag)
    wanted = to_pixels(model.decode_quickly(latent))
    for quick in (True, False):
        shown = session.preview(quick=quick)
        assert np.array_equal(shown, session.request.image.restore(wanted))
        assert not np.array_equal(shown, without.preview(quick=quick))
    assert np.array_equal(session.render(), without.render())
    assert model.fingerprint == tiny.fingerprint
    assert model.with_memory("low").preview_vae is model.preview_vae


def test_a_model_without_one_has_none(tiny):
    assert tiny.decode_quickly(noise(1, 4, 12, 16)) is None


@pytest.mark.loads(
    "autoencoder", "`AutoencoderTiny` of other latent channels", "any", "refused by name"
)
@pytest.mark.parametrize("channels", [16, 3])
def test_other_latent_channels_are_refused_by_name(tiny_folder, tmp_path, channels):
    folder = write(tmp_path / "taef1", latent_channels=channels)
    match = rf"taef1 has {channels} latent channels, and the UNet of .* reads 4: .* wanted taesd"
    with pytest.raises(ValueError, match=match):
        load_model(tiny_folder, device="cpu", preview_vae=folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "is a 'AutoencoderKL', not a AutoencoderTiny"),
        ({"scaling_factor": 0.5}, "scaling_factor 0.5; wanted 1"),
        ({"shift_factor": 0.1}, "shift_factor 0.1; wanted 0"),
        ({"out_channels": 4}, "out_channels 4; wanted 3"),
        ({"upsampling_scaling_factor": 3}, "enlarges a latent 2 times by 3"),
        ({"num_decoder_blocks": [1, 1, 10**5]}, "wanted whole numbers, 128 blocks at most"),
        ({"num_decoder_blocks": 3}, "wanted whole numbers, 128 blocks at most"),
        ({"decoder_block_out_channels": [8, 8, "8"]}, "wanted whole numbers"),
        ({"decoder_block_out_channels": [8, 8, 16]}, "belongs to its weights"),
        ({"act_fn": "no such"}, "cannot be loaded"),
    ],
)
def test_another_kind_of_autoencoder_is_refused_by_name(tiny_folder, taesd, changes, message):
    edit_json(taesd / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_model(tiny_folder, device="cpu", preview_vae=taesd)


def test_one_of_another_size_of_cell_is_refused(tiny_folder, tmp_path):
    lists = {f"num_{side}_blocks": (1, 1) for side in ("encoder", "decoder")}
    lists |= {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    folder = write(tmp_path / "half", **lists)
    with pytest.raises(ValueError, match=r"enlarges a latent 1 times by 2, and the vae of .* by 4"):
        load_model(tiny_folder, device="cpu", preview_vae=folder)


def test_pickled_weights_are_not_opened_and_nothing_is_guessed(tiny_folder, taesd, tmp_path):
    weights = taesd / "diffusion_pytorch_model.safetensors"
    weights.rename(taesd / "kept")
    (taesd / "diffusion_pytorch_model.bin").write_bytes(pickled_trap(tmp_path / "canary"))
    with pytest.raises(ValueError, match="only pickled weights"):
        load_model(tiny_folder, device="cpu", preview_vae=taesd)
    assert not (tmp_path / "canary").exists()
    with pytest.raises(FileNotFoundError, match="a preview_vae is not here"):
        load_model(tiny_folder, device="cpu", preview_vae=tmp_path / "gone")


def test_the_code_and_the_command_line_name_it(tiny_folder, model, taesd, tmp_path):
    code = python_of(session_on(model))
    assert f"preview_vae={str(taesd)!r}" in code
    folder = write_inputs(tmp_path)
    given = [folder / "fox.png", "--pair", "20,20:40,24", "--model", tiny_folder, "--device", "cpu",
             "--settings", folder / "quick.json", "--steps", "1"]  # fmt: skip
    assert main(["edit", *map(str, given), "--preview-vae", str(taesd)]) == 0
    assert main(["edit", *map(str, given), "--preview-vae", str(tmp_path)]) == 2
