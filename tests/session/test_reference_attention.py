"""Reference attention in the drag: the decoder attends to the undragged latent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_sessions import Passes, ask, left_half, session_on, settings_of

from dragwidget.diffusion.attention import AttendingToSource
from dragwidget.diffusion.backbone import Backbone, SelfAttention
from dragwidget.session.session import DragSession

METHODS = ["dragdiffusion", "gooddrag", "progressive"]
FEW = {"drag_timesteps": 2, "tracks_per_timestep": 2, "updates_per_track": 2}
# Correspondence attention in the drag is reference attention with a map.
SETTINGS = [
    {"method": "dragdiffusion", "reference_attention": True},
    {"method": "progressive", "correspondence": 0.6},
]


def attending(tiny, method="dragdiffusion", **more):
    return session_on(tiny, method=method, reference_attention=True, **{**FEW, **more})


@pytest.fixture(scope="module")
def inversion(tiny):
    return session_on(tiny).invert()


@pytest.fixture
def model(inversion):
    return AttendingToSource(inversion.predictor, inversion.latent_at)


def test_at_the_source_it_changes_no_bit(inversion, model):
    for timestep in inversion.schedule.last(inversion.count):
        latent = inversion.latent_at(timestep)
        plain = inversion.predictor(latent, timestep, blocks=(1, 2))
        for _ in range(2):  # the pass that records, and one that attends to what it recorded
            seen = model(latent, timestep, blocks=(1, 2))
            assert torch.equal(seen.prediction, plain.prediction)
            assert all(map(torch.equal, seen.features, plain.features))


def test_elsewhere_the_decoder_takes_keys_and_values_of_the_source(inversion, model):
    timestep, latents = inversion.timestep, inversion.latents
    moved = latents[-1].roll(1, dims=3)
    layers = inversion.predictor.model.decoder_attention
    states = inversion.predictor(latents[-1], timestep, attention=SelfAttention(layers)).states
    wanted = inversion.predictor(
        moved, timestep, blocks=(2,), attention=SelfAttention(layers, states)
    )
    seen = model(moved, timestep, blocks=(2,))
    assert torch.equal(seen.features[0], wanted.features[0])
    assert not torch.equal(
        seen.features[0], inversion.predictor(moved, timestep, blocks=(2,)).features[0]
    )


def test_the_decoders_layers_are_the_last_ones(tiny):
    """Before them come three of the encoder and one of the mid block."""
    assert tiny.decoder_attention == tuple(range(4, 10))
    assert tiny.self_attention_count == 10


@pytest.mark.parametrize("mask", [None, left_half()])
def test_it_takes_no_pass_more(tiny, mask):
    counts = []
    for on in (False, True):
        session = session_on(tiny, reference_attention=on)
        session.prepare()
        with Passes(tiny) as passes:
            list(session.drag(ask(mask=mask)))
        counts.append(passes.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("method", METHODS)
def test_every_gradient_method_drags_with_it_and_branches_to_the_same_bits(tiny, method):
    plain = attending(tiny, method)
    plain.settings = replace(
        plain.settings, drag=replace(plain.settings.drag, reference_attention=False)
    )
    session = attending(tiny, method, steps=5)
    for each in (plain, session):
        list(each.drag(ask(mask=left_half()), steps=5))
    latents = [node.latent for node in session.history.path()]
    assert not torch.equal(latents[-1], plain.history.current.latent)
    session.rewind(2)
    session.edit.release()
    session.run(3)
    assert all(map(torch.equal, latents, [node.latent for node in session.history.path()]))


@pytest.mark.parametrize("setting", SETTINGS)
def test_low_memory_gives_the_same_bits(tiny, setting):
    latents = []
    for model in (tiny, tiny.with_memory("low")):
        session = session_on(model, **FEW, **setting)
        list(session.drag(ask()))
        latents.append(session.history.current.latent)
    assert torch.equal(*latents)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_generated_image_is_dragged_under_guidance(tiny, setting):
    session = session_on(tiny, **FEW, **setting)
    session.generate("a cat", "a dog", 3.0, seed=1, size=(64, 48))
    steps = list(session.drag(ask()))
    assert all(bool(step.latent.isfinite().all()) for step in steps)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_model_without_self_attention_refuses_it_by_name(tiny, setting):
    class Bare(type(tiny)):
        decoder_attention = Backbone.decoder_attention

    bare = Bare(**tiny.parts)
    session = DragSession(bare)
    refused = r"reference_attention to False.*DragSettings\.correspondence to 0"
    with pytest.raises(ValueError, match=refused):
        session.settings = settings_of(bare, **setting)
