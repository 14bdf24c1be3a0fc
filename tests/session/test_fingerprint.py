"""What stands for a model: all that a result depends on, and nothing else."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, make_unet
from tiny_sessions import ask, session_on

from dragwidget.diffusion.fingerprint import _digest as hash_of
from dragwidget.diffusion.fingerprint import _tensors as hashed_tensors
from dragwidget.diffusion.fingerprint import digest_of
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.session.cached_stages import find_inversion, keep_inversion
from dragwidget.storage.cache import Store


@pytest.fixture
def own(tiny):
    """The tiny model with networks of its own, to be changed."""
    networks = ("unet", "vae", "text_encoder", "tokenizer")
    return tiny.with_parts(**{name: copy.deepcopy(getattr(tiny, name)) for name in networks})


def test_the_same_model_has_the_same_fingerprint_wherever_it_lies(broken, tiny):
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


def test_the_precision_is_part_of_the_fingerprint(tiny_folder, tiny):
    other = load_model(tiny_folder, device="cpu", dtype="bfloat16")
    assert other.fingerprint != tiny.fingerprint


def test_two_models_made_in_code_are_told_apart(tiny):
    """By what they are: they may have one name."""
    torch.manual_seed(7)
    assert tiny.with_parts(unet=make_unet()).fingerprint != tiny.fingerprint
    assert tiny.with_parts(name="other", memory="low").fingerprint == tiny.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}),
        ("scheduler/scheduler_config.json", {"steps_offset": 0}),
        ("vae/config.json", {"scaling_factor": 0.5}),
        ("vae/config.json", {"act_fn": "gelu"}),
        ("vae/config.json", {"norm_num_groups": 2}),
        ("unet/config.json", {"act_fn": "gelu"}),
        ("unet/config.json", {"attention_head_dim": 4}),
        ("unet/config.json", {"flip_sin_to_cos": False}),
        ("unet/config.json", {"freq_shift": 1}),
        ("unet/config.json", {"norm_eps": 1e-3}),
        ("unet/config.json", {"norm_num_groups": 2}),
        ("unet/config.json", {"center_input_sample": True}),
        ("unet/config.json", {"resnet_out_scale_factor": 2.0}),
        ("unet/config.json", {"sample_size": 8}),
        ("text_encoder/config.json", {"hidden_act": "relu"}),
        ("text_encoder/config.json", {"num_attention_heads": 4}),
        ("text_encoder/config.json", {"layer_norm_eps": 1e-2}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 20}),
        ("tokenizer/tokenizer_config.json", {"pad_token": "<|startoftext|>"}),
    ],
)
def test_every_setting_that_decides_a_result_is_part_of_the_fingerprint(broken, tiny, file, change):
    edit_json(broken / file, **change)
    assert load_model(broken, device="cpu").fingerprint != tiny.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["unet/config.json", "vae/config.json", "text_encoder/config.json"]
)
def test_what_wrote_a_configuration_is_not(broken, tiny, file):
    edit_json(broken / file, _name_or_path="elsewhere", _diffusers_version="0.1")
    if file.startswith("text"):
        edit_json(broken / file, transformers_version="4.0")
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


def test_a_default_that_is_spelled_out_is_the_same_setting(broken, tiny):
    edit_json(broken / "unet" / "config.json", norm_eps=..., freq_shift=...)
    edit_json(broken / "text_encoder" / "config.json", layer_norm_eps=...)
    assert load_model(broken, device="cpu").fingerprint == tiny.fingerprint


def test_the_merges_of_the_tokenizer_are_part_of_the_fingerprint(broken, tiny):
    merges = broken / "tokenizer" / "merges.txt"
    assert len(merges.read_text().splitlines()) > 2
    merges.write_text("\n".join(merges.read_text().splitlines()[:1]) + "\n")
    assert load_model(broken, device="cpu").fingerprint != tiny.fingerprint


def test_the_words_of_the_tokenizer_are_part_of_the_fingerprint(broken, tiny):
    file = broken / "tokenizer" / "vocab.json"
    words = json.loads(file.read_text())
    one, other = list(words)[100:102]
    words[one], words[other] = words[other], words[one]
    file.write_text(json.dumps(words))
    assert load_model(broken, device="cpu").fingerprint != tiny.fingerprint


def test_every_weight_and_buffer_is_hashed(own):
    hashed = {name for name, _ in hashed_tensors(own)}
    for part in ("unet", "vae", "text_encoder"):
        assert {f"{part}.{name}" for name in getattr(own, part).state_dict()} <= hashed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_value_of_a_weight_is_hashed(dtype):
    weight = torch.linspace(-1, 1, 24).to(dtype).view(2, 3, 4)
    digests = {hash_of(weight)}
    for place in range(24):
        changed = weight.clone()
        changed.view(-1)[place] += 0.5
        digests.add(hash_of(changed))
    assert len(digests) == 25
    assert hash_of(weight.transpose(0, 2).contiguous().transpose(0, 2)) in digests  # as it lies


@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_one_value_anywhere_makes_another_fingerprint(own, part):
    before = digest_of(own)
    weights = list(getattr(own, part).parameters())
    weights[len(weights) // 3].detach().view(-1)[-1] += 1e-3
    assert digest_of(own) != before


def test_weights_of_a_file_that_differ_between_samples_are_told_apart(broken, tiny):
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for weight in weights.values():
        weight.view(-1)[-1] += 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    assert load_model(broken, device="cpu").fingerprint != tiny.fingerprint


def test_reading_a_text_does_not_change_the_fingerprint(own):
    before = own.fingerprint
    own.embed("a cat")
    assert digest_of(own) == before


# ---------------------------------------------------------------- changed after it was loaded


def fuse(model):
    """As diffusers and peft merge a LoRA: behind the back of PyTorch's count of changes."""
    for name, module in model.unet.named_modules():
        if name.endswith("to_q"):
            module.weight.data += 0.1 * torch.ones_like(module.weight)


def reload(model):
    model.unet.load_state_dict({k: v + 0.1 for k, v in model.unet.state_dict().items()})


def one_value(model):
    with torch.no_grad():
        model.unet.conv_out.weight[0, 1, 2, 0] += 1


def another_network(model):
    torch.manual_seed(7)
    model.unet = make_unet().eval().requires_grad_(False)


def another_kind_of_prediction(model):
    model.prediction_type = "v_prediction"


def another_scale(model):
    model.vae.register_to_config(scaling_factor=0.5)


CHANGES = [fuse, reload, one_value, another_network, another_kind_of_prediction, another_scale]


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_was_changed_in_place_has_another_fingerprint(own, change):
    before = own.fingerprint
    change(own)
    assert own.fingerprint != before


def test_moving_a_model_changes_nothing(own):
    before = own.fingerprint
    torch.nn.Module.to(own.unet, torch.float64)
    assert own.fingerprint != before
    torch.nn.Module.to(own.unet, torch.float32)
    assert own.fingerprint == before
    own.unet.to(memory_format=torch.channels_last)
    assert own.fingerprint == before


def test_the_fingerprint_is_made_once(own, monkeypatch):
    first = own.fingerprint

    def again(_model):
        raise AssertionError("hashed again")

    monkeypatch.setattr("dragwidget.diffusion.latent_backbone.digest_of", again)
    assert own.fingerprint == first


@pytest.mark.slow
@pytest.mark.parametrize("change", [fuse, reload, one_value])
def test_what_was_made_with_other_weights_is_outdated_and_comes_back_with_them(own, change):
    weights = copy.deepcopy(own.unet.state_dict())
    session = session_on(own, lora_steps=2)
    session.instructions = ask()
    session.step(2)
    made, history = session.invert(), session.history
    change(own)
    remade = session.invert()
    assert not torch.equal(remade.latents[-1], made.latents[-1])
    assert len(session.history) == 0
    fresh = session_on(own, lora_steps=2)
    assert torch.equal(remade.latents[-1], fresh.invert().latents[-1])
    own.unet.load_state_dict(weights)
    assert session.invert() is made
    assert session.history is history


@pytest.mark.slow
def test_the_status_says_that_the_weights_were_changed(own):
    session = session_on(own, lora_steps=2)
    session.prepare()
    fuse(own)
    session.train_lora()  # where something is to be made, the weights are looked at
    assert session.status["inversion"].why == "the model's weights changed since it was made"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["training", "preparing"])
def test_a_stage_during_which_the_weights_were_changed_is_refused_and_not_kept(
    own, tmp_path, stage
):
    session = session_on(own, lora_steps=2 if stage == "training" else 0)
    session.stages.store = Store(tmp_path)
    work = session.training_lora() if stage == "training" else session.preparing()
    next(work)
    fuse(own)
    with pytest.raises(RuntimeError, match="weights changed while a stage was computed"):
        list(work)
    assert not list(tmp_path.rglob("*.safetensors"))


# ---------------------------------------------------------------- what a store tells apart


def kept_latents(model, store, *, keep):
    session = session_on(model)
    if keep:
        latents = session.invert().latents
        keep_inversion(store, model, session.request, None, latents)
    found = find_inversion(store, model, session.request, None)
    return None if found is None else found[0]


def test_other_attention_processors_find_nothing_of_the_usual_ones(own, tmp_path):
    store = Store(tmp_path)
    assert kept_latents(own, store, keep=True)
    own.unet.set_attn_processor(AttnProcessor())
    assert kept_latents(own, store, keep=False) is None


def test_another_precision_of_float32_products_finds_nothing_of_the_usual_one(own, tmp_path):
    store = Store(tmp_path)
    assert kept_latents(own, store, keep=True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert kept_latents(own, store, keep=False) is None
    finally:
        torch.set_float32_matmul_precision(before)
    assert kept_latents(own, store, keep=False)


def test_a_session_file_of_other_weights_is_refused(own, tmp_path):
    session = session_on(own)
    session.instructions = ask()
    session.step()
    session.save(tmp_path / "edit.drag")
    one_value(own)
    with pytest.raises(ValueError, match="whose weights are not those of"):
        type(session).load(tmp_path / "edit.drag", own)


def test_a_model_is_told_from_a_subclass_that_computes_otherwise(own):
    class Other(StableDiffusion):
        pass

    assert Other(**own.parts).fingerprint != own.fingerprint
