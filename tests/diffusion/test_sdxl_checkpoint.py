"""Stable Diffusion XL in one file, in the layout of Stability AI's code."""

from __future__ import annotations

import shutil

import pytest
import torch
from original_layout import write_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER

from dragwidget.diffusion.loading import checkpoint, load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def file(xl_folder, tmp_path_factory):
    return write_checkpoint(xl_folder, tmp_path_factory.mktemp("file") / "xl.safetensors")


def changed(file, tmp_path, change):
    """The same file with other tensors."""
    save_file(change(load_file(file)), tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


@pytest.mark.loads(
    "model",
    "one `.safetensors` checkpoint, original layout",
    "SDXL",
    "loads: the same weights as the folder",
)
def test_a_checkpoint_is_the_model_that_its_folder_is(file, xl_folder, xl):
    model = load_model(file, config=xl_folder, device="cpu")
    assert model.fingerprint == xl.fingerprint
    assert torch.equal(model.embed("a cat!").pooled, xl.embed("a cat!").pooled)


def test_a_checkpoint_is_loaded_with_the_packages_settings_and_clips_vocabulary(
    file, xl_folder, xl, tmp_path, monkeypatch
):
    settings = shutil.copytree(xl_folder, tmp_path / "sdxl")
    for name in ("tokenizer", "tokenizer_2"):
        for words in ("vocab.json", "merges.txt"):
            (settings / name / words).unlink()
    monkeypatch.setattr(checkpoint, "PACKAGED", {2: tmp_path / "none", "xl": settings})
    hub = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text(COMMIT)
    shutil.copytree(TOKENIZER, hub / "snapshots" / COMMIT)
    model = load_model(file, device="cpu", cache_dir=tmp_path / "hub")
    assert model.fingerprint == xl.fingerprint


def test_what_the_file_says_of_its_prediction_counts(file, xl_folder, tmp_path):
    marked = changed(file, tmp_path, lambda tensors: {**tensors, "v_pred": torch.zeros(0)})
    model = load_model(marked, config=xl_folder, device="cpu")
    assert model.prediction_type == "v_prediction"


@pytest.mark.loads("model", "inpainting checkpoint", "SDXL", "refused by name")
def test_an_inpainting_checkpoint_is_refused_by_name(file, tmp_path):
    first = "model.diffusion_model.input_blocks.0.0.weight"
    other = changed(file, tmp_path, lambda t: {**t, first: torch.zeros(8, 9, 3, 3)})
    with pytest.raises(ValueError, match="an inpainting UNet of 9 input channels, not 4"):
        load_model(other, device="cpu")


@pytest.mark.loads("model", "the refiner's checkpoint", "SDXL", "refused by name")
def test_the_refiners_checkpoint_is_refused_by_name(file, tmp_path):
    def refiner(tensors):
        first, second = "conditioner.embedders.0.", "conditioner.embedders.1."
        kept = {k: t for k, t in tensors.items() if not k.startswith(first)}
        return {k.replace(second, first): t for k, t in kept.items()}

    with pytest.raises(ValueError, match="is the refiner of Stable Diffusion XL"):
        load_model(changed(file, tmp_path, refiner), device="cpu")


@pytest.mark.parametrize(
    ("start", "match"),
    [
        ("first_stage_model.", "holds no vae.*name one by vae="),
        ("conditioner.embedders.0.", "holds no text encoder"),
    ],
)
def test_a_part_that_is_not_there_is_named(file, tmp_path, start, match):
    other = changed(
        file, tmp_path, lambda t: {k: v for k, v in t.items() if not k.startswith(start)}
    )
    with pytest.raises(ValueError, match=match):
        load_model(other, device="cpu")
