"""``vae=`` as one file: in the original layout, in diffusers', or of a whole checkpoint."""

from __future__ import annotations

import shutil

import pytest
import torch
from original_layout import vae_name, vae_tensor, write_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import pickled_trap

from dragwidget.diffusion.loading import load_model


def original_vae(folder):
    weights = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    return {vae_name(k, weights): vae_tensor(k, t) for k, t in weights.items()}


@pytest.fixture
def other(tiny_folder, tmp_path):
    """The tiny model with another autoencoder, as a folder."""
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({k: t * 1.01 for k, t in load_file(file).items()}, file, metadata={"format": "pt"})
    return folder


@pytest.mark.loads(
    "autoencoder",
    "one `.safetensors` file, original layout",
    "SD 1.x",
    "loads: the same weights as the folder",
)
@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_a_vae_in_one_file_of_the_original_layout_is_the_vae(tiny_folder, other, tmp_path, prefix):
    file = tmp_path / "vae-ft-mse.safetensors"
    more = {f"{prefix}loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
    save_file({prefix + k: t for k, t in original_vae(other).items()} | more, file)
    got = load_model(tiny_folder, vae=file, device="cpu")
    assert got.fingerprint == load_model(other, device="cpu").fingerprint
    assert got.loaded_with == {"vae": str(file)}


def test_a_vae_in_one_file_is_what_diffusers_loads(tiny_folder, other, tmp_path):
    from diffusers import AutoencoderKL

    file = tmp_path / "vae.safetensors"
    save_file(original_vae(other), file)
    wanted = AutoencoderKL.from_single_file(
        str(file), config=str(tiny_folder / "vae"), low_cpu_mem_usage=False
    )
    got = load_model(tiny_folder, vae=file, device="cpu").vae
    for key, tensor in wanted.state_dict().items():
        assert torch.equal(got.state_dict()[key], tensor)


@pytest.mark.loads(
    "autoencoder",
    "one `.safetensors` file, diffusers' layout",
    "SD 1.x",
    "loads: the same weights as the folder",
)
def test_a_vae_file_in_diffusers_own_layout_is_the_vae(tiny_folder, other):
    file = other / "vae" / "diffusion_pytorch_model.safetensors"
    got = load_model(tiny_folder, vae=file, device="cpu")
    assert got.fingerprint == load_model(other, device="cpu").fingerprint


@pytest.mark.loads("autoencoder", "whole checkpoint", "SD 1.x", "loads its autoencoder")
@pytest.mark.slow
def test_the_vae_of_a_whole_checkpoint_is_the_vae(tiny_folder, other, tmp_path):
    file = write_checkpoint(other, tmp_path / "other.safetensors")
    wanted = load_model(other, device="cpu").fingerprint
    assert load_model(tiny_folder, vae=file, device="cpu").fingerprint == wanted
    mine = write_checkpoint(tiny_folder, tmp_path / "mine.safetensors")
    assert load_model(mine, config=tiny_folder, vae=file, device="cpu").fingerprint == wanted


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"a": torch.zeros(1)}, "holds no autoencoder of Stable Diffusion"),
        ({"decoder.layers.0.weight": torch.zeros(1)}, "holds no autoencoder"),
        ({"decoder.conv_in.weight": torch.zeros(8, 4, 3, 3)}, "weights are missing"),
    ],
)
def test_a_vae_file_of_something_else_is_blamed_by_its_own_name(
    tiny_folder, tmp_path, content, what
):
    file = tmp_path / "no-vae.safetensors"
    save_file(content, file)
    with pytest.raises(ValueError, match=rf"the vae of {file} cannot be loaded: .*{what}"):
        load_model(tiny_folder, vae=file, device="cpu")


@pytest.mark.loads("autoencoder", "`.ckpt`, `.pt`", "any", "refused, never opened")
@pytest.mark.parametrize("suffix", ["ckpt", "pt"])
def test_a_pickled_vae_is_never_opened(tiny_folder, tmp_path, suffix):
    canary, file = tmp_path / "canary", tmp_path / f"vae.{suffix}"
    file.write_bytes(pickled_trap(canary))
    with pytest.raises(ValueError, match=rf"vae.{suffix} is a pickled checkpoint"):
        load_model(tiny_folder, vae=file, device="cpu")
    assert not canary.exists()
