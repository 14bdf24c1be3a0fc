"""Models distilled for a few steps, held to diffusers' own pipelines and schedulers."""

from __future__ import annotations

import shutil

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
)
from few_step_models import CHANNELS, config_of, write_turbo
from original_layout import write_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, kohya_names, make_scheduler, noise
from tiny_xl import write_xl, xl_pipeline

from dragwidget.data.presets import with_preset
from dragwidget.data.settings import InversionSettings, Settings
from dragwidget.diffusion.few_step import few_step_reason, guidance_embedding
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.lora import LoRA, load_lora
from dragwidget.session.source import Generation, generating

# Of diffusers with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_.*:DeprecationWarning")

SIZE = (64, 48)  # (width, height)
LATENT = (1, 4, 12, 16)


def pipeline_of(kind, model, scheduler):
    """diffusers' own pipeline on a model's networks: in a file's memory they round otherwise."""
    pipeline = kind(
        unet=model.unet, vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer,
        scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(steps):
    """Return what a generator returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


# ---------------------------------------------------------------- the guidance scale as an input


@pytest.mark.parametrize("channels", [4, 12, 13, 256])
@pytest.mark.parametrize("scale", [1, 1.5, 7.5, 8.5, 1000])
def test_a_guidance_scale_is_embedded_as_diffusers_does(scale, channels):
    wanted = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.tensor(scale - 1).repeat(1), embedding_dim=channels
    )
    assert torch.equal(guidance_embedding(scale, channels), wanted)


def test_a_guidance_scale_below_one_means_none():
    assert torch.equal(guidance_embedding(0, 8), guidance_embedding(1, 8))


@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_a_pass_gives_what_the_network_gives_in_diffusers_pipeline(lcm, lcm_folder, scale):
    scheduler, seen = LCMScheduler.from_pretrained(lcm_folder / "scheduler"), []
    pipeline = pipeline_of(LatentConsistencyModelPipeline, lcm, scheduler)
    hook = pipeline.unet.register_forward_hook(lambda _, given, output: seen.append(given + output))
    pipeline(
        "a cat", num_inference_steps=3, guidance_scale=scale, latents=noise(*LATENT),
        generator=torch.Generator().manual_seed(1), output_type="latent",
        height=SIZE[1], width=SIZE[0],
    )  # fmt: skip
    hook.remove()
    text = lcm.encode_text("a cat", SIZE, guidance_scale=scale)
    assert len(seen) == 3
    for latent, timestep, wanted in seen:
        assert torch.equal(lcm.predictor(text).predict(latent, int(timestep)), wanted)


def test_every_latent_of_a_batch_is_told_the_same_guidance(lcm):
    latents, text = noise(3, *LATENT[1:]), lcm.encode_text("a cat", SIZE, guidance_scale=4.0)
    predict = lcm.predictor(text).predict
    each = torch.cat([predict(latent[None], 501) for latent in latents])
    assert torch.allclose(predict(latents, 501), each, atol=1e-5)
    other = lcm.predictor(lcm.encode_text("a cat", SIZE)).predict(latents, 501)
    assert not torch.allclose(other, each, atol=1e-4)


@pytest.mark.loads(
    "model",
    "folder whose UNet reads the guidance scale (LCM)",
    "SD 1.x",
    "loads: generates what diffusers does, bit for bit",
)
@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_a_generation_is_that_of_diffusers_pipeline_to_the_bit(lcm, scale):
    scheduler = make_scheduler(timestep_spacing="trailing")
    wanted = pipeline_of(StableDiffusionPipeline, lcm, scheduler)(
        "a cat", latents=noise(*LATENT, seed=3), num_inference_steps=8, guidance_scale=scale,
        height=SIZE[1], width=SIZE[0], output_type="latent",
    ).images  # fmt: skip
    made = run(generating(lcm, Generation("a cat", "", scale, 3, SIZE, 8)))
    assert torch.equal(made.trajectory[-1], wanted)


@pytest.mark.loads(
    "model",
    "folder whose UNet reads the guidance scale (LCM)",
    "SDXL",
    "loads: generates what diffusers does, bit for bit",
)
def test_a_generation_of_xl_that_reads_the_guidance_is_that_of_diffusers_pipeline(tmp_path):
    folder = write_xl(tmp_path / "xl", unet={"time_cond_proj_dim": CHANNELS})
    pipeline, model = xl_pipeline(folder), load_model(folder, device="cpu")
    wanted = pipeline(
        "a cat", latents=noise(*LATENT, seed=3), num_inference_steps=4, guidance_scale=5.0,
        height=SIZE[1], width=SIZE[0], output_type="latent",
    ).images  # fmt: skip
    made = run(generating(model, Generation("a cat", "", 5.0, 3, SIZE, 4)))
    assert torch.equal(made.trajectory[-1], wanted)
    assert model.few_step == "its UNet reads the guidance scale (time_cond_proj_dim)"


def test_a_negative_prompt_that_nothing_would_steer_away_from_is_refused(lcm):
    with pytest.raises(ValueError, match=r"reads the guidance scale.*leave it empty, got 'a dog'"):
        lcm.encode_text("a cat", SIZE, negative_prompt="a dog", guidance_scale=5.0)


def test_a_model_that_reads_no_guidance_scale_is_told_none(lcm, tiny):
    settings = Settings(inversion=InversionSettings(embedded_guidance=7.5))
    assert lcm.check(settings).inversion.embedded_guidance == 7.5
    with pytest.raises(ValueError, match=r"embedded_guidance is 7.5: set it to 1"):
        tiny.check(settings)


@pytest.mark.parametrize("channels", [0, 3, True, "a"])
def test_a_guidance_embedding_of_too_few_channels_is_refused(broken, channels):
    edit_json(broken / "unet" / "config.json", time_cond_proj_dim=channels)
    with pytest.raises(ValueError, match=r"time_cond_proj_dim\); wanted 4 or more"):
        load_model(broken, device="cpu")


def test_a_checkpoint_file_gives_the_model_of_its_folder(lcm, lcm_folder, tmp_path):
    file = write_checkpoint(lcm_folder, tmp_path / "lcm.safetensors")
    assert "model.diffusion_model.time_embed.cond_proj.weight" in load_file(file)
    got = load_model(file, config=lcm_folder, device="cpu")
    assert got.fingerprint == lcm.fingerprint
    # The packaged configurations do not say that a UNet reads the guidance scale: the file does.
    silent = shutil.copytree(lcm_folder, tmp_path / "silent")
    edit_json(silent / "unet" / "config.json", time_cond_proj_dim=None)
    assert load_model(file, config=silent, device="cpu").fingerprint == lcm.fingerprint


# ---------------------------------------------------------------- where the timesteps lie


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_timesteps_lie_as_the_scheduler_of_the_folder_says(tmp_path, spacing, kind):
    folder = write_turbo(
        tmp_path / "model", getattr(diffusers, kind), timestep_spacing=spacing, steps_offset=1
    )
    model = load_model(folder, device="cpu")
    config = config_of(folder)
    assert (config["timestep_spacing"], config["_class_name"]) == (spacing, kind)
    theirs = DDIMScheduler.from_config(config)
    for steps in (1, 4, 8, 10):
        theirs.set_timesteps(steps)
        assert list(model.schedule(steps).timesteps) == theirs.timesteps.tolist()


@pytest.mark.loads(
    "model", "folder with trailing timesteps (Turbo)", "SD 1.x", "loads with its own timesteps"
)
@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 10])
def test_timesteps_of_a_turbo_model_are_those_of_its_own_scheduler(tmp_path, kind, steps):
    folder = write_turbo(tmp_path / "model", getattr(diffusers, kind))
    theirs = getattr(diffusers, kind).from_config(config_of(folder))
    theirs.set_timesteps(steps)
    model = load_model(folder, device="cpu")
    assert list(model.schedule(steps).timesteps) == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 25, 50])
def test_timesteps_of_a_latent_consistency_model_are_those_of_its_own_scheduler(
    lcm, lcm_folder, steps
):
    theirs = LCMScheduler.from_config(config_of(lcm_folder))
    theirs.set_timesteps(steps)
    assert list(lcm.schedule(steps).timesteps) == theirs.timesteps.tolist()


def test_a_spacing_that_is_asked_for_counts_before_the_models_own(tiny, lcm):
    trailing = lcm.schedule(8).timesteps
    assert trailing == lcm.spaced(8, "model").timesteps == tiny.spaced(8, "trailing").timesteps
    assert tiny.schedule(8).timesteps == lcm.spaced(8, "leading").timesteps != trailing


def test_a_spacing_that_diffusers_does_not_know_is_refused(broken):
    edit_json(broken / "scheduler" / "scheduler_config.json", timestep_spacing="random")
    with pytest.raises(ValueError, match=r"timestep_spacing 'random'; wanted one of leading, lin"):
        load_model(broken, device="cpu")


def test_a_model_of_another_spacing_is_another_model(tiny):
    other = tiny.with_parts(spacing="trailing")
    assert other.fingerprint != tiny.fingerprint
    assert other.with_parts(spacing="leading").fingerprint == tiny.fingerprint


# ---------------------------------------------------------------- which models are of a few steps


@pytest.mark.parametrize(
    ("channels", "kind", "spacing", "told"),
    [
        (256, "DDIMScheduler", "leading", "reads the guidance scale"),
        (None, "LCMScheduler", "trailing", "its scheduler is LCMScheduler"),
        (None, "TCDScheduler", "trailing", "its scheduler is TCDScheduler"),
        (None, "EulerDiscreteScheduler", "trailing", "EulerDiscreteScheduler with trailing"),
        (None, "EulerAncestralDiscreteScheduler", "trailing", "with trailing timesteps"),
        (None, "EulerDiscreteScheduler", "leading", ""),
        (None, "DDIMScheduler", "trailing", ""),
        (None, "PNDMScheduler", "leading", ""),
    ],
)
def test_a_model_of_a_few_steps_is_told_by_its_files(channels, kind, spacing, told):
    reason = few_step_reason({"time_cond_proj_dim": channels}, kind, spacing, zero_snr=False)
    assert told in reason
    assert bool(told) == bool(reason)


def test_a_model_that_ends_in_pure_noise_trails_and_takes_many_steps(tmp_path):
    folder = write_turbo(
        tmp_path / "model", diffusers.EulerDiscreteScheduler,
        rescale_betas_zero_snr=True, prediction_type="v_prediction",
    )  # fmt: skip
    model = load_model(folder, device="cpu")
    assert (model.spacing, model.few_step) == ("trailing", "")
    assert model.schedule(4).timesteps == (999, 749, 499, 249)
    assert model.alphas_cumprod[-1] == 0


def test_a_name_makes_no_model_one_of_a_few_steps(tiny_folder, tiny, tmp_path):
    link = tmp_path / "sdxl-turbo-lcm"
    link.symlink_to(tiny_folder)
    model = load_model(link, device="cpu")
    assert model.few_step == ""
    assert model.recommended == tiny.recommended


def test_a_model_of_a_few_steps_recommends_few(lcm, tiny):
    assert lcm.recommended == with_preset(tiny.recommended, "few-step")
    assert (lcm.recommended.inversion.steps, lcm.recommended.lora.steps) == (10, 0)
    assert lcm.recommended.drag.method == "warp"
    assert lcm.recommended.drag.feature_blocks == tiny.recommended.drag.feature_blocks


# ---------------------------------------------------------------- a LoRA that makes it one

LCM_LORA = (  # what the published LCM-LoRA changes
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip


def lcm_lora(unet, rank=4):
    """A LoRA of these layers, with random weights."""
    down, up = {}, {}
    for path, layer in unet.named_modules():
        if path.endswith(LCM_LORA):
            outputs, inputs, *kernel = layer.weight.shape
            scale = (inputs * 9) ** -0.5
            down[path] = scale * noise(rank, inputs, *kernel, seed=len(down))
            up[path] = 0.5 * noise(outputs, rank, *[1 for _ in kernel], seed=len(down) + 500)
    return LoRA(down, up)


def test_an_lcm_lora_has_the_effect_that_diffusers_gives_it(tiny, tiny_folder, tmp_path):
    save_file(kohya_names(lcm_lora(tiny.unet), alpha=4.0), tmp_path / "lora.safetensors")
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder)
        pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    text, latent = tiny.encode_text("a cat", SIZE), noise(*LATENT)
    with torch.no_grad():
        wanted = pipeline.unet(latent, 799, encoder_hidden_states=text.prompt).sample
    lora = load_lora(tmp_path / "lora.safetensors", tiny.unet)
    assert {path.rsplit(".", 1)[-1] for path in lora.down} >= {"conv1", "time_emb_proj", "to_q"}
    plain, got = (tiny.predictor(text, each).predict(latent, 799) for each in (None, lora))
    assert float((wanted - plain).abs().max()) > 0.05
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=5e-4)
