"""What goes into a model and comes out of it: prompts and images."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from tiny_models import edit_json, make_text_encoder, noise

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.text import MAX_PROMPT

# ---------------------------------------------------------------- prompts


def test_a_prompt_is_embedded_as_the_text_encoder_does(tiny):
    tokens = tiny.tokenizer("a cat").input_ids
    padded = torch.tensor([tokens + [tiny.tokenizer.pad_token_id] * (77 - len(tokens))])
    with torch.no_grad():
        wanted = tiny.text_encoder(padded).last_hidden_state
    assert torch.equal(tiny.embed("a cat"), wanted)


@pytest.mark.parametrize(
    "prompt", ["", " ", "a cat", "🦊", "🦊🏽‍🚀 ünïcode ‮ \x00", "日本語", "a\nb\tc"]
)
def test_any_short_text_is_embedded_without_a_word(tiny, prompt, caplog):
    embeddings = tiny.embed(prompt)
    assert embeddings.shape == (1, 77, 16)
    assert embeddings.isfinite().all()
    assert embeddings.dtype == torch.float32
    assert not embeddings.requires_grad
    assert caplog.records == []


def test_different_texts_have_different_embeddings(tiny):
    texts = [tiny.embed(prompt) for prompt in ("", "a cat", "a dog", "🦊")]
    assert not any(torch.equal(a, b) for k, a in enumerate(texts) for b in texts[:k])


@pytest.mark.parametrize("prompt", ["fox " * 500, "🦊" * 500, "x" * 5000], ids=["words", "🦊", "x"])
def test_a_long_text_is_cut_with_a_warning(tiny, prompt, caplog):
    with pytest.warns(UserWarning, match=r"the prompt has \d+ tokens and this model reads 75"):
        embeddings = tiny.embed(prompt)
    assert embeddings.shape == (1, 77, 16)
    assert embeddings.isfinite().all()
    assert caplog.records == []


def test_the_part_of_a_long_text_that_is_read_decides(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other, another = (tiny.embed("x " * before + "y " * 80) for before in (75, 75, 20))
        beyond = tiny.embed("x " * 75 + "z " * 80)
    assert torch.equal(one, other)
    assert torch.equal(one, beyond)
    assert not torch.equal(one, another)


def test_a_text_that_just_fits_is_not_cut(tiny):
    tiny.embed("x " * 75)
    with pytest.warns(UserWarning, match="the prompt has 76 tokens"):
        tiny.embed("x " * 76)


def test_a_tokenizer_without_a_limit_takes_the_text_encoders(broken, tiny):
    edit_json(broken / "tokenizer" / "tokenizer_config.json", model_max_length=...)
    assert torch.equal(load_model(broken, device="cpu").embed("a cat"), tiny.embed("a cat"))


def test_a_text_encoder_may_read_less_than_its_tokenizer_says(broken):
    with quiet():
        make_text_encoder(max_position_embeddings=20).save_pretrained(broken / "text_encoder")
    model = load_model(broken, device="cpu")
    with pytest.warns(UserWarning, match="this model reads 18"):
        assert model.embed("x " * 30).shape == (1, 20, 16)


# ---------------------------------------------------------------- images


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96), (100, 40), (4, 8)])
def test_an_image_of_any_shape_has_a_latent_of_that_shape(tiny, height, width):
    latent = tiny.encode(image(height, width))
    assert latent.shape == (1, 4, height // 4, width // 4)
    assert latent.dtype == torch.float32
    decoded = tiny.decode(latent)
    assert decoded.shape == (1, 3, height, width)
    assert decoded.dtype == torch.float32
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_an_image_is_encoded_to_the_scaled_mean(tiny):
    pixels = image(32, 16)
    scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mean = tiny.vae.encode(scaled).latent_dist.mean
    torch.testing.assert_close(tiny.encode(pixels), mean * 0.18215)


def test_a_latent_is_decoded_from_the_unscaled(tiny):
    latent = noise(1, 4, 6, 4)
    with torch.no_grad():
        wanted = (tiny.vae.decode(latent / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(tiny.decode(latent), wanted)


@pytest.mark.slow
def test_a_sample_lies_around_the_mean(tiny):
    pixels = image(16, 16)
    generator = torch.Generator().manual_seed(0)
    samples = torch.cat([tiny.encode(pixels, generator=generator) for _ in range(200)])
    posterior = tiny.posterior(pixels)
    spread = posterior.std * 0.18215
    assert ((samples.mean(0) - tiny.encode(pixels)[0]).abs() < spread[0] * 5 / 200**0.5).all()
    ratio = samples.std(0) / spread[0]
    assert ((ratio > 0.7) & (ratio < 1.4)).all()


def test_the_same_seed_gives_the_same_sample(tiny):
    one, other = (
        tiny.encode(image(16, 16), generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(one, other)


def test_an_image_may_be_read_only_or_a_view(tiny):
    pixels = image(32, 32)
    wanted = tiny.encode(pixels[:, ::-1].copy())
    pixels.setflags(write=False)
    assert torch.equal(tiny.encode(pixels[:, ::-1]), wanted)


def test_nothing_is_logged(tiny, caplog):
    with caplog.at_level(logging.DEBUG):
        tiny.decode(tiny.encode(image(16, 16)))
    assert caplog.records == []


# ---------------------------------------------------------------- prompts of any length


@pytest.mark.parametrize(
    "prompt",
    [
        "a" * 10**6,
        "a fox " * 170_000,
        "🦊" * 10**6,
        " " * 10**6,
        "ab1!" * 250_000,
        "\u0300" * 10**6,
    ],
    ids=["word", "words", "emoji", "spaces", "mixed", "accents"],
)
def test_a_prompt_of_a_million_characters_is_cut_before_it_is_tokenized(tiny, prompt, monkeypatch):
    seen = []
    tokenizer = tiny.tokenizer
    watched = tiny.with_parts(tokenizer=tokenizer)
    monkeypatch.setattr(watched, "tokenizer", _Watched(tokenizer, seen))
    match = rf"tokens in the first {MAX_PROMPT} of {len(prompt)} characters and this model reads 75"
    with pytest.warns(UserWarning, match=match):
        embeddings = watched.embed(prompt)
    assert embeddings.shape == (1, 77, 16)
    assert {len(text) for text in seen} == {MAX_PROMPT}


class _Watched:
    def __init__(self, tokenizer, seen):
        self.tokenizer, self.seen = tokenizer, seen
        self.model_max_length = tokenizer.model_max_length

    def __call__(self, text, **options):
        self.seen.append(text)
        return self.tokenizer(text, **options)


def test_cutting_a_prompt_changes_nothing_that_is_read(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = tiny.embed(("a fox " * 2000)[:MAX_PROMPT])
        assert torch.equal(tiny.embed("a fox " * 2000), whole)
