"""Folders of Stable Diffusion 3 that load, and what is refused, by name and with its memory."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import edit_json, make_vae
from tiny_sd3 import make_transformer, write_sd3

from dragwidget.diffusion.devices import free_memory
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.folder import ModelFolder, bytes_needed
from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.loading.sd3 import read_sd3, read_sd3_configs


@pytest.fixture
def folder(sd3_folder, tmp_path):
    """A copy of the tiny model, to be broken."""
    return shutil.copytree(sd3_folder, tmp_path / "broken")


def refused(folder, match, **options):
    with pytest.raises(ValueError, match=match) as raised:
        load_model(folder, device="cpu", **options)
    assert len(str(raised.value)) < 1000


def huge(path, shape=(1_000_000, 100_000)):
    """A file that says it holds 10^11 numbers; on the disk it is a hole."""
    size = 4 * shape[0] * shape[1]
    header = {"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


def test_a_copy_has_the_same_fingerprint_and_another_shift_another_one(sd3, folder):
    assert load_model(folder, device="cpu", dtype="float32").fingerprint == sd3.fingerprint
    edit_json(folder / "scheduler" / "scheduler_config.json", shift=2.0)
    other = load_model(folder, device="cpu", dtype="float32")
    assert other.shift == 2.0
    assert other.fingerprint != sd3.fingerprint
    assert other.with_parts(shift=3.0).fingerprint == sd3.fingerprint


def test_the_t5s_last_layers_stay_in_float32_and_all_else_is_half(sd3_folder):
    here = ModelFolder(sd3_folder, None, torch.float16)
    parts = read_sd3(here, "tiny", read_sd3_configs(here, "tiny"))
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        assert {p.dtype for p in parts[name].parameters()} == {torch.float16}
    kept = {n for n, p in parts["text_encoder_3"].named_parameters() if p.dtype == torch.float32}
    assert len(kept) == 2
    assert all(name.endswith(".wo.weight") for name in kept)


def test_a_folder_of_half_precision_weights_loads(tmp_path):
    folder = write_sd3(tmp_path / "half", variant="fp16", t5=False)
    assert list((folder / "transformer").glob("*.fp16.safetensors"))
    assert load_model(folder, device="cpu", dtype="float32").dtype == torch.float32


def test_what_a_folder_recommends_is_taken(folder):
    own = {"recommended": {"lora": {"steps": 0}, "render": {"start_layer": 1}}}
    (folder / "dragwidget.json").write_text(json.dumps(own))
    assert load_model(folder, device="cpu").recommended.render.start_layer == 1


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"_class_name": "DDIMScheduler"}, "wanted FlowMatchEulerDiscreteScheduler"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting is True, which makes another path"),
        ({"shift_terminal": 0.1}, "shift_terminal is 0.1, which makes another path"),
        ({"shift": -1}, "its shift is -1; wanted a positive number"),
        ({"num_train_timesteps": 0}, "its num_train_timesteps is 0"),
    ],
)
def test_another_path_is_refused_by_name(folder, changes, match):
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    refused(folder, f"the scheduler of .* cannot be loaded: .*{match}")


@pytest.mark.parametrize(
    ("part", "changes", "match"),
    [
        ("transformer", {"_class_name": "FluxTransformer2DModel"}, "not a SD3Transformer2DModel"),
        ("transformer", {"pos_embed_max_size": None}, "says pos_embed_max_size None"),
        ("transformer", {"pooled_projection_dim": 9}, "reads 9 channels of pooled text, and gets"),
        ("transformer", {"joint_attention_dim": 30}, "reads 30 channels of text, and gets 40"),
        ("transformer", {"num_layers": 3}, "weights that its configuration has no place for"),
        ("vae", {"latent_channels": 4}, "reads 16 latent channels, and gets 4"),
        ("vae", {"shift_factor": "x"}, "has the shift_factor 'x'; wanted a number"),
        ("vae", {"latents_mean": [0.1]}, "shifts its latents"),
        ("text_encoder_3", {"model_type": "llama"}, "a third text encoder of the kind 'llama'"),
        ("text_encoder", {"model_type": "bert"}, "a text encoder of the kind 'bert'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(folder, part, changes, match):
    edit_json(folder / part / "config.json", **changes)
    refused(folder, match)


def test_a_part_that_is_not_named_is_refused(folder):
    edit_json(folder / "model_index.json", transformer=[None, None])
    refused(folder, "lacks its transformer: its model_index.json names none")


def test_a_tokenizer_with_patterns_of_its_own_is_refused(folder):
    file = folder / "tokenizer_3" / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    edit_json(file, pre_tokenizer=split)
    refused(folder, r"the tokenizer_3 of .* has the pattern '\(a\+\)\+\$'")
    file.unlink()
    refused(folder, "the tokenizer_3 of .* cannot be loaded: there is no file .*tokenizer.json")


@pytest.mark.parametrize("option", ["vae", "prediction_type", "embeddings", "preview_vae"])
def test_options_of_other_families_are_refused_by_name(sd3_folder, option):
    values = {"vae": sd3_folder, "prediction_type": "epsilon"}
    values |= {"embeddings": {"<cat>": "cat.safetensors"}, "preview_vae": sd3_folder}
    refused(sd3_folder, f"for which {option}= is not supported", **{option: values[option]})


def test_its_autoencoder_is_refused_in_a_model_of_another_family(tiny_folder, sd3_folder):
    refused(tiny_folder, "the vae of .* shifts its latents", vae=sd3_folder / "vae")


def test_an_autoencoder_of_four_channels_is_refused_in_a_transformer_of_sixteen(folder):
    with quiet():
        make_vae().save_pretrained(folder / "vae")
    refused(folder, "its transformer reads 16 latent channels, and gets 4")


@pytest.mark.skipif(
    free_memory(torch.device("cpu")) is None, reason="this system does not say what is free"
)
def test_weights_that_exceed_the_memory_are_refused_with_what_they_need(folder):
    huge(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    refused(
        folder,
        r"the weights of .* need 400\.0 GB in float32, and cpu has .* GB free; wanted a smaller",
    )


def test_the_memory_is_counted_from_the_tensors(sd3, sd3_folder):
    needed = bytes_needed(ModelFolder(sd3_folder), torch.float16)
    for name, network in sd3.networks.items():
        held = {id(p): p for p in network.state_dict(keep_vars=True).values()}
        assert needed[name] == 2 * sum(p.numel() for p in held.values())


def test_flux_is_refused_with_what_its_weights_need(folder):
    edit_json(folder / "model_index.json", _class_name="FluxPipeline")
    huge(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    refused(folder, r"is a FluxPipeline, whose weights need 400\.0 GB in float32; supported are")


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
         "is a checkpoint of Stable Diffusion 3 in one file, of which only folders"),
        ("double_blocks.0.img_attn.qkv.weight", "is a checkpoint of Flux"),
        ("model.diffusion_model.single_blocks.0.linear1.weight", "is a checkpoint of Flux"),
    ],
)  # fmt: skip
def test_transformers_in_one_file_are_refused_by_name_and_size(tmp_path, key, match):
    save_file({key: torch.zeros(5000, 10000, dtype=torch.float16)}, tmp_path / "one.safetensors")
    refused(tmp_path / "one.safetensors", rf"one.safetensors {match}.*need 0\.1 GB in float16")


def test_version_3_without_dual_attention_loads(tmp_path):
    plain = {"dual_attention_layers": (), "qk_norm": None}
    folder = write_sd3(tmp_path / "three", transformer=plain, t5=False)
    model = load_model(folder, device="cpu", dtype="float32")
    assert model.self_attention_count == len(make_transformer().transformer_blocks)
