"""Models on the hub, from a cache folder made on the spot: the client itself, without a network."""

from __future__ import annotations

import shutil

import pytest
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.utils import filter_repo_objects

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.hub import CONFIGS, VAE_CONFIGS, is_hub_id, needed

PARTS = ("unet", "vae", "text_encoder")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache, folder, name="someone/tiny", branch="main"):
    """Lay a folder into a cache as the hub's client does; return the snapshot."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / branch).write_text(COMMIT)
    return shutil.copytree(folder, home / "snapshots" / COMMIT)


def test_the_tests_run_without_a_network():
    assert HF_HUB_OFFLINE


@pytest.mark.loads("model", "hub id, in the cache", "SD 1.x", "loads")
def test_a_model_in_the_cache_is_loaded(tiny_folder, tiny, tmp_path):
    cached(tmp_path, tiny_folder)
    model = load_model("someone/tiny", cache_dir=tmp_path, device="cpu")
    assert model.name == "someone/tiny"
    assert model.fingerprint == tiny.fingerprint


@pytest.mark.slow
def test_a_revision_is_the_one_asked_for(tiny_folder, tmp_path):
    cached(tmp_path, tiny_folder, branch="fp16")
    load_model("someone/tiny", revision="fp16", cache_dir=str(tmp_path), device="cpu")
    with pytest.raises(FileNotFoundError, match="someone/tiny"):
        load_model("someone/tiny", revision="main", cache_dir=tmp_path, device="cpu")


@pytest.mark.slow
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
def test_what_cannot_be_fetched_is_a_file_not_found(tiny_folder, tmp_path, part):
    names = {"source": tiny_folder, part: "nobody/nothing"}
    with pytest.raises(FileNotFoundError, match=r"^the Hugging Face hub cannot .*'nobody/nothing'"):
        load_model(**names, cache_dir=tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["bad name/!!", "a/b--c..d", "-a/b"])
def test_a_name_that_the_hub_does_not_allow_is_never_asked_for(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="a model is not here"):
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


def chosen(there, parts=PARTS, variant=None, half=False):
    """The files of a whole model that are fetched, small and large."""
    small = set(filter_repo_objects(there, allow_patterns=list(CONFIGS)))
    return small | set(needed(there, parts, "someone/tiny", variant, half=half))


def test_only_what_is_needed_is_fetched_and_never_a_pickle_or_code():
    assert set(REPOSITORY) - chosen(REPOSITORY) == {
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
        "unet/diffusion_pytorch_model.safetensors",  # the index beside it wins
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }


def weights_of(files):
    return {file for file in files if file.endswith(".safetensors")}


def test_for_half_precision_the_half_weights_are_fetched_where_there_are_any():
    assert weights_of(chosen(REPOSITORY, half=True)) == {
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }


def test_a_variant_that_is_named_is_fetched_and_the_plain_weights_of_parts_without_it():
    assert weights_of(chosen(REPOSITORY, variant="non_ema", half=True)) == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_the_shards_of_a_variant_are_fetched_with_its_index():
    own = [
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
    ]
    assert needed(own, ["unet"], "a/b", None, half=True) == own[2:]
    assert needed(own, ["unet"], "a/b", None, half=False) == own[:2]


def test_a_variant_that_no_part_has_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no weights of the variant 'bf16'.*fp16, non_ema, plain"):
        needed(REPOSITORY, PARTS, "someone/tiny", "bf16", half=False)


def test_a_model_of_pickles_is_refused_before_anything_large_is_fetched():
    own = ["unet/config.json", "unet/diffusion_pytorch_model.bin"]
    with pytest.raises(ValueError, match=r"the unet of a/b has no .*only pickled weights"):
        needed(own, ["unet"], "a/b", None, half=False)


def test_of_a_vae_only_its_own_files_are_fetched():
    own = ["config.json", "diffusion_pytorch_model.safetensors"]
    others = ["diffusion_pytorch_model.bin", "README.md", "sd-vae.ckpt", "vae.pt"]
    small = set(filter_repo_objects(own + others, allow_patterns=list(VAE_CONFIGS)))
    assert small == {"config.json"}
    assert needed(own + others, [""], "a/b", None, half=False) == own[1:]
    assert needed(REPOSITORY, ["vae"], "a/b", None, half=False) == [
        "vae/diffusion_pytorch_model.safetensors"
    ]
