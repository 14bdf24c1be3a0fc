"""Models in diffusers' layout: what is loaded, what of it is counted, where it is put."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, make_vae, noise, write_model

from dragwidget.data.settings import DragSettings, LoRASettings, Settings
from dragwidget.diffusion.loading import choose_device, choose_dtype, load_model
from dragwidget.diffusion.sd import Conditioning
from dragwidget.diffusion.unet import self_attention_layers
from dragwidget.drag import denoise, invert


@pytest.mark.loads("model", "diffusers folder", "SD 1.x", "loads")
def test_a_folder_is_loaded(tiny, tiny_folder):
    assert tiny.name == str(tiny_folder)
    assert tiny.device == torch.device("cpu")
    assert tiny.dtype == torch.float32
    assert tiny.vae_factor == 4
    assert tiny.latent_channels == 4
    assert tiny.image_side == 64
    assert tiny.feature_block_count == 5
    assert tiny.prediction_type == "epsilon"
    assert tiny.schedule(50).timesteps[15] == 681


def test_no_weight_takes_a_gradient(tiny):
    for network in (tiny.unet, tiny.vae, tiny.text_encoder):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert not network.training


def test_loading_says_nothing(tiny_folder, capfd, caplog):
    load_model(tiny_folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_loading_leaves_the_libraries_as_talkative_as_they_were(tiny_folder):
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as of_transformers

    def state():
        logs = of_diffusers, of_transformers
        bars = [log.is_progress_bar_enabled() for log in logs]
        return [log.get_verbosity() for log in logs], bars, are_progress_bars_disabled()

    before = state()
    load_model(tiny_folder, device="cpu")
    with pytest.raises(ValueError, match=r"the vae of .* is a 'UNet2DConditionModel'"):
        load_model(tiny_folder, vae=tiny_folder / "unet", device="cpu")
    assert state() == before


# ---------------------------------------------------------------- other shapes of model


@pytest.mark.slow
def test_the_papers_places_are_counted_in_a_model_of_the_papers_shape(tmp_path):
    model = load_model(write_model(tmp_path / "sd", unet={"layers_per_block": 2}), device="cpu")
    assert len(self_attention_layers(model.unet)) == 16
    assert model.recommended == model.numbered(Settings())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "block", "layers", "first_layer"),
    [((8, 8, 16, 16), 3, 10, 6), ((8, 8, 16), 2, 7, 3), ((8, 16), 1, 4, 2)],
)
def test_the_same_places_are_recommended_in_other_shapes(
    tmp_path, channels, block, layers, first_layer
):
    """The last up block but one: its output is compared, and mutual attention starts in it."""
    model = load_model(write_model(tmp_path / "model", channels=channels), device="cpu")
    assert len(self_attention_layers(model.unet)) == layers
    assert model.recommended.drag.feature_blocks == (block,)
    assert model.recommended.render.start_layer == first_layer
    with torch.no_grad():
        output = model.predictor(Conditioning(model.embed("")))(noise(1, 4, 16, 16), 1,
                                                                blocks=(block,))  # fmt: skip
    assert output.features[0].shape[0] == 1


def test_a_folder_may_recommend_its_own_settings(broken):
    wanted = Settings(drag=DragSettings(learning_rate=0.03), lora=LoRASettings(steps=7))
    (broken / "dragwidget.json").write_text(json.dumps({"recommended": wanted.to_dict()}))
    assert load_model(broken, device="cpu").recommended == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"recommended": {"drag": {"speed": 1}}}', '{"recommended": {"drag": 3}}',
     '{"recommended": {"drag": {"steps": "many"}}}'],
)  # fmt: skip
def test_recommended_settings_that_cannot_be_read_are_refused_by_file(broken, content):
    (broken / "dragwidget.json").write_text(content)
    with pytest.raises(ValueError, match=r"dragwidget.json recommends no settings"):
        load_model(broken, device="cpu")


def test_a_folder_may_ask_for_samples_of_the_posterior_with_noise_that_is_always_the_same(
    broken, tiny
):
    about = {"recommended": Settings().to_dict(), "encoding": "sample"}
    (broken / "dragwidget.json").write_text(json.dumps(about))
    one, other = (load_model(broken, device="cpu") for _ in range(2))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 3), np.uint8)
    sample = one.encode(pixels)
    assert torch.equal(sample, other.encode(pixels))
    assert torch.equal(sample, one.encode(pixels, generator=torch.Generator().manual_seed(0)))
    assert not torch.allclose(sample, tiny.encode(pixels))
    assert one.fingerprint == other.fingerprint != tiny.fingerprint


@pytest.mark.parametrize("encoding", ["median", 3, None])
def test_an_encoding_that_there_is_not_is_refused(broken, encoding):
    about = {"recommended": Settings().to_dict(), "encoding": encoding}
    (broken / "dragwidget.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"accepted are mean and sample, got"):
        load_model(broken, device="cpu")


def test_a_variant_may_recommend_its_own_settings(broken):
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.base.safetensors"))
    for name, steps in (("dragwidget.json", 7), ("dragwidget.base.json", 8)):
        about = {"recommended": Settings(lora=LoRASettings(steps=steps)).to_dict()}
        (broken / name).write_text(json.dumps(about))
    assert load_model(broken, device="cpu").recommended.lora.steps == 7
    assert load_model(broken, device="cpu", variant="base").recommended.lora.steps == 8


@pytest.fixture(scope="module")
def velocity(tmp_path_factory):
    """Of the shape of Stable Diffusion 2.x."""
    folder = write_model(
        tmp_path_factory.mktemp("models") / "two",
        unet={"use_linear_projection": True, "attention_head_dim": (2, 2, 4, 4)},
        text_encoder={"hidden_act": "gelu"},
        scheduler={"prediction_type": "v_prediction"},
    )
    return load_model(folder, device="cpu", dtype="float32")


@pytest.mark.loads(
    "model",
    "diffusers folder whose scheduler says `v_prediction`",
    "SD 2.x",
    "loads, predicts velocity",
)
def test_a_model_that_predicts_velocity_is_loaded_as_such(velocity):
    assert velocity.prediction_type == "v_prediction"
    assert velocity.schedule(50).prediction_type == "v_prediction"


@pytest.mark.slow
def test_a_model_that_predicts_velocity_comes_back_from_its_inversion(velocity):
    predict = velocity.predictor(Conditioning(velocity.embed("a cat"))).predict
    latent, schedule = noise(1, 4, 16, 16), velocity.schedule(50)
    *_, there = invert(predict, latent, schedule, 10)
    *_, back = denoise(predict, there, schedule, 10)
    assert (back - latent).abs().mean() < 0.2 * (there - latent).abs().mean()


def test_a_scheduler_of_another_kind_gives_its_noise_levels(broken, tiny):
    """Stable Diffusion 1.5 comes with one that is not DDIM's."""
    edit_json(
        broken / "scheduler" / "scheduler_config.json",
        _class_name="PNDMScheduler", skip_prk_steps=True, clip_sample=..., timestep_spacing=...,
    )  # fmt: skip
    model = load_model(broken, device="cpu")
    assert model.schedule(50).timesteps == tiny.schedule(50).timesteps
    assert torch.equal(model.alphas_cumprod, tiny.alphas_cumprod)


@pytest.mark.loads(
    "autoencoder",
    "folder of an autoencoder, or of a whole model, by `vae=`",
    "SD 1.x",
    "takes the place of the model's own",
)
def test_another_autoencoder_takes_the_place_of_its_own(tiny_folder, tiny, tmp_path):
    torch.manual_seed(5)
    make_vae(scaling_factor=0.5).save_pretrained(tmp_path / "vae-only")
    model = load_model(tiny_folder, vae=tmp_path / "vae-only", device="cpu")
    assert model.vae.config["scaling_factor"] == 0.5
    assert model.fingerprint != tiny.fingerprint


@pytest.mark.loads("model", "folder of float16 weights", "SD 1.x", "loads")
def test_half_precision_weights_are_read(broken, tiny):
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: t.half() for k, t in load_file(file).items()}, file, metadata={"format": "pt"})
    model = load_model(broken, device="cpu", dtype="float32")
    assert model.dtype == torch.float32
    for mine, theirs in zip(model.unet.parameters(), tiny.unet.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- where, and how precise


def test_the_device_is_chosen_by_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.backends.mps.is_available():
        expected = "mps"
    assert choose_device("auto").type == expected
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "cpu:cpu", None, 7.5])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ValueError, match=r"device must be 'auto', 'cuda'|there is no cuda"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "mps:9", "xpu:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"there is no {name} here: use device='auto'"):
        choose_device(name)


def test_the_type_is_chosen_by_device():
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("mps")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_dtype(torch.float16, torch.device("cpu")) == torch.float16


@pytest.mark.parametrize("name", ["fp16", "int8", torch.int32, "nn", ""])
def test_an_unknown_type_is_refused(name):
    with pytest.raises(ValueError, match="dtype must be 'auto', 'float16'"):
        choose_dtype(name, torch.device("cpu"))


def test_a_wrong_device_or_type_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="device must be"):
        load_model("nobody/nothing", device="gpu")
    with pytest.raises(ValueError, match="dtype must be"):
        load_model("nobody/nothing", device="cpu", dtype="fp16")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_all_networks_have_the_type_asked_for(tiny_folder, dtype):
    model = load_model(tiny_folder, device="cpu", dtype=dtype)
    for network in (model.unet, model.vae, model.text_encoder):
        assert {p.dtype for p in network.parameters()} == {getattr(torch, dtype)}
    assert model.embed("a cat").dtype == torch.float32
    assert model.alphas_cumprod.dtype == torch.float32


# ---------------------------------------------------------------- code that comes with a model


@pytest.mark.loads(
    "model", "folder with code beside its files", "any", "loads; the code never runs"
)
def test_code_that_comes_with_a_model_is_never_run(broken, tmp_path):
    canary = tmp_path / "canary"
    for folder in (broken, broken / "unet", broken / "text_encoder", broken / "tokenizer"):
        (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\n")
    edit_json(broken / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    edit_json(broken / "unet" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    edit_json(
        broken / "tokenizer" / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Evil", None]},
    )
    load_model(broken, device="cpu")
    edit_json(broken / "model_index.json", unet=["evil", "Evil"])
    load_model(broken, device="cpu")
    assert not canary.exists()


def test_a_copy_under_another_name_is_the_same_model(tiny_folder, tiny, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert load_model(str(copy), device="cpu").fingerprint == tiny.fingerprint
