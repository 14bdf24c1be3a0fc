"""Folders and parts that are no Stable Diffusion XL are refused by what they are."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_models import edit_json, make_vae
from tiny_xl import EACH, POOLED, make_text_encoder_2, make_xl_unet, write_xl

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.reading import quiet


@pytest.fixture
def broken(xl_folder, tmp_path):
    """A copy of the folder, to be broken."""
    return shutil.copytree(xl_folder, tmp_path / "broken")


def refused(folder, match, **options):
    with pytest.raises(ValueError, match=f"(?s){match}") as raised:
        load_model(folder, device="cpu", **options)
    assert any(word in str(raised.value) for word in ("supported", "wanted"))


def put(network, folder):
    with quiet():
        network.save_pretrained(folder)


@pytest.mark.loads("model", "folder of inpainting", "SDXL", "refused by name")
def test_xl_inpainting_is_refused_by_name(broken):
    put(make_xl_unet(in_channels=9), broken / "unet")
    refused(broken, "has an inpainting UNet of 9 input channels, not 4")


@pytest.mark.parametrize("kind", ["StableDiffusionXLInpaintPipeline", "KolorsPipeline"])
def test_a_pipeline_of_another_kind_is_refused_by_name(broken, kind):
    edit_json(broken / "model_index.json", _class_name=kind)
    refused(broken, f"is a {kind}; supported are Stable Diffusion 1.x and 2.x and XL")


@pytest.mark.loads("model", "folder of the refiner", "SDXL", "refused by name")
@pytest.mark.parametrize("kind", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLPipeline"])
def test_the_refiner_is_refused_by_name(broken, kind):
    none = [None, None]
    edit_json(broken / "model_index.json", _class_name=kind, text_encoder=none, tokenizer=none)
    refused(broken, "is the refiner of Stable Diffusion XL.*reads one text encoder")


def test_an_image_to_image_pipeline_with_all_parts_is_no_refiner(broken):
    edit_json(broken / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline")
    refused(broken, "is a StableDiffusionXLImg2ImgPipeline; supported")


def test_a_network_that_reads_five_numbers_of_the_size_is_refused_by_name(broken):
    put(make_xl_unet(projection_class_embeddings_input_dim=POOLED + 5 * EACH), broken / "unet")
    refused(broken, "6 times 8 of the image's size: it may be the refiner")


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_a_part_that_the_index_does_not_name_is_named(broken, part):
    edit_json(broken / "model_index.json", **{part: [None, None]})
    refused(broken, f"lacks its {part}: its model_index.json names none")


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2", "unet"])
def test_a_part_that_is_not_there_is_named(broken, part):
    shutil.rmtree(broken / part)
    refused(broken, f"the {part} of .* cannot be loaded")


def test_a_second_text_encoder_of_another_width_is_refused(broken):
    put(make_text_encoder_2(hidden_size=24), broken / "text_encoder_2")
    refused(broken, "its UNet reads text of 36 channels, its text encoders write 40")


def test_a_second_text_encoder_of_another_summary_is_refused(broken):
    put(make_text_encoder_2(projection_dim=20), broken / "text_encoder_2")
    refused(broken, "reads 60 channels beside text and time, and is given 20 of the pooled text")


@pytest.mark.loads(
    "autoencoder", "16 channels (Stable Diffusion 3, Flux)", "SDXL", "refused by name"
)
def test_a_vae_of_16_channels_is_refused(tmp_path, xl_folder):
    put(make_vae(latent_channels=16), tmp_path / "vae")
    refused(xl_folder, "has 16 latent channels, and the UNet of .* reads 4", vae=tmp_path / "vae")


@pytest.mark.loads("autoencoder", "of Stable Diffusion 1", "SDXL", "refused: its scale is named")
def test_the_vae_of_the_other_family_is_refused_by_its_scale(xl_folder, tiny_folder):
    match = r"is of Stable Diffusion 1 and 2 \(scaling_factor is 0.18215\).*Stable Diffusion XL"
    refused(xl_folder, match, vae=tiny_folder)
    match = r"is of Stable Diffusion XL \(scaling_factor is 0.13025\).*Stable Diffusion 1 and 2"
    refused(tiny_folder, match, vae=xl_folder)


def test_a_pipeline_of_xl_with_a_network_of_the_other_family_is_refused(broken, tiny_folder):
    shutil.rmtree(broken / "unet")
    shutil.copytree(tiny_folder / "unet", broken / "unet")
    refused(broken, "a pipeline of Stable Diffusion XL with a UNet of Stable Diffusion 1 or 2")


# ---------------------------------------------------------------- number formats


def dtypes(model):
    return {name: str(network.dtype)[6:] for name, network in model.networks.items()}


HALF = {"unet": "float16", "text_encoder": "float16", "text_encoder_2": "float16"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this CPU has no instructions")
@pytest.mark.parametrize("upcast", [True, False])
def test_a_vae_that_overflows_in_float16_has_float32(tmp_path, upcast):
    folder = write_xl(tmp_path / "xl", vae={"force_upcast": upcast})
    half = load_model(folder, device="cpu", dtype="float16")
    assert dtypes(half) == {**HALF, "vae": "float32" if upcast else "float16"}
    bfloat = load_model(folder, device="cpu", dtype="bfloat16")
    assert set(dtypes(bfloat).values()) == {"bfloat16"}
    if upcast:  # and its values are the file's, not those of float16
        whole = load_model(folder, device="cpu", dtype="float32")
        assert all(
            torch.equal(a, b)
            for a, b in zip(half.vae.parameters(), whole.vae.parameters(), strict=True)
        )


@pytest.mark.filterwarnings("ignore:this CPU has no instructions")
def test_a_vae_of_the_other_family_has_the_models_number_format(tiny_folder):
    model = load_model(tiny_folder, device="cpu", dtype="float16")
    assert model.vae.config["force_upcast"]  # by default, and nobody has meant it
    assert set(dtypes(model).values()) == {"float16"}


@pytest.mark.loads("model", "folder of variant `fp16` alone", "SDXL", "loads")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this CPU has no instructions")
def test_a_folder_of_float16_alone_is_loaded(tmp_path):
    folder = write_xl(tmp_path / "xl", variant="fp16")
    names = [file.name for file in folder.rglob("*.safetensors")]
    assert all(".fp16." in name for name in names)
    for options in ({}, {"variant": "fp16"}):
        model = load_model(folder, device="cpu", dtype="float16", **options)
        assert dtypes(model) == {**HALF, "vae": "float32"}
    whole = load_model(folder, device="cpu", dtype="float32")
    assert set(dtypes(whole).values()) == {"float32"}
