"""Which files of a model's folder are read: variants, shards, autoencoders; and none outside it."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import pickled_trap

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.folder import MAX_JSON, choose_weights
from dragwidget.diffusion.weights import read_weights as load_weights

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model",
         "text_encoder": "model"}  # fmt: skip
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


def rename(folder, variant, parts=tuple(STEMS)):
    for part in parts:
        file = folder / part / f"{STEMS[part]}.safetensors"
        file.rename(file.with_name(f"{STEMS[part]}.{variant}.safetensors"))


def shifted(folder, part, variant, by):
    """Write other weights beside a part's own, as a variant; return their first value's shift."""
    stem = folder / part / STEMS[part]
    weights = {k: t + by for k, t in load_file(f"{stem}.safetensors").items()}
    save_file(weights, f"{stem}.{variant}.safetensors", metadata={"format": "pt"})


def bias(model):
    return float(model.unet.conv_out.bias.detach()[0])


def sharded(folder, part, count=3, index="{stem}.safetensors.index.json", shard=None):
    shard = shard or "{stem}-{k:05}-of-{n:05}.safetensors"
    stem, home = STEMS[part], folder / part
    weights = load_file(home / f"{stem}.safetensors")
    (home / f"{stem}.safetensors").unlink()
    names = {key: shard.format(stem=stem, k=1 + i % count, n=count)
             for i, key in enumerate(weights)}  # fmt: skip
    for name in set(names.values()):
        save_file({k: t for k, t in weights.items() if names[k] == name}, home / name)
    (home / index.format(stem=stem)).write_text(json.dumps({"weight_map": names}))


# ---------------------------------------------------------------- variants


@pytest.mark.loads(
    "model", "folder of one variant alone: `fp16`, `bf16`, `non_ema`", "SD 1.x", "loads"
)
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fp16", "non_ema", "bf16"])
def test_a_folder_with_one_variant_only_is_loaded(broken, tiny, variant):
    rename(broken, variant)
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint
    assert load_model(broken, device="cpu", variant=variant).fingerprint == tiny.fingerprint


def test_parts_may_have_different_variants(broken, tiny):
    rename(broken, "fp16", ["unet"])
    rename(broken, "non_ema", ["vae"])
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


@pytest.mark.slow
def test_the_variant_that_is_named_wins_and_parts_without_it_give_their_plain_weights(broken, tiny):
    shifted(broken, "unet", "non_ema", 1)
    assert bias(load_model(broken, device="cpu", variant="non_ema")) == bias(tiny) + 1
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


def test_half_precision_takes_the_half_weights_and_full_precision_the_plain_ones(broken, tiny):
    shifted(broken, "unet", "fp16", 1)
    half = load_model(broken, device="cpu", dtype="float16")
    assert bias(half) == pytest.approx(bias(tiny) + 1, abs=1e-3)
    assert bias(load_model(broken, device="cpu", dtype="float32")) == bias(tiny)
    assert bias(load_model(broken, device="cpu", dtype="bfloat16")) == pytest.approx(
        bias(tiny), abs=1e-2
    )


def test_a_variant_that_no_part_has_is_refused_and_what_there_is_named(broken):
    rename(broken, "fp16", ["unet"])
    with pytest.raises(ValueError, match=r"no weights of the variant 'bf16', only fp16, plain"):
        load_model(broken, device="cpu", variant="bf16")


@pytest.mark.loads(
    "model", "folder of several variants", "SD 1.x", "loads the one that `variant=` names"
)
def test_between_several_unusual_variants_the_caller_chooses(broken, tiny):
    rename(broken, "ema", ["unet"])
    shutil.copy(
        broken / "unet" / "diffusion_pytorch_model.ema.safetensors",
        broken / "unet" / "diffusion_pytorch_model.non_ema.safetensors",
    )
    with pytest.raises(ValueError, match=r"variants ema, non_ema: name one by variant="):
        load_model(broken, device="cpu")
    assert load_model(broken, device="cpu", variant="ema").fingerprint == tiny.fingerprint


def test_the_rule_of_which_file_wins():
    both = ["m.safetensors", "m.fp16.safetensors", "m.non_ema.safetensors", "other.safetensors"]
    assert choose_weights(both, "m", None, half=False) == "m.safetensors"
    assert choose_weights(both, "m", None, half=True) == "m.fp16.safetensors"
    assert choose_weights(both, "m", "non_ema", half=True) == "m.non_ema.safetensors"
    assert choose_weights(both, "m", "bf16", half=True) == "m.safetensors"
    assert choose_weights(both[1:], "m", None, half=False) == "m.fp16.safetensors"
    assert choose_weights(both[3:], "m", None, half=False) is None
    sharded = [*both, "m.safetensors.index.json", "m-00001-of-00002.safetensors"]
    assert choose_weights(sharded, "m", None, half=False) == "m.safetensors.index.json"


# ---------------------------------------------------------------- weights in several files


@pytest.mark.loads("model", "weights in several files, with an index", "SD 1.x", "loads")
@pytest.mark.parametrize("part", STEMS)
def test_weights_in_several_files_are_loaded(broken, tiny, part):
    sharded(broken, part)
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("{stem}.safetensors.index.fp16.json", "{stem}-{k:05}-of-{n:05}.fp16.safetensors"),
        ("{stem}.safetensors.index.fp16.json", "{stem}.fp16-{k:05}-of-{n:05}.safetensors"),
        ("{stem}.fp16.safetensors.index.json", "{stem}.fp16-{k:05}-of-{n:05}.safetensors"),
    ],
)
def test_a_variant_in_several_files_is_loaded(broken, tiny, index, shard):
    sharded(broken, "unet", index=index, shard=shard)
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


def test_a_shard_that_is_cut_off_is_named_and_to_be_fetched_again(broken):
    sharded(broken, "unet")
    file = broken / "unet" / "diffusion_pytorch_model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"00002-of-00003.* is cut off, .* bytes; fetch it again"):
        load_model(broken, device="cpu")


def test_a_shard_that_is_missing_is_named(broken):
    sharded(broken, "unet")
    (broken / "unet" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"unet of .*no file .*00002-of-00003") as raised:
        load_model(broken, device="cpu")
    assert "again" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("part", STEMS)
@pytest.mark.parametrize(
    "named",
    [
        "shard.bin",
        "pytorch_model.bin",
        "shard.ckpt",
        "shard.safetensors.pkl",
        "../vae/diffusion_pytorch_model.safetensors",
        "../../elsewhere/x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "https://evil.example/x.safetensors",
        ".safetensors",
        "a\x00.safetensors",
        3,
        None,
        ["a.safetensors"],
    ],
)
def test_what_an_index_names_beside_safetensors_of_its_folder_is_never_opened(
    broken, tmp_path, part, named
):
    canary = tmp_path / "canary"
    home, stem = broken / part, STEMS[part]
    (home / f"{stem}.safetensors").unlink()
    if isinstance(named, str) and "/" not in named and "\x00" not in named:
        (home / named).write_bytes(pickled_trap(canary))
    (home / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(ValueError, match=rf"the {part} of .*(only .safetensors files|names no)"):
        load_model(broken, device="cpu")
    assert not canary.exists()


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_an_index_that_names_nothing_is_refused(broken, index):
    (broken / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"the unet of .* cannot be loaded: .*index.json"):
        load_model(broken, device="cpu")


# ---------------------------------------------------------------- nothing outside the folder


@pytest.mark.loads("model", "link out of the model's folder", "any", "refused, never followed")
@needs_links
@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "dragwidget.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_link_that_leads_out_of_the_folder_is_not_followed(broken, tmp_path, file):
    outside = tmp_path / "outside"
    if (broken / file).exists():
        shutil.move(broken / file, outside)
    else:
        outside.write_text("{}")
    (broken / file).symlink_to(outside)
    with pytest.raises(ValueError, match=r"leads out of the model's folder, to .*outside"):
        load_model(broken, device="cpu")


@needs_links
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_a_link_out_of_the_folder_is_not_followed(broken, tmp_path, part):
    shutil.move(broken / part, tmp_path / "outside")
    (broken / part).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out of the model's folder"):
        load_model(broken, device="cpu")


@needs_links
def test_links_inside_the_folder_and_to_it_are_followed(broken, tiny, tmp_path):
    (broken / "weights").mkdir()
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(file, broken / "weights" / "unet.safetensors")
    file.symlink_to("../weights/unet.safetensors")
    (tmp_path / "link").symlink_to(broken)
    assert load_model(tmp_path / "link", device="cpu").fingerprint == tiny.fingerprint


def in_cache(folder, home):
    """Lay a folder out as the hub's cache does: links in ``snapshots`` to bytes in ``blobs``."""
    snapshot, blobs = home / "snapshots" / "0123abcd", home / "blobs"
    blobs.mkdir(parents=True)
    for k, file in enumerate(p for p in folder.rglob("*") if p.is_file()):
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(k))
        place.symlink_to(os.path.relpath(blobs / str(k), place.parent))
    return snapshot


@needs_links
def test_the_hubs_cache_may_link_to_its_own_blobs_and_nowhere_else(tiny_folder, tiny, tmp_path):
    snapshot = in_cache(tiny_folder, tmp_path / "models--a--b")
    assert load_model(snapshot, device="cpu").fingerprint == tiny.fingerprint
    blob = (snapshot / "unet" / "config.json").resolve()
    shutil.move(blob, tmp_path / "outside")
    blob.symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out of the model's folder"):
        load_model(snapshot, device="cpu")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_not_read(broken):
    (broken / "unet" / "config.json").unlink()
    os.mkfifo(broken / "unet" / "config.json")
    with pytest.raises(ValueError, match="is not a regular file"):
        load_model(broken, device="cpu")


def test_a_configuration_larger_than_any_is_not_read(broken):
    with (broken / "unet" / "config.json").open("r+b") as file:
        file.truncate(MAX_JSON + 1)
    with pytest.raises(ValueError, match=f"has more than {MAX_JSON} bytes"):
        load_model(broken, device="cpu")


# ---------------------------------------------------------------- networks' own old names


@pytest.mark.loads("autoencoder", "attention named as before diffusers 0.17", "SD 1.x", "loads")
def test_an_autoencoder_with_the_old_names_of_its_attention_is_loaded(broken, tiny):
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    for new, name in old.items():
        weights = {k.replace(f".0.{new}.", f".0.{name}."): t for k, t in weights.items()}
    assert any("proj_attn" in key for key in weights)
    save_file(weights, file, metadata={"format": "pt"})
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


@pytest.mark.loads(
    "model", "text encoder with or without `text_model.` in its names", "SD 1.x", "loads"
)
@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_a_text_encoder_is_loaded_with_and_without_the_prefix_of_its_names(broken, tiny, prefix):
    file = broken / "text_encoder" / "model.safetensors"
    bare = {k.removeprefix("text_model."): t for k, t in load_file(file).items()}
    save_file({prefix + key: tensor for key, tensor in bare.items()}, file)
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


@pytest.mark.loads("model", "quantized weights", "any", "refused by name")
def test_weights_that_are_whole_numbers_are_refused_as_quantized(broken):
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: t.to(torch.int8) for k, t in load_file(file).items()}, file)
    with pytest.raises(ValueError, match=r"the unet of .* torch.int8, as in quantized weights"):
        load_model(broken, device="cpu")


def test_the_weights_of_another_part_are_blamed_on_the_part(broken):
    shutil.copy(
        broken / "unet" / "diffusion_pytorch_model.safetensors",
        broken / "text_encoder" / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"the text_encoder of .* weights are missing.*no place"):
        load_model(broken, device="cpu")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "a pickle or a zip archive"),
        (b"\x80\x02}q\x00." + bytes(100), "a pickle or a zip archive"),
        (b"\xff" * 100, "100 bytes that begin with"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00" + b"x" * 16, "40? bytes|24 bytes"),
    ],
)
def test_a_file_that_is_no_safetensors_is_told_by_what_it_is(broken, content, what):
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"the unet of .*: diffusion_.*, but .*({what})"
    ) as raised:
        load_model(broken, device="cpu")
    assert "again" not in str(raised.value)


@pytest.mark.slow
def test_a_header_may_be_of_any_length(broken):
    """Its first bytes are that length, and some lengths begin as a pickle does."""
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for pad in range(0, 8 * 40, 8):
        save_file(weights, file, metadata={"format": "pt", "pad": "x" * pad})
        assert load_weights(file).keys() == weights.keys()
    for length in (0x0280, 0x4B50):  # as pickles and as zip archives begin
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        file.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + bytes(4))
        assert float(load_weights(file)["a"]) == 0


@pytest.mark.loads("model", "file that is cut off", "any", "refused: fetch it again")
@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json"])
@pytest.mark.parametrize("kept", [0, 4, 200])
def test_a_file_that_is_cut_off_is_to_be_fetched_again(broken, file, kept):
    (broken / file).write_bytes((broken / file).read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"the unet of .* cut off.*fetch it again"):
        load_model(broken, device="cpu")
