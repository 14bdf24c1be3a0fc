"""Models that are broken, half downloaded or of another kind: refused by name, with the reason."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, make_text_encoder, make_unet, pickled_trap, write_model

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.reading import quiet

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def refused(folder, match, error=ValueError):
    """Loading raises this, naming the folder, and says what is supported or what to do."""
    with pytest.raises(error, match=f"(?s){match}") as raised:
        load_model(folder, device="cpu")
    message = str(raised.value)
    assert str(folder) in message
    assert len(message) < 1000
    assert any(word in message for word in ("supported", "again", "wanted", "holds"))


# ---------------------------------------------------------------- kinds


@pytest.mark.loads(
    "model",
    "folder of an inpainting, Stable Diffusion 3 or Flux pipeline",
    "other",
    "refused by name",
)
@pytest.mark.parametrize(
    "kind",
    [
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusion3InpaintPipeline",
        "FluxPipeline",
        None,
    ],
)
def test_a_pipeline_of_another_kind_is_refused_by_name(broken, kind):
    edit_json(broken / "model_index.json", _class_name=kind)
    refused(broken, f"is a {kind}; supported are Stable Diffusion 1.x and 2.x")


@pytest.mark.loads("model", "inpainting UNet (9 channels)", "SD 1.x", "refused by name")
def test_an_inpainting_network_is_refused_by_name(tmp_path):
    folder = write_model(tmp_path / "inpainting", unet={"in_channels": 9})
    refused(folder, "an inpainting UNet of 9 input channels, not 4")


@pytest.mark.loads("model", "InstructPix2Pix UNet (8 channels)", "SD 1.x", "refused by name")
@pytest.mark.slow
def test_a_network_of_other_channels_is_refused(tmp_path):
    folder = write_model(tmp_path / "edits", unet={"in_channels": 8})
    refused(folder, r"an image-instructed \(InstructPix2Pix\) UNet of 8 input channels, not 4")


def test_a_network_of_the_xl_kind_in_a_pipeline_of_another_is_refused_by_name(tmp_path):
    unet = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    }
    folder = write_model(tmp_path / "xl", unet=unet)
    refused(folder, "a pipeline of Stable Diffusion 1 or 2 with a UNet of Stable Diffusion XL")


def test_a_prediction_of_another_kind_is_refused(tmp_path):
    folder = write_model(tmp_path / "sample", scheduler={"prediction_type": "sample"})
    refused(folder, "scheduler of .* says that it predicts 'sample'")


@pytest.mark.loads(
    "model", "parts of different models in one folder", "any", "refused: names both parts"
)
def test_parts_of_different_models_are_refused(broken):
    with quiet():
        make_text_encoder(hidden_size=24).save_pretrained(broken / "text_encoder")
    refused(
        broken,
        "parts of .* of different models.*text of 16 channels, its text encoder writes 24",
    )


def test_a_vocabulary_of_another_model_is_refused(broken):
    with quiet():
        make_text_encoder(vocab_size=400).save_pretrained(broken / "text_encoder")
    refused(broken, "tokenizer of .* knows 534 tokens and its text encoder 400")


# ---------------------------------------------------------------- half downloaded


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    refused(tmp_path, "is no model: a diffusers folder holds a model_index.json")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    refused(tmp_path / "image.png", "is no model: .* a checkpoint, which is a .safetensors file")


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"_class_name": '])
def test_an_index_that_is_not_json_is_refused(broken, text):
    (broken / "model_index.json").write_text(text)
    refused(broken, "the index of .* cannot be loaded: .*model_index.json cannot be read as JSON")


@pytest.mark.parametrize("text", ["[]", "3", '"StableDiffusionPipeline"', "null"])
def test_an_index_of_another_form_is_refused(broken, text):
    (broken / "model_index.json").write_text(text)
    refused(broken, "model_index.json holds no JSON object")


@pytest.mark.parametrize("value", [..., None, [], [None, None], "UNet2DConditionModel", 3])
def test_an_index_that_does_not_name_a_part_is_refused(broken, value):
    edit_json(broken / "model_index.json", unet=value)
    refused(broken, "lacks its unet: its model_index.json names none; wanted all of")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_folder_is_refused(broken, part):
    shutil.rmtree(broken / part)
    refused(broken, f"the {part} of .* cannot be loaded: there is no file .*{part}/")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_missing_configuration_is_refused(broken, part):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (broken / part / name).unlink()
    refused(broken, f"the {part} of .* cannot be loaded")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_configuration_that_is_not_json_is_refused(broken, part):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (broken / part / name).write_text('{"_class_name": ')
    refused(broken, f"the {part} of .* cannot be loaded")


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights_are_refused(broken, part):
    (broken / part / WEIGHTS[part]).unlink()
    refused(
        broken,
        f"the {part} of .*: there is no .*safetensors in .*{part}; it has config.json",
    )


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("kept", [0, 4, 0.5])
def test_weights_cut_off_are_refused(broken, part, kept):
    file = broken / part / WEIGHTS[part]
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    refused(broken, f"the {part} of .* cannot be loaded")


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(broken, part):
    file = broken / part / WEIGHTS[part]
    weights = load_file(file)
    gone = sorted(weights)[3]
    save_file({k: t for k, t in weights.items() if k != gone}, file, metadata={"format": "pt"})
    refused(broken, f"the {part} of .*: 1 of its \\d+ weights are missing, first ")


def test_weights_of_another_size_are_refused(broken):
    with quiet():
        make_unet((16, 16, 32, 32)).save_pretrained(broken / "other")
    shutil.copy(broken / "other" / WEIGHTS["unet"], broken / "unet")
    refused(broken, "the unet of .* cannot be loaded")


@pytest.mark.parametrize("gone", [["vocab.json"], ["merges.txt"], ["vocab.json", "merges.txt"]])
def test_a_missing_vocabulary_is_refused_and_not_made_up(broken, gone):
    for name in gone:
        (broken / "tokenizer" / name).unlink()
    refused(broken, "the tokenizer of .* (cannot be loaded|knows 2 tokens)")


@pytest.mark.loads("model", "folder of pickled weights", "any", "refused, never opened")
@pytest.mark.slow
@pytest.mark.parametrize("part", WEIGHTS)
def test_pickled_weights_are_refused_and_never_opened(broken, tmp_path, part):
    canary = tmp_path / "canary"
    (broken / part / WEIGHTS[part]).unlink()
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
        (broken / part / name).write_bytes(pickled_trap(canary))
    refused(broken, rf"the {part} of .* only pickled weights \(.bin, .ckpt\), which are not read")
    assert not canary.exists()


# ---------------------------------------------------------------- names of nothing


@pytest.mark.parametrize(
    "name", ["nothing", "/no/such/folder", "./models/mine", "a/b/c", "~/nothing", "", "critter",
             "C:\\models\\sd"],
)  # fmt: skip
def test_a_name_of_nothing_is_a_file_not_found(name):
    with pytest.raises(FileNotFoundError, match=r"(a model is not here|hub cannot be reached)"):
        load_model(name or "missing", device="cpu")


def test_a_vae_of_nothing_is_a_file_not_found(tiny_folder):
    with pytest.raises(FileNotFoundError, match="a vae is not here: there is nothing at 'nothing'"):
        load_model(tiny_folder, vae="nothing", device="cpu")


def test_a_vae_that_is_no_vae_is_refused(tiny_folder):
    with pytest.raises(ValueError, match=r"the vae of .*unet is a 'UNet2DConditionModel'"):
        load_model(tiny_folder, vae=tiny_folder / "unet", device="cpu")


def test_the_index_may_hold_more_than_is_known(broken):
    edit_json(broken / "model_index.json", image_encoder=[None, None], new_thing=["a", "B"])
    assert json.loads((broken / "model_index.json").read_text())["new_thing"]
    load_model(broken, device="cpu")
