"""Mutual self-attention: the recorded reference branch against the plain run of two images."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny_models import noise
from torch import nn

from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion.attention import (
    record_reference,
    render_latents,
)
from dragwidget.diffusion.sd import Conditioning
from dragwidget.diffusion.unet import layers_of, self_attention_layers

STEPS, COUNT = 10, 4
SOURCE, EDITED = noise(1, 4, 8, 12), noise(1, 4, 8, 12, seed=1)


class _LooksAtTheFirst:
    """In a batch of (source, edited) pairs both take keys and values from the source."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        assert encoder_hidden_states is None
        source = hidden_states[0::2].repeat_interleave(2, dim=0)
        return self.inner(attn, hidden_states, source, **options)


@contextmanager
def both_look_at_the_source(layers):
    for layer in layers:
        layer.set_processor(_LooksAtTheFirst(layer.processor))
    try:
        yield
    finally:
        for layer in layers:
            layer.set_processor(layer.processor.inner)


def plain(model, text, settings, guidance=1.0, negative=None):
    """Both images side by side in one batch, (source, edited) after each step."""
    schedule = model.schedule(STEPS)
    pair = torch.cat([SOURCE, EDITED])
    layers = self_attention_layers(model.unet)[settings.start_layer :]
    texts = [text] if negative is None else [negative, text]
    walked = []
    for index, timestep in enumerate(schedule.timesteps[-COUNT:]):
        on = settings.mutual_self_attention and index >= settings.start_step
        with torch.no_grad(), both_look_at_the_source(layers if on else []):
            batch = torch.cat([pair] * len(texts))
            embeddings = torch.cat([t.expand(2, -1, -1) for t in texts])
            said = model.unet(batch, timestep, encoder_hidden_states=embeddings).sample
        if negative is not None:
            without, with_text = said.chunk(2)
            said = without + guidance * (with_text - without)
        pair, _ = schedule.step(pair, said, timestep)
        walked.append(pair)
    return walked


def ours(model, conditioning, settings, protected=None):
    """(the source's latents, the edited ones), after each step."""
    predictor, schedule = model.predictor(conditioning), model.schedule(STEPS)
    *_, branch = record_reference(predictor, SOURCE, schedule, COUNT, settings)
    rendered = render_latents(predictor, EDITED, schedule, COUNT, branch, settings, protected)
    return branch, list(rendered)


def assert_agree(branch, rendered, walked):
    assert len(rendered) == len(walked) == COUNT
    for index, pair in enumerate(walked):
        torch.testing.assert_close(branch.latents[index + 1], pair[:1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rendered[index], pair[1:], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("start_layer", [0, 6, 9, 10])
@pytest.mark.parametrize("start_step", [0, 2, COUNT])
def test_the_recorded_branch_is_the_plain_run_of_both(tiny, start_layer, start_step):
    settings = RenderSettings(start_layer=start_layer, start_step=start_step)
    text = tiny.embed("a cat")
    assert_agree(*ours(tiny, Conditioning(text), settings), plain(tiny, text, settings))


def test_under_guidance_each_branch_looks_at_its_own_reference(tiny):
    settings = RenderSettings(start_layer=6, start_step=1)
    text, negative = tiny.embed("a cat"), tiny.embed("a dog")
    assert_agree(
        *ours(tiny, Conditioning(text, negative, 3.0), settings),
        plain(tiny, text, settings, 3.0, negative),
    )


def test_without_mutual_attention_both_are_denoised_alone(tiny):
    settings = RenderSettings(mutual_self_attention=False)
    text = tiny.embed("a cat")
    branch, rendered = ours(tiny, Conditioning(text), settings)
    assert branch.layers == ()
    assert_agree(branch, rendered, plain(tiny, text, settings))


def test_mutual_attention_changes_the_render(tiny):
    text = Conditioning(tiny.embed("a cat"))
    _, with_it = ours(tiny, text, RenderSettings(start_layer=0))
    _, without = ours(tiny, text, RenderSettings(mutual_self_attention=False))
    assert (with_it[-1] - without[-1]).abs().max() > 0.01


def test_a_source_rendered_with_its_own_branch_comes_back_unchanged(tiny):
    settings = RenderSettings(start_layer=0)
    predictor = tiny.predictor(Conditioning(tiny.embed("a cat")))
    schedule = tiny.schedule(STEPS)
    *_, branch = record_reference(predictor, SOURCE, schedule, COUNT, settings)
    *_, last = render_latents(predictor, SOURCE, schedule, COUNT, branch, settings)
    torch.testing.assert_close(last, branch.latents[-1], rtol=1e-4, atol=1e-5)


def test_one_branch_serves_many_renders_without_another_pass_of_the_source(tiny):
    settings = RenderSettings(start_layer=6)
    predictor, schedule = tiny.predictor(Conditioning(tiny.embed("a cat"))), tiny.schedule(STEPS)
    *_, branch = record_reference(predictor, SOURCE, schedule, COUNT, settings)
    passes = []
    hook = tiny.unet.register_forward_pre_hook(lambda _unet, inputs: passes.append(len(inputs[0])))
    try:
        first, again = (
            list(render_latents(predictor, EDITED, schedule, COUNT, branch, settings))[-1]
            for _ in range(2)
        )
    finally:
        hook.remove()
    assert passes == [1] * COUNT * 2
    assert torch.equal(first, again)
    assert len(branch.states) == COUNT


def test_the_protected_region_is_put_back(tiny):
    settings = RenderSettings(start_layer=6, keep_protected=True)
    protected = torch.zeros(8, 12)
    protected[:, 6:] = 1
    branch, rendered = ours(tiny, Conditioning(tiny.embed("a cat")), settings, protected)
    for index, latent in enumerate(rendered):
        assert torch.equal(latent[..., 6:], branch.latents[index + 1][..., 6:])
        assert not torch.equal(latent[..., :6], branch.latents[index + 1][..., :6])


# ---------------------------------------------------------------- layers


def test_layers_are_counted_in_execution_order(tiny):
    layers = self_attention_layers(tiny.unet)
    ran = []
    hooks = [
        layer.register_forward_pre_hook(lambda _m, _i, k=k: ran.append(k))
        for k, layer in enumerate(layers)
    ]
    try:
        tiny.predictor(Conditioning(tiny.embed(""))).predict(SOURCE, 1)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == list(range(10))


def test_only_self_attention_is_counted(tiny):
    layers = self_attention_layers(tiny.unet)
    everything = [n for n, _ in tiny.unet.named_modules() if n.endswith((".attn1", ".attn2"))]
    assert len(layers) == 10
    assert len(everything) == 20
    assert not any(layer.is_cross_attention for layer in layers)
    assert len(layers_of(tiny.unet.up_blocks[0])) == 0
    assert len(layers_of(tiny.unet.up_blocks[3])) == 2


@pytest.mark.parametrize("start_layer", [11, 500])
def test_a_first_layer_past_the_last_is_refused(tiny, start_layer):
    """In silence it would switch the attention off."""
    settings = RenderSettings(start_layer=start_layer)
    with pytest.raises(ValueError, match=r"start_layer is \d+, but this model has 10 .*0 to 9"):
        ours(tiny, Conditioning(tiny.embed("")), settings)


# ---------------------------------------------------------------- on and off


def processors(unet):
    return {name: id(processor) for name, processor in unet.attn_processors.items()}


def test_the_processors_are_restored_after_every_step(tiny):
    before = processors(tiny.unet)
    predictor, schedule = tiny.predictor(Conditioning(tiny.embed(""))), tiny.schedule(STEPS)
    settings = RenderSettings(start_layer=0)
    for branch in record_reference(predictor, SOURCE, schedule, COUNT, settings):
        assert processors(tiny.unet) == before
    for _ in render_latents(predictor, EDITED, schedule, COUNT, branch, settings):
        assert processors(tiny.unet) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_processors_are_restored_after_an_error(tiny, error):
    before = processors(tiny.unet)
    predictor, schedule = tiny.predictor(Conditioning(tiny.embed(""))), tiny.schedule(STEPS)
    settings = RenderSettings(start_layer=0)
    *_, branch = record_reference(predictor, SOURCE, schedule, COUNT, settings)

    def fails(*_):
        raise error("out of memory")

    hook = tiny.unet.up_blocks[2].register_forward_pre_hook(fails)
    try:
        with pytest.raises(error):
            next(record_reference(predictor, SOURCE, schedule, COUNT, settings))
        with pytest.raises(error):
            next(render_latents(predictor, EDITED, schedule, COUNT, branch, settings))
    finally:
        hook.remove()
    assert processors(tiny.unet) == before


class _ModuleProcessor(nn.Module):
    """As some adapters have them."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        return AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, **options)


def test_processors_that_are_modules_are_wrapped_and_restored(tiny):
    text, settings = Conditioning(tiny.embed("a cat")), RenderSettings(start_layer=6)
    _, wanted = ours(tiny, text, settings)
    layers = self_attention_layers(tiny.unet)
    originals = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.set_processor(_ModuleProcessor())
        _, got = ours(tiny, text, settings)
        assert all(isinstance(layer.processor, _ModuleProcessor) for layer in layers)
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.set_processor(original)
    torch.testing.assert_close(got[-1], wanted[-1])


@pytest.mark.parametrize("mode", [True, False])
def test_the_consumers_gradient_mode_is_left_alone(tiny, mode):
    predictor, schedule = tiny.predictor(Conditioning(tiny.embed(""))), tiny.schedule(STEPS)
    settings = RenderSettings(start_layer=0)
    with torch.set_grad_enabled(mode):
        for branch in record_reference(predictor, SOURCE, schedule, COUNT, settings):
            assert torch.is_grad_enabled() is mode
        for latent in render_latents(predictor, EDITED, schedule, COUNT, branch, settings):
            assert torch.is_grad_enabled() is mode
            assert not latent.requires_grad
    assert not any(state.requires_grad for states in branch.states for state in states)


def test_the_latents_that_are_given_are_not_changed(tiny):
    before = SOURCE.clone(), EDITED.clone()
    ours(tiny, Conditioning(tiny.embed("")), RenderSettings(start_layer=0, keep_protected=True),
         torch.ones(8, 12))  # fmt: skip
    assert torch.equal(SOURCE, before[0])
    assert torch.equal(EDITED, before[1])
