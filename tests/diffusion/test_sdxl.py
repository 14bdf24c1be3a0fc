"""Stable Diffusion XL, held to diffusers' own pipeline on a tiny model of its shape."""

from __future__ import annotations

import pytest
import torch
from tiny_models import noise
from tiny_sessions import waves
from tiny_xl import write_xl, xl_pipeline

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.sdxl import StableDiffusionXL
from dragwidget.drag.noise_path import denoise, inverted_latents
from dragwidget.session.source import Generation, generating

SIZE = (64, 48)  # (width, height)
LATENT = (1, 4, 12, 16)
LONG = " ".join(["a cat!"] * 60)  # more tokens than are read


@pytest.fixture(scope="module")
def pipeline(xl_folder):
    return xl_pipeline(xl_folder)


def encoded(pipeline, prompt, negative=None, *, guided=False):
    return pipeline.encode_prompt(
        prompt, device="cpu", do_classifier_free_guidance=guided, negative_prompt=negative
    )


def sizes_told(pipeline, size):
    width, height = size
    return pipeline._get_add_time_ids(
        (height, width),
        (0, 0),
        (height, width),
        torch.float32,
        pipeline.text_encoder_2.config.projection_dim,
    )


def test_a_folder_of_xl_is_loaded_as_it_is(xl, xl_folder):
    assert isinstance(xl, StableDiffusionXL)
    assert xl.name == str(xl_folder)
    assert xl.vae.config["scaling_factor"] == 0.13025
    assert (xl.vae_factor, xl.latent_channels, xl.feature_block_count) == (4, 4, 4)


@pytest.mark.parametrize("prompt", ["a cat", "", "a cat! a dog", "éà 猫"])
def test_a_text_is_read_as_the_pipeline_reads_it(xl, pipeline, prompt):
    wanted, _, pooled, _ = encoded(pipeline, prompt)
    got = xl.embed(prompt)
    assert torch.equal(got.embeddings, wanted)
    assert torch.equal(got.pooled, pooled)


def test_the_network_is_told_the_working_size(xl, pipeline):
    got = xl.encode_text("a cat", SIZE).time_ids
    assert torch.equal(got, sizes_told(pipeline, SIZE))


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("negative", ["", "a dog"])
def test_a_negative_prompt_is_read_as_the_pipeline_reads_it(xl, pipeline, zeros, negative):
    pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
    try:
        wanted = encoded(pipeline, "a cat", negative or None, guided=True)
    finally:
        pipeline.register_to_config(force_zeros_for_empty_prompt=True)
    got = xl.with_parts(zeros_for_empty=zeros).encode_text(
        "a cat", SIZE, negative_prompt=negative, guidance_scale=5.0
    )
    (empty, text), (text_wanted, empty_wanted, pooled, empty_pooled) = got.texts, wanted
    assert torch.equal(text.embeddings, text_wanted)
    assert torch.equal(empty.embeddings, empty_wanted)
    assert torch.equal(text.pooled, pooled)
    assert torch.equal(empty.pooled, empty_pooled)
    assert (negative == "" and zeros) == (not empty.embeddings.any())


def test_what_the_index_says_of_an_empty_negative_prompt_is_read(xl, tmp_path):
    assert xl.zeros_for_empty
    other = load_model(write_xl(tmp_path / "other", zeros=False), device="cpu")
    assert not other.zeros_for_empty
    assert other.fingerprint != xl.fingerprint  # its generations differ
    assert other.with_parts(zeros_for_empty=True).fingerprint == xl.fingerprint


def test_a_text_that_is_too_long_is_cut_as_the_pipeline_cuts_it_with_one_warning(xl, pipeline):
    with pytest.warns(UserWarning, match="the rest is not used") as warned:
        got = xl.embed(LONG)
    assert len(warned) == 1
    assert torch.equal(got.embeddings, encoded(pipeline, LONG)[0])


@pytest.mark.parametrize("timestep", [1, 981])
def test_one_pass_gives_what_the_pipelines_network_gives(xl, pipeline, timestep):
    text, _, pooled, _ = encoded(pipeline, "a cat")
    added = {"text_embeds": pooled, "time_ids": sizes_told(pipeline, SIZE)}
    latent = noise(*LATENT)
    with torch.no_grad():
        wanted = pipeline.unet(
            latent, timestep, encoder_hidden_states=text, added_cond_kwargs=added
        ).sample
    got = xl.predictor(xl.encode_text("a cat", SIZE)).predict(latent, timestep)
    assert torch.equal(got, wanted)


def test_a_batch_of_latents_is_one_latent_after_the_other(xl):
    text = xl.encode_text("a cat", SIZE, negative_prompt="a dog", guidance_scale=5.0)
    latents, predict = noise(3, *LATENT[1:]), xl.predictor(text).predict
    each = torch.cat([predict(latent[None], 501) for latent in latents])
    assert torch.allclose(predict(latents, 501), each, atol=1e-5)


@pytest.mark.loads(
    "model", "diffusers folder", "SDXL", "loads: generates what diffusers does, bit for bit"
)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_generation_is_the_pipelines_to_the_bit(xl, pipeline, scale):
    steps, (width, height) = 4, SIZE
    wanted = pipeline(
        "a cat",
        latents=noise(*LATENT, seed=3),
        num_inference_steps=steps,
        guidance_scale=scale,
        height=height,
        width=width,
        output_type="latent",
    ).images
    made = run(generating(xl, Generation("a cat", "", scale, 3, SIZE, steps)))
    assert torch.equal(made.trajectory[0], noise(*LATENT, seed=3))
    assert torch.equal(made.trajectory[-1], wanted)
    with torch.no_grad():
        decoded = pipeline.vae.decode(wanted / pipeline.vae.config.scaling_factor).sample
    assert torch.equal(xl.decode(wanted), (decoded / 2 + 0.5).clamp(0, 1))


def test_an_image_becomes_the_latent_of_the_configured_scale(xl, pipeline):
    image = torch.from_numpy(waves()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean = pipeline.vae.encode(image).latent_dist.mean
    assert torch.equal(xl.encode(waves()), mean * 0.13025)


def test_inversion_and_the_way_back_are_those_of_diffusers_ddim(xl, pipeline):
    steps, count = 10, 6
    text, _, pooled, _ = encoded(pipeline, "a cat")
    added = {"text_embeds": pooled, "time_ids": sizes_told(pipeline, SIZE)}

    def network(latent, timestep):
        with torch.no_grad():
            return pipeline.unet(
                latent, timestep, encoder_hidden_states=text, added_cond_kwargs=added
            ).sample

    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps[-count:]
    alphas = scheduler.alphas_cumprod
    # DDIM's step solved for the noisier latent, with the network seen at the timestep it goes to.
    wanted = [clean := 0.5 * noise(*LATENT)]
    for timestep in times.flip(0):
        before = timestep - 1000 // steps
        lower = alphas[before] if before >= 0 else scheduler.final_alpha_cumprod
        answer = network(clean, timestep)
        image = (clean - (1 - lower).sqrt() * answer) / lower.sqrt()
        clean = alphas[timestep].sqrt() * image + (1 - alphas[timestep]).sqrt() * answer
        wanted.append(clean)
    back = [clean]
    for timestep in times:
        back.append(scheduler.step(network(back[-1], timestep), timestep, back[-1]).prev_sample)

    predict, schedule = xl.predictor(xl.encode_text("a cat", SIZE)).predict, xl.schedule(steps)
    inverted = [wanted[0], *inverted_latents(predict, wanted[0], schedule, count, method="plain")]
    for got, expected in zip(inverted, wanted, strict=True):
        assert torch.allclose(got, expected, atol=1e-6, rtol=1e-6)
    returned = [wanted[-1], *denoise(predict, wanted[-1], schedule, count)]
    for got, expected in zip(returned, back, strict=True):
        assert torch.equal(got, expected)


def run(steps):
    """Return what a generator returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
