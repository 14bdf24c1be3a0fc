"""Stable Diffusion 3, held to diffusers' own pipeline on a tiny model of its shape."""

from __future__ import annotations

import pytest
import torch
from test_sdxl import LONG, SIZE, run
from tiny_models import noise
from tiny_sd3 import sd3_pipeline, write_sd3
from tiny_sessions import waves
from torch.nn.functional import scaled_dot_product_attention

from dragwidget.diffusion.backbone import SelfAttention
from dragwidget.diffusion.joint_blocks import attention_layers
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.sd3 import StableDiffusion3
from dragwidget.drag.correspondence import correspondence
from dragwidget.drag.noise_path import denoise, invert
from dragwidget.session.source import Generation, generating

LATENT = (1, 16, 12, 16)
GRID = (6, 8)  # tokens


@pytest.fixture(scope="module")
def pipeline(sd3_folder):
    return sd3_pipeline(sd3_folder)


def encoded(pipeline, prompt, negative=None, *, guided=False):
    with torch.no_grad():
        return pipeline.encode_prompt(
            prompt, None, None, device="cpu", do_classifier_free_guidance=guided,
            negative_prompt=negative,
        )  # fmt: skip


def test_a_folder_of_sd3_is_loaded_as_it_is(sd3, sd3_folder):
    assert isinstance(sd3, StableDiffusion3)
    assert sd3.name == str(sd3_folder)
    assert (sd3.vae_factor, sd3.latent_channels, sd3.image_multiple) == (4, 16, 8)
    assert (sd3.feature_block_count, sd3.self_attention_count) == (4, 6)
    assert sd3.shift == 3.0
    assert sd3.recommended.lora.steps == 0
    assert sd3.recommended.render.start_layer == 3  # the third block's first
    assert sd3.decoder_attention == (3, 4, 5)


@pytest.mark.parametrize("prompt", ["a cat", "", "a cat! a dog"])
def test_a_text_is_read_as_the_pipeline_reads_it(sd3, pipeline, prompt):
    wanted, _, pooled, _ = encoded(pipeline, prompt)
    got = sd3.embed(prompt)
    assert got.embeddings.shape == (1, 77 + 256, 40)
    assert torch.equal(got.embeddings, wanted)
    assert torch.equal(got.pooled, pooled)


def test_zeros_stand_for_a_t5_that_is_not_there(sd3, tmp_path):
    folder = write_sd3(tmp_path / "none", t5=False)
    model = load_model(folder, device="cpu", dtype="float32")
    wanted, _, pooled, _ = encoded(sd3_pipeline(folder), "a cat")
    got = model.embed("a cat")
    assert torch.equal(got.embeddings, wanted)
    assert torch.equal(got.pooled, pooled)
    assert not got.embeddings[:, 77:].any()
    assert sd3.embed("a cat").embeddings[:, 77:].any()
    assert set(sd3.networks) - set(model.networks) == {"text_encoder_3"}
    with pytest.warns(UserWarning, match=r"tokens and this model reads 75: the rest is not used"):
        model.embed(LONG)


def test_a_negative_prompt_is_read_as_the_pipeline_reads_it(sd3, pipeline):
    wanted = encoded(pipeline, "a cat", "a dog", guided=True)
    got = sd3.encode_text("a cat", SIZE, negative_prompt="a dog", guidance_scale=5.0)
    (other, text), (text_wanted, other_wanted, pooled, other_pooled) = got.texts, wanted
    assert torch.equal(text.embeddings, text_wanted)
    assert torch.equal(other.embeddings, other_wanted)
    assert torch.equal(text.pooled, pooled)
    assert torch.equal(other.pooled, other_pooled)


def test_a_text_that_is_too_long_for_the_t5_is_cut_with_one_warning(sd3, pipeline):
    long = " ".join(["a cat!"] * 200)
    with pytest.warns(UserWarning, match=r"and this model reads 255: the rest is not") as warned:
        got = sd3.embed(long)
    assert len(warned) == 1
    assert torch.equal(got.embeddings, encoded(pipeline, long)[0])


def test_one_pass_gives_what_the_pipelines_network_gives(sd3, pipeline):
    text, _, pooled, _ = encoded(pipeline, "a cat")
    predict = sd3.predictor(sd3.encode_text("a cat", SIZE)).predict
    for timestep in sd3.schedule(7).timesteps:
        with torch.no_grad():
            wanted = pipeline.transformer(
                hidden_states=noise(*LATENT),
                timestep=torch.tensor([timestep]),
                encoder_hidden_states=text,
                pooled_projections=pooled,
            ).sample
        assert torch.equal(predict(noise(*LATENT), timestep), wanted)


def test_a_batch_of_latents_is_one_latent_after_the_other(sd3):
    text = sd3.encode_text("a cat", SIZE, negative_prompt="a dog", guidance_scale=5.0)
    latents, predict = noise(3, *LATENT[1:]), sd3.predictor(text).predict
    each = torch.cat([predict(latent[None], 500.0) for latent in latents])
    assert torch.allclose(predict(latents, 500.0), each, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_generation_is_the_pipelines_to_the_bit(sd3, pipeline, scale):
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
    made = run(generating(sd3, Generation("a cat", "", scale, 3, SIZE, steps)))
    assert torch.equal(made.trajectory[0], noise(*LATENT, seed=3))
    assert torch.equal(made.trajectory[-1], wanted)
    config = pipeline.vae.config
    with torch.no_grad():
        shifted = wanted / config.scaling_factor + config.shift_factor
        decoded = pipeline.vae.decode(shifted).sample
    assert torch.equal(sd3.decode(wanted), (decoded / 2 + 0.5).clamp(0, 1))


def test_an_image_becomes_the_latent_of_the_configured_shift_and_scale(sd3, pipeline):
    image = torch.from_numpy(waves()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean = pipeline.vae.encode(image).latent_dist.mean
    assert torch.equal(sd3.encode(waves()), (mean - 0.0609) * 1.5305)


def test_features_are_the_image_tokens_behind_a_block_as_a_map(sd3):
    predictor, seen = sd3.predictor(sd3.encode_text("a cat", SIZE)), []
    hooks = [
        block.register_forward_hook(lambda *call: seen.append(call[-1][1]))
        for block in sd3.transformer.transformer_blocks
    ]
    whole = predictor(noise(*LATENT), 500.0, blocks=(2, 0, -1))
    assert len(seen) == 4
    for number, got in zip((2, 0, 3), whole.features, strict=True):
        assert got.shape == (1, 24, *GRID)
        assert torch.equal(got[0, :, 1, 3], seen[number][0, 1 * GRID[1] + 3])
    seen.clear()
    short = predictor(noise(*LATENT), 500.0, blocks=(1,), predict=False)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2  # the pass ended there
    assert short.prediction is None
    with pytest.raises(ValueError, match="no feature block 4: its joint blocks are 0 to 3"):
        predictor(noise(*LATENT), 500.0, blocks=(4,))


def test_the_sources_own_keys_and_values_change_nothing(sd3):
    predictor, layers = sd3.predictor(sd3.encode_text("a cat", SIZE)), tuple(range(6))
    latent = noise(*LATENT)
    plain = predictor(latent, 500.0, attention=SelfAttention(layers))
    assert [tuple(state.shape) for state in plain.states] == [(1, 48, 24)] * 6
    again = predictor(latent, 500.0, attention=SelfAttention(layers, plain.states))
    assert torch.equal(again.prediction, plain.prediction)
    other = predictor(noise(*LATENT, seed=1), 500.0, attention=SelfAttention(layers, plain.states))
    assert not torch.equal(other.prediction, predictor.predict(noise(*LATENT, seed=1), 500.0))


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_layer_takes_image_keys_from_the_source_and_text_keys_from_itself(sd3, number):
    predictor = sd3.predictor(sd3.encode_text("a cat", SIZE))
    source = predictor(noise(*LATENT), 500.0, attention=SelfAttention((number,))).states[0]
    layer, calls = attention_layers(sd3.transformer)[number], []
    hook = layer.register_forward_hook(
        lambda _, __, given, made: calls.append((given, made)), with_kwargs=True
    )
    predictor(noise(*LATENT, seed=1), 500.0, attention=SelfAttention((number,), (source,)))
    hook.remove()
    given, made = calls[0]
    image = made[0] if isinstance(made, tuple) else made
    own, text = given["hidden_states"], given.get("encoder_hidden_states")

    def heads(values):
        return values.unflatten(2, (3, 8)).transpose(1, 2)

    with torch.no_grad():
        query, key = layer.norm_q(heads(layer.to_q(own))), layer.norm_k(heads(layer.to_k(source)))
        value = heads(layer.to_v(source))
        if text is not None:
            query = torch.cat([query, layer.norm_added_q(heads(layer.add_q_proj(text)))], 2)
            key = torch.cat([key, layer.norm_added_k(heads(layer.add_k_proj(text)))], 2)
            value = torch.cat([value, heads(layer.add_v_proj(text))], 2)
        out = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        wanted = layer.to_out[0](out[:, : own.shape[1]])
    assert torch.allclose(image, wanted, atol=1e-5)


def test_a_map_that_moves_nothing_gives_the_source_back(sd3):
    predictor, layers = sd3.predictor(sd3.encode_text("a cat", SIZE)), tuple(range(6))
    latent = noise(*LATENT)
    plain = predictor(latent, 500.0, attention=SelfAttention(layers))
    still = correspondence(LATENT[2:], torch.ones(1, 2) * 4, torch.ones(1, 2) * 4)
    moved = correspondence(LATENT[2:], torch.ones(1, 2) * 4, torch.tensor([[4.0, 8.0]]))
    for gate in (0.0, 1.0):
        same = predictor(latent, 500.0, attention=SelfAttention(layers, plain.states, still, gate))
        assert torch.allclose(same.prediction, plain.prediction, atol=1e-4)
        far = predictor(latent, 500.0, attention=SelfAttention(layers, plain.states, moved, gate))
        assert not torch.allclose(far.prediction, plain.prediction, atol=1e-2)


def test_in_low_memory_the_gradient_is_the_same_bit_for_bit(sd3):
    grads = []
    for model in (sd3, sd3.with_memory("low")):
        predictor = model.predictor(model.encode_text("a cat", SIZE))
        states = predictor(noise(*LATENT), 500.0, attention=SelfAttention((3, 4, 5))).states
        latent = noise(*LATENT, seed=1).requires_grad_()
        output = predictor(latent, 500.0, blocks=(1, 2), attention=SelfAttention((3, 4, 5), states))
        loss = output.prediction.square().sum() + sum(f.square().sum() for f in output.features)
        grads.append(torch.autograd.grad(loss, latent)[0])
    assert torch.equal(*grads)
    assert grads[0].abs().max() > 0


def test_looking_ahead_inverts_nearer_than_the_plain_way(sd3):
    """Round trip of 19 of 28 steps, error in shares of how far the latent moves."""
    predict, path = sd3.predictor(sd3.encode_text("a cat", SIZE)).predict, sd3.schedule(28)
    clean, errors = sd3.encode(waves()), {}
    for method in ("plain", "lookahead"):
        *_, noisy = invert(predict, clean, path, 19, method=method)
        *_, back = denoise(predict, noisy, path, 19)
        errors[method] = float((back - clean).norm() / (noisy - clean).norm())
    assert errors["lookahead"] < errors["plain"] / 3  # measured: 0.0134 and 0.0475
