"""Models in one file: converted by diffusers itself, without a network, and never unpickled."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch
from original_layout import write_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import noise, pickled_trap, write_model

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.sd import Conditioning


@pytest.fixture(scope="module")
def checkpoint(tiny_folder, tmp_path_factory):
    return write_checkpoint(tiny_folder, tmp_path_factory.mktemp("files") / "tiny.safetensors")


def assert_same_model(got, wanted):
    latent, pixels = noise(1, 4, 16, 12), (noise(32, 24, 3) * 50 + 128).clamp(0, 255)
    pixels = pixels.byte().numpy()
    text = wanted.embed("a cat")
    torch.testing.assert_close(got.embed("a cat"), text)
    with torch.no_grad():
        one, other = (m.predictor(Conditioning(text)).predict(latent, 400) for m in (got, wanted))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(got.encode(pixels), wanted.encode(pixels))
    torch.testing.assert_close(got.decode(latent), wanted.decode(latent))
    assert got.schedule(50).timesteps == wanted.schedule(50).timesteps
    assert got.prediction_type == wanted.prediction_type
    assert got.recommended == wanted.recommended
    assert got.fingerprint == wanted.fingerprint


@pytest.mark.loads(
    "model",
    "one `.safetensors` checkpoint, original layout",
    "SD 1.x",
    "loads: the same weights as the folder",
)
@pytest.mark.slow
def test_a_file_gives_the_model_of_its_folder(checkpoint, tiny_folder, tiny):
    assert_same_model(load_model(checkpoint, config=tiny_folder, device="cpu"), tiny)


@pytest.mark.loads(
    "model",
    "one `.safetensors` checkpoint, original layout",
    "SD 2.x",
    "loads: the same weights as the folder",
)
@pytest.mark.slow
def test_a_file_of_version_2_gives_the_model_of_its_folder(tmp_path):
    folder = write_model(
        tmp_path / "two",
        unet={"use_linear_projection": True, "attention_head_dim": (2, 2, 4, 4)},
        text_encoder={"hidden_act": "gelu"},
        scheduler={"prediction_type": "v_prediction"},
    )
    file = write_checkpoint(folder, tmp_path / "two.safetensors", open_clip=True)
    got = load_model(file, config=folder, device="cpu")
    assert got.prediction_type == "v_prediction"
    assert_same_model(got, load_model(folder, device="cpu"))


@pytest.mark.slow
def test_the_configuration_folder_needs_no_weights(checkpoint, broken, tiny):
    for weights in broken.rglob("*.safetensors"):
        weights.unlink()
    assert_same_model(load_model(checkpoint, config=broken, device="cpu"), tiny)


@pytest.mark.slow
def test_loading_a_file_says_nothing(checkpoint, tiny_folder, capfd, caplog):
    load_model(checkpoint, config=tiny_folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def without(checkpoint, file, prefix):
    """A copy without the weights of that prefix."""
    weights = {k: t for k, t in load_file(checkpoint).items() if not k.startswith(prefix)}
    save_file(weights, file)
    return file


@pytest.mark.loads(
    "model", "checkpoint without an autoencoder", "SD 1.x", "loads with one named by `vae=`"
)
def test_a_vae_can_be_named_for_a_file_that_has_none(checkpoint, tiny_folder, tiny, tmp_path):
    file = without(checkpoint, tmp_path / "no-vae.safetensors", "first_stage_model.")
    with pytest.raises(ValueError, match=r"no-vae.safetensors holds no vae.*vae="):
        load_model(file, config=tiny_folder, device="cpu")
    got = load_model(file, config=tiny_folder, vae=tiny_folder, device="cpu")
    assert_same_model(got, tiny)


@pytest.mark.parametrize(
    ("prefix", "missing"),
    [("cond_stage_model.", "no text encoder"), ("model.", "no Stable Diffusion checkpoint")],
)
def test_a_file_without_a_part_is_refused(checkpoint, tiny_folder, tmp_path, prefix, missing):
    file = without(checkpoint, tmp_path / "part.safetensors", prefix)
    with pytest.raises(ValueError, match=missing):
        load_model(file, config=tiny_folder, device="cpu")


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.out.2.bias",
        "first_stage_model.decoder.conv_in.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_a_file_without_some_weights_is_refused(checkpoint, tiny_folder, tmp_path, key):
    file = without(checkpoint, tmp_path / "hole.safetensors", key)
    with pytest.raises(
        ValueError,
        match=r"of hole.safetensors .*: 1 of its \d+ weights are missing, first",
    ):
        load_model(file, config=tiny_folder, device="cpu")


def test_a_file_cut_off_is_refused(checkpoint, tiny_folder, tmp_path):
    file = tmp_path / "cut.safetensors"
    file.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut.safetensors .*: it is cut off.*fetch it again"):
        load_model(file, config=tiny_folder, device="cpu")


def test_a_text_called_safetensors_is_refused(tiny_folder, tmp_path):
    file = tmp_path / "text.safetensors"
    file.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"text.safetensors is not a readable .*, but a web page"):
        load_model(file, config=tiny_folder, device="cpu")


@pytest.mark.loads(
    "model",
    "inpainting checkpoint; LoRA; checkpoint of another architecture",
    "other",
    "refused by name",
)
@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ({"model.diffusion_model.input_blocks.0.0.weight": (8, 9, 3, 3)}, "inpainting"),
        ({"lora_unet_down_blocks_0.lora_down.weight": (4, 8)}, "is a LoRA"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "a checkpoint of Flux"),
        ({}, "no Stable Diffusion checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tiny_folder, tmp_path, weights, kind):
    file = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in weights.items()}, file)
    with pytest.raises(ValueError, match=f"other.safetensors.*{kind}.*supported"):
        load_model(file, config=tiny_folder, device="cpu")


def test_without_a_configuration_and_a_network_the_message_says_what_to_do(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"tiny.safetensors .* without a config.*config="):
        load_model(checkpoint, device="cpu", cache_dir=tmp_path)


@pytest.mark.loads("model", "`.ckpt`, `.pt`, `.pth`, `.bin`", "any", "refused, never opened")
@pytest.mark.parametrize("suffix", ["ckpt", "pt", "pth", "bin", "CKPT"])
def test_a_pickled_checkpoint_is_refused_and_never_opened(tmp_path, suffix):
    canary, file = tmp_path / "canary", tmp_path / f"model.{suffix}"
    file.write_bytes(pickled_trap(canary))
    with pytest.raises(ValueError, match=rf"model.{suffix} is a pickled.*get the .safetensors"):
        load_model(file, device="cpu")
    assert not canary.exists()
    pickle.loads(file.read_bytes())  # the canary would have sung
    assert canary.exists()


def test_a_pickle_called_safetensors_is_never_unpickled(tiny_folder, tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "model.safetensors"
    file.write_bytes(pickled_trap(canary))
    with pytest.raises(ValueError, match=r"not a readable safetensors file"):
        load_model(file, config=tiny_folder, device="cpu")
    assert not canary.exists()


def test_pickles_in_the_configuration_folder_are_never_unpickled(checkpoint, broken, tmp_path):
    canary = tmp_path / "canary"
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model",
                 "text_encoder/pytorch_model"):  # fmt: skip
        (broken / f"{name}.bin").write_bytes(pickled_trap(canary))
    for weights in broken.rglob("*.safetensors"):
        weights.unlink()
    load_model(checkpoint, config=broken, device="cpu")
    assert not canary.exists()


def test_a_file_that_is_not_there_is_a_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a model is not here.*nothing.safetensors"):
        load_model(tmp_path / "nothing.safetensors", device="cpu")


def test_a_folder_may_be_called_like_a_file(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model.safetensors")
    assert load_model(folder, device="cpu").vae_factor == 4
