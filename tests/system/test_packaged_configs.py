"""The settings of Stable Diffusion 1 and 2 in the package: a checkpoint needs no folder of them."""

from __future__ import annotations

import shutil

import pytest
import torch
from original_layout import write_checkpoint
from safetensors.torch import save_file
from tiny_models import TOKENIZER, edit_json, write_model

from dragwidget.diffusion.loading import checkpoint, load_model
from dragwidget.diffusion.loading.checkpoint import PACKAGED
from dragwidget.diffusion.loading.folder import ModelFolder
from dragwidget.diffusion.loading.kinds import prediction_guess
from dragwidget.diffusion.loading.reading import read_configs
from dragwidget.diffusion.unet import (
    decoder_layers,
    paper_block,
    paper_layer,
    self_attention_layers,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Of the published checkpoints v1-5 and v2-1 (EMA): what their networks hold.
PARAMETERS = {
    1: {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    2: {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "xl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


@pytest.mark.parametrize("version", PARAMETERS)
def test_the_networks_have_as_many_weights_as_those_published(version):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    configs = read_configs(ModelFolder(PACKAGED[version]), "ours")
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config(configs["vae"]),
            "text_encoder": CLIPTextModel(configs["text_encoder"]),
        }
        if version == "xl":
            second = CLIPTextModelWithProjection(configs["text_encoder_2"])
            networks["text_encoder_2"] = second
    counts = {part: sum(p.numel() for p in net.parameters()) for part, net in networks.items()}
    assert counts == PARAMETERS[version]


@pytest.mark.slow
def test_the_published_xl_has_its_layers_where_the_papers_settings_are_counted():
    from diffusers import UNet2DConditionModel

    configs = read_configs(ModelFolder(PACKAGED["xl"]), "ours")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
    assert len(self_attention_layers(unet)) == 70
    assert (paper_block(unet), paper_layer(unet)) == (2, 64)
    assert decoder_layers(unet)[0] == 34
    assert prediction_guess(configs["unet"]) is None


def test_what_the_two_versions_predict_and_how_their_text_is_read():
    first, second = (read_configs(ModelFolder(PACKAGED[k]), "ours") for k in (1, 2))
    assert prediction_guess(first["unet"]) is None
    assert prediction_guess(second["unet"]) == "v_prediction"
    assert (first["unet"]["sample_size"], second["unet"]["sample_size"]) == (64, 96)
    assert first["text_encoder"].hidden_act == "quick_gelu"
    assert second["text_encoder"].hidden_act == "gelu"
    assert second["text_encoder"].num_hidden_layers == 23  # of 24: the last but one is read


# ---------------------------------------------------------------- loading, at tiny size


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return write_model(
        tmp_path_factory.mktemp("models") / "two",
        unet={
            "use_linear_projection": True,
            "attention_head_dim": (2, 2, 4, 4),
            "cross_attention_dim": 16,
            "sample_size": 96,
        },
        text_encoder={"hidden_act": "gelu"},
    )


@pytest.fixture
def packaged(monkeypatch, tiny_folder, two, tmp_path):
    """Tiny settings in place of the package's: as they are, without weights and vocabulary."""
    folders = {}
    for version, source in ((1, tiny_folder), (2, two)):
        folder = shutil.copytree(source, tmp_path / f"sd{version}")
        for file in (*folder.rglob("*.safetensors"), folder / "tokenizer" / "vocab.json",
                     folder / "tokenizer" / "merges.txt"):  # fmt: skip
            file.unlink()
        folders[version] = folder
    edit_json(folders[2] / "scheduler" / "scheduler_config.json", prediction_type=...)
    monkeypatch.setattr(checkpoint, "PACKAGED", folders)
    return folders


@pytest.fixture
def version_of(monkeypatch):
    def decide(version):
        monkeypatch.setattr(checkpoint, "_VERSION_OF_WIDTH", {16: version})

    return decide


def cache_with(tmp_path, name, part=""):
    """A cache of the hub with CLIP's vocabulary, ours here."""
    home = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    shutil.copytree(TOKENIZER, home / "snapshots" / COMMIT / part)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("openai/clip-vit-large-patch14", ""),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ],
)
def test_a_checkpoint_is_loaded_with_the_packages_settings_and_clips_vocabulary(
    packaged, version_of, tiny_folder, tiny, tmp_path, name, part
):
    version_of(1)
    file = write_checkpoint(tiny_folder, tmp_path / "one.safetensors")
    model = load_model(file, device="cpu", cache_dir=cache_with(tmp_path, name, part))
    assert model.fingerprint == tiny.fingerprint
    assert torch.equal(model.embed("a cat"), tiny.embed("a cat"))
    assert packaged[1].exists()


def test_without_a_network_and_a_vocabulary_the_message_says_what_to_do(
    packaged, version_of, tiny_folder, tmp_path
):
    version_of(1)
    file = write_checkpoint(tiny_folder, tmp_path / "one.safetensors")
    match = r"needs CLIP's vocabulary.*hub cannot be reached.*folder .*by config="
    with pytest.raises(FileNotFoundError, match=match):
        load_model(file, device="cpu", cache_dir=tmp_path / "empty")
    assert packaged[1].exists()


@pytest.mark.usefixtures("packaged")
def test_a_checkpoint_of_version_2_predicts_velocity_by_a_guess_that_is_said(
    version_of, two, tmp_path
):
    version_of(2)
    file = write_checkpoint(two, tmp_path / "two.safetensors", open_clip=True)
    cache = cache_with(tmp_path, "openai/clip-vit-large-patch14")
    with pytest.warns(UserWarning, match=r"v_prediction is a guess.*by prediction_type="):
        model = load_model(file, device="cpu", cache_dir=cache)
    assert model.prediction_type == "v_prediction"
    assert model.image_side == 96 * 4
    base = load_model(file, device="cpu", cache_dir=cache, prediction_type="epsilon")
    assert base.prediction_type == "epsilon"
    assert base.image_side == 64 * 4  # the models that predict noise are of 512 pixels


def test_a_checkpoint_of_neither_version_is_refused_and_config_named(tmp_path, tiny_folder):
    file = write_checkpoint(tiny_folder, tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match=r"neither the 768 nor the 1024 channels.*config="):
        load_model(file, device="cpu", cache_dir=tmp_path)


def test_a_configuration_for_a_folder_is_refused(tiny_folder):
    with pytest.raises(ValueError, match=r"config= is for a checkpoint file"):
        load_model(tiny_folder, config=tiny_folder, device="cpu")


def test_the_version_is_told_by_the_width_of_the_text(tmp_path):
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    needed = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x", "vae.x")
    for width, version in ((768, 1), (1024, 2), (2048, None)):
        tensors = {name: torch.zeros(1, 4) for name in needed}
        save_file({**tensors, key: torch.zeros(1, width)}, tmp_path / "x.safetensors")
        assert checkpoint.Checkpoint(tmp_path / "x.safetensors").version == version
