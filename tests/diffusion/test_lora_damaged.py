"""LoRA files that are damaged, or no files to be opened, are refused with a plain error."""

from __future__ import annotations

import copy
import math
import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import kohya_names, pickled_trap, random_lora

from dragwidget.diffusion.lora import LoRA, load_lora, save_lora

FILE = "pytorch_lora_weights.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(scope="module")
def unet(tiny):
    return tiny.unet


@pytest.fixture
def kohya(unet):
    """The tensors of a LoRA as kohya's scripts name them."""
    return kohya_names(random_lora(unet))


@pytest.fixture
def folder_of_peft(unet, tmp_path):
    """A folder that peft wrote."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
    get_peft_model(copy.deepcopy(unet), config).save_pretrained(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- damaged


@pytest.mark.parametrize("kept", [0, 4, 0.5])
def test_a_file_cut_off_is_refused(unet, tmp_path, kept):
    file = save_lora(random_lora(unet), tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_lora(file, unet)


@pytest.mark.parametrize("gone", ["lora_A", "lora_B"])
def test_a_lora_without_half_of_a_layer_is_refused(unet, tmp_path, gone):
    file = save_lora(random_lora(unet), tmp_path)
    weights = load_file(file)
    weights.pop(next(key for key in weights if gone in key))
    save_file(weights, file)
    with pytest.raises(ValueError, match="is not a whole LoRA"):
        load_lora(file, unet)


def test_what_is_no_lora_at_all_is_refused(unet, tmp_path):
    save_file(unet.state_dict(), tmp_path / FILE)
    with pytest.raises(ValueError, match=r"is not a LoRA as kohya's scripts.*it holds 'conv_"):
        load_lora(tmp_path, unet)


@pytest.mark.parametrize("shapes", [((2,), (8, 2)), ((2, 8), (8, 3)), ((2, 8, 1, 1), (8, 2, 1, 1))])
def test_matrices_that_do_not_pair_up_are_refused(unet, tmp_path, shapes):
    lora = random_lora(unet)
    path = next(iter(lora.down))
    bad = LoRA(
        {**lora.down, path: torch.zeros(shapes[0])}, {**lora.up, path: torch.zeros(shapes[1])}
    )
    with pytest.raises(ValueError, match="is not of one rank"):
        load_lora(save_lora(bad, tmp_path), unet)


def test_a_rank_of_0_is_refused(unet, tmp_path):
    nothing = random_lora(unet).map(lambda m: m[:0] if m.shape[0] == 4 else m[:, :0])
    with pytest.raises(ValueError, match="is not of one rank"):
        load_lora(save_lora(nothing, tmp_path), unet)


def test_an_empty_lora_is_refused(unet, tmp_path):
    with pytest.raises(ValueError, match="is not a whole LoRA"):
        load_lora(save_lora(LoRA({}, {}), tmp_path), unet)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_numbers_that_are_not_finite_are_refused(unet, tmp_path, kohya, kind, value):
    key = next(key for key in kohya if key.endswith(kind))
    kohya[key].view(-1)[0] = value
    save_file(kohya, tmp_path / FILE)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        load_lora(tmp_path, unet)


def test_quantized_matrices_are_refused(unet, tmp_path, kohya):
    save_file({k: v if "alpha" in k else v.char() for k, v in kohya.items()}, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"is quantized \(torch.int8\)"):
        load_lora(tmp_path, unet)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"r": 4}', "[" * 100_000]
    + [f'{{"r": 4, "lora_alpha": {said}}}' for said in ('"many"', "NaN", "1" + "0" * 400, "true")]
    + ['{"r": 4, "lora_alpha": 4, "alpha_pattern": [4]}'],
    ids=lambda content: content[:40],
)
def test_a_configuration_that_cannot_be_read_is_refused(unet, folder_of_peft, content):
    (folder_of_peft / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"configuration of .*adapter_model.safetensors cannot be"):
        load_lora(folder_of_peft, unet)
    file = save_lora(random_lora(unet), folder_of_peft, {"lora_adapter_metadata": content})
    with pytest.raises(ValueError, match=r"configuration of .* cannot be read"):
        load_lora(file, unet)


# ---------------------------------------------------------------- not a file to be opened


@pytest.mark.loads("LoRA", "`.bin`, `.pt`, `.ckpt`", "any", "refused, never opened")
@pytest.mark.parametrize("suffix", ["bin", "pt", "ckpt"])
def test_a_pickled_lora_is_refused_and_never_opened(unet, tmp_path, suffix):
    file = tmp_path / f"pytorch_lora_weights.{suffix}"
    file.write_bytes(pickled_trap(tmp_path / "canary"))
    with pytest.raises(ValueError, match=r"not a .safetensors file; pickled weights can run code"):
        load_lora(file, unet)
    with pytest.raises(FileNotFoundError, match=r"there is no LoRA in .*wanted pytorch_lora"):
        load_lora(tmp_path, unet)
    file.rename(file.with_suffix(".safetensors"))
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_lora(tmp_path, unet)
    assert not (tmp_path / "canary").exists()


def test_a_lora_that_is_not_there_is_a_file_not_found(unet, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no LoRA file"):
        load_lora(tmp_path / "nothing.safetensors", unet)


@pytest.mark.slow
@pytest.mark.parametrize("name", [FILE, "adapter_model.safetensors", "adapter_config.json"])
def test_a_link_out_of_a_folder_is_not_read(unet, folder_of_peft, tmp_path, name):
    outside, folder = tmp_path / "outside", tmp_path / "given"
    outside.mkdir()
    folder.mkdir()
    for file in folder_of_peft.glob("adapter_*"):
        file.rename(folder / file.name)
    if name == FILE:
        save_lora(random_lora(unet), folder)
        (folder / "adapter_model.safetensors").unlink()
    (folder / name).rename(outside / name)
    (folder / name).symlink_to(outside / name)
    with pytest.raises(ValueError, match=f"{name} is a link that leads out of its folder"):
        load_lora(folder, unet)


@pytest.mark.slow
def test_the_links_of_the_hubs_cache_are_read(unet, folder_of_peft, tmp_path):
    blobs, snapshot = tmp_path / "model" / "blobs", tmp_path / "model" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    wanted = load_lora(folder_of_peft, unet).digest
    for file in folder_of_peft.glob("adapter_*"):
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert load_lora(snapshot, unet).digest == wanted


def test_of_a_folder_nothing_but_weights_and_configuration_is_read(unet, folder_of_peft):
    wanted = load_lora(folder_of_peft, unet).digest
    (folder_of_peft / "README.md").unlink()
    os.mkfifo(folder_of_peft / "README.md")  # whoever opened it would wait for ever
    os.mkfifo(folder_of_peft / "training_args.bin")
    os.mkfifo(folder_of_peft / "adapter_model.bin")
    (folder_of_peft / "config.json").symlink_to("/dev/zero")
    assert load_lora(folder_of_peft, unet).digest == wanted


def test_a_folder_of_several_loras_is_refused_and_one_of_any_name_is_read(unet, tmp_path):
    one = save_lora(random_lora(unet), tmp_path / "one.safetensors")
    assert load_lora(tmp_path, unet).digest == load_lora(one, unet).digest
    save_lora(random_lora(unet), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds 2 LoRAs \(one.safetensors, other.safetensors\)"):
        load_lora(tmp_path, unet)
