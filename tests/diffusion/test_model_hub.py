"""Models on the hub, from a cache folder made on the spot: the client itself, without a network."""

from __future__ import annotations

import shutil
import time

import pytest
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.utils import filter_repo_objects

from dragwidget.diffusion.hub import MODEL, VAE, is_hub_id
from dragwidget.diffusion.loading import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache, folder, name="someone/tiny", branch="main"):
    """Lay a folder into a cache as the hub's client does; return the snapshot."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / branch).write_text(COMMIT)
    return shutil.copytree(folder, home / "snapshots" / COMMIT)


def test_the_tests_run_without_a_network():
    assert HF_HUB_OFFLINE


def test_a_model_in_the_cache_is_loaded(tiny_folder, tiny, tmp_path):
    cached(tmp_path, tiny_folder)
    model = load_model("someone/tiny", cache_dir=tmp_path, device="cpu")
    assert model.name == "someone/tiny"
    assert model.fingerprint == tiny.fingerprint


def test_a_revision_is_the_one_asked_for(tiny_folder, tmp_path):
    cached(tmp_path, tiny_folder, branch="fp16")
    load_model("someone/tiny", revision="fp16", cache_dir=str(tmp_path), device="cpu")
    with pytest.raises(FileNotFoundError, match="someone/tiny"):
        load_model("someone/tiny", revision="main", cache_dir=tmp_path, device="cpu")


def test_a_vae_in_the_cache_is_loaded(tiny_folder, tmp_path):
    cached(tmp_path, tiny_folder / "vae", name="someone/vae")
    model = load_model(tiny_folder, vae="someone/vae", cache_dir=tmp_path, device="cpu")
    assert model.vae_factor == 4


def test_a_model_half_in_the_cache_is_refused(tiny_folder, tmp_path):
    snapshot = cached(tmp_path, tiny_folder)
    shutil.rmtree(snapshot / "unet")
    with pytest.raises((ValueError, FileNotFoundError), match="someone/tiny"):
        load_model("someone/tiny", cache_dir=tmp_path, device="cpu")


def test_a_model_of_another_kind_is_refused(tiny_folder, tmp_path):
    snapshot = cached(tmp_path, tiny_folder)
    (snapshot / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="someone/tiny is a FluxPipeline"):
        load_model("someone/tiny", cache_dir=tmp_path, device="cpu")


@pytest.mark.parametrize("part", ["source", "vae"])
def test_what_cannot_be_fetched_is_a_file_not_found_and_soon(tiny_folder, tmp_path, part):
    names = {"source": tiny_folder, part: "nobody/nothing"}
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"no folder 'nobody/nothing' here.*hub cannot"):
        load_model(**names, cache_dir=tmp_path, device="cpu")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("name", ["bad name/!!", "a/b--c..d", "-a/b"])
def test_a_name_that_the_hub_does_not_allow_is_a_file_not_found(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="hub cannot give"):
        load_model(name, cache_dir=tmp_path, device="cpu")


def test_hub_ids_are_told_from_paths():
    assert is_hub_id("stabilityai/stable-diffusion-2-1")
    for path in ("model", "./model", "../model", "/model/x", "~/model", "a/b/c", "model/"):
        assert not is_hub_id(path)


REPOSITORY = [
    "README.md",
    "model_index.json",
    "dragwidget.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "scheduler/evil.py",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_only_what_is_needed_is_fetched_and_never_a_pickle_or_code():
    chosen = set(filter_repo_objects(REPOSITORY, allow_patterns=list(MODEL)))
    left = set(REPOSITORY) - chosen
    assert left == {
        "README.md",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "feature_extractor/preprocessor_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/evil.py",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }


def test_of_a_vae_only_its_own_files_are_fetched():
    own = ["config.json", "diffusion_pytorch_model.safetensors"]
    others = ["diffusion_pytorch_model.bin", "README.md", "sd-vae.ckpt", "vae.pt"]
    assert set(filter_repo_objects(own + others, allow_patterns=list(VAE))) == set(own)
    chosen = set(filter_repo_objects(REPOSITORY, allow_patterns=list(VAE)))
    assert chosen == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
