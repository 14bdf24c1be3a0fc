"""Networks that ask for more than latents, a timestep and text are refused by what they are."""

from __future__ import annotations

import pytest
import torch
from original_layout import write_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, make_vae, write_model

from dragwidget.diffusion.loading import load_model

SUPPORTED = "supported are Stable Diffusion 1.x and 2.x"


def refused(match, *args, **kwargs):
    with pytest.raises(ValueError, match=rf"(?s){match}.*{SUPPORTED}") as raised:
        load_model(*args, device="cpu", **kwargs)
    message = str(raised.value)
    assert "low_cpu_mem_usage" not in message
    assert "again" not in message


# ---------------------------------------------------------------- folders

UNETS = [
    ({"class_embed_type": "timestep"}, "class labels or a noise level"),
    ({"num_class_embeds": 10}, "class labels or a noise level"),
    ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}, "unCLIP"),
    ({"addition_embed_type": "text"}, "takes additional embeddings"),
    ({"encoder_hid_dim": 12}, "embeddings of images or of another text encoder"),
    ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 12}, "Kandinsky"),
    ({"in_channels": 5}, r"depth-guided .* UNet of 5 input channels, not 4"),
    ({"in_channels": 7}, "an upscaling UNet of 7"),
    ({"in_channels": 8}, r"\(InstructPix2Pix\) UNet of 8"),
    ({"in_channels": 9}, "an inpainting UNet of 9"),
    ({"out_channels": 8}, "4 input and 8 output channels"),
]  # fmt: skip


@pytest.mark.loads(
    "model",
    "UNet with more inputs: class labels, a noise level, images",
    "other",
    "refused by name",
)
@pytest.mark.slow
@pytest.mark.parametrize(("changes", "what"), UNETS)
def test_a_folder_whose_unet_asks_for_more_is_refused_by_what_it_is(tmp_path, changes, what):
    refused(what, write_model(tmp_path / "model", unet=changes))


def test_a_unet_of_the_larger_model_with_the_parts_of_the_smaller_is_refused(tmp_path):
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
             "projection_class_embeddings_input_dim": 64}  # fmt: skip
    with pytest.raises(ValueError, match=r"a UNet of Stable Diffusion XL .* belong together"):
        load_model(write_model(tmp_path / "model", unet=added), device="cpu")


@pytest.mark.parametrize("weights_kept", [True, False])
def test_a_unet_is_refused_by_its_configuration_before_its_weights_are_read(broken, weights_kept):
    edit_json(broken / "unet" / "config.json", class_embed_type="timestep")
    if not weights_kept:
        (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refused("class labels", broken)


def test_a_unet_that_reads_boxes_is_refused(broken):
    edit_json(broken / "unet" / "config.json", attention_type="gated")
    refused("GLIGEN", broken)


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        ("unet", {"_class_name": "UNet3DConditionModel"}, "UNet of .* is a 'UNet3DConditionModel'"),
        ("unet", {"_class_name": "os.system"}, "UNet of .* is a 'os.system'"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "vae of .* is a 'AutoencoderTiny'"),
        ("vae", {"_class_name": "VQModel"}, "vae of .* is a 'VQModel'"),
        ("vae", {"shift_factor": 0.1}, "vae of .* shifts its latents"),
        ("vae", {"latents_mean": [0, 0, 0, 0]}, "vae of .* shifts its latents"),
        ("text_encoder", {"model_type": "t5"}, "text encoder of the kind 't5'"),
        ("text_encoder", {"model_type": "bert"}, "text encoder of the kind 'bert'"),
    ],
)
def test_a_network_of_another_class_is_refused_by_name(broken, part, changes, what):
    edit_json(broken / part / "config.json", **changes)
    refused(what, broken)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_quantized_weights_are_refused_by_name(broken, part):
    edit_json(broken / part / "config.json", quantization_config={"load_in_4bit": True})
    with pytest.raises(ValueError, match=r"is quantized.*wanted float32, float16 or bfloat16"):
        load_model(broken, device="cpu")


@pytest.mark.parametrize("scale", [0, -1, None, "a", True])
def test_a_scale_of_latents_that_is_none_is_refused(broken, scale):
    edit_json(broken / "vae" / "config.json", scaling_factor=scale)
    with pytest.raises(ValueError, match=r"vae of .* scaling_factor .*wanted a positive number"):
        load_model(broken, device="cpu")


# ---------------------------------------------------------------- autoencoders of other models


@pytest.fixture
def sixteen(tmp_path):
    """An autoencoder of 16 latent channels, as those of Stable Diffusion 3 and Flux."""
    make_vae(latent_channels=16).save_pretrained(tmp_path / "vae16")
    return tmp_path / "vae16"


def test_a_vae_of_other_latents_is_blamed_by_its_own_name(tiny_folder, sixteen):
    refused(
        f"the vae of {sixteen} has 16 latent channels, and the UNet of {tiny_folder} reads 4",
        tiny_folder,
        vae=sixteen,
    )


def test_a_vae_file_of_other_latents_is_blamed_by_its_own_name(tiny_folder, sixteen):
    file = sixteen / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match=rf"the vae of {file}.*16 latent channels, .* are 4"):
        load_model(tiny_folder, vae=file, device="cpu")


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def weights(tiny_folder, tmp_path_factory):
    return load_file(write_checkpoint(tiny_folder, tmp_path_factory.mktemp("c") / "c.safetensors"))


UNET = "model.diffusion_model."
ONE = torch.zeros(4, 4)
CHECKPOINTS = [
    ({f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 8, 3, 3)}, "InstructPix2Pix"),
    ({f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}, "an inpainting"),
    ({f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 5, 3, 3)}, "depth-guided"),
    ({f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 7, 3, 3)}, "an upscaling"),
    ({f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 16, 3, 3)}, "another UNet of 16"),
    ({f"{UNET}label_emb.0.0.weight": ONE}, "class labels"),
    ({f"{UNET}input_blocks.1.1.transformer_blocks.0.fuser.linear.weight": ONE}, "GLIGEN"),
    ({"noise_augmentor.data_mean": ONE}, "unCLIP"),
    ({"depth_model.model.x": ONE}, "depth2img"),
    ({"control_model.time_embed.0.weight": ONE}, "a ControlNet"),
    ({"conditioner.embedders.0.x": ONE}, "Stable Diffusion XL"),
    ({"edm_mean": ONE}, "EDM"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "what"), CHECKPOINTS)
def test_a_checkpoint_whose_unet_asks_for_more_is_refused_by_what_it_is(
    weights, tiny_folder, tmp_path, more, what
):
    save_file({**weights, **more}, tmp_path / "other.safetensors")
    refused(f"other.safetensors .*{what}", tmp_path / "other.safetensors", config=tiny_folder)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "a network alone"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "autoencoder alone: .* vae="),
        (["lora_unet_x.lora_down.weight"], "a LoRA"),
        (["emb_params"], "a textual inversion"),
    ],
)
def test_a_file_of_one_part_is_refused_by_what_it_is(tiny_folder, tmp_path, keys, what):
    save_file({key: ONE.clone() for key in keys}, tmp_path / "part.safetensors")
    refused(what, tmp_path / "part.safetensors", config=tiny_folder)


def test_weights_of_a_checkpoint_that_have_no_place_are_named(weights, tiny_folder, tmp_path):
    file = tmp_path / "more.safetensors"
    save_file({**weights, f"{UNET}strange.weight": ONE}, file)
    with pytest.raises(ValueError, match=rf"the unet of more.* no place for, first {UNET}strange"):
        load_model(file, config=tiny_folder, device="cpu")


def test_a_checkpoint_that_does_not_fit_its_configuration_names_weight_and_part(weights, tmp_path):
    folder = write_model(tmp_path / "wide", channels=(8, 8, 32, 32))
    file = tmp_path / "narrow.safetensors"
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"the unet of narrow.* is 16.*configuration wants 32"):
        load_model(file, config=folder, device="cpu")


# ---------------------------------------------------------------- text encoders of old checkpoints

PREFIX = "cond_stage_model.transformer.text_model."


@pytest.mark.slow
@pytest.mark.parametrize(
    "renamed",
    ["cond_stage_model.transformer.", "cond_stage_model.", "cond_stage_model.text_model."],
)
def test_the_text_encoder_of_an_old_merge_is_loaded_like_the_other(
    weights, tiny_folder, tiny, tmp_path, renamed
):
    old = {key.replace(PREFIX, renamed): tensor for key, tensor in weights.items()}
    old[f"{renamed}embeddings.position_ids"] = torch.arange(77.0)[None] + 0.4  # averaged, too
    save_file(old, tmp_path / "old.safetensors")
    model = load_model(tmp_path / "old.safetensors", config=tiny_folder, device="cpu")
    assert torch.equal(model.embed("a cat"), tiny.embed("a cat"))
    assert model.fingerprint == tiny.fingerprint


def test_what_comes_with_a_text_encoder_and_takes_no_part_is_left_out(
    weights, tiny_folder, tiny, tmp_path
):
    more = {
        "cond_stage_model.logit_scale": ONE[0, 0],
        "cond_stage_model.transformer.text_projection.weight": ONE,
        "model_ema.decay": ONE,
        "alphas_cumprod": torch.zeros(1000),
        "first_stage_model.loss.logvar": ONE,
    }
    copies = {key: tensor.clone() for key, tensor in more.items()}
    save_file({**weights, **copies}, tmp_path / "more.safetensors")
    model = load_model(tmp_path / "more.safetensors", config=tiny_folder, device="cpu")
    assert model.fingerprint == tiny.fingerprint


def test_a_text_encoder_that_lacks_weights_is_blamed_by_name(weights, tiny_folder, tmp_path):
    less = {k: t for k, t in weights.items() if "final_layer_norm" not in k}
    save_file(less, tmp_path / "less.safetensors")
    match = (
        r"the text_encoder of less.*: 2 of its \d+ weights are missing, first .*final_layer_norm"
    )
    with pytest.raises(ValueError, match=match) as raised:
        load_model(tmp_path / "less.safetensors", config=tiny_folder, device="cpu")
    assert "again" not in str(raised.value)
