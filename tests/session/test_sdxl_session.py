"""An edit with Stable Diffusion XL from the image to the saved session."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, ask, left_half, session_on, waves
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dragwidget.editor.recipe import python_of
from dragwidget.session.estimate import _Costs
from dragwidget.session.session import DragSession
from dragwidget.session.source import image_of


def pixels(image):
    return np.asarray(image)


def test_the_papers_settings_are_counted_in_this_network(xl):
    assert xl.self_attention_count == 11
    assert xl.recommended.drag.feature_blocks == (2,)  # the last but one of the decoder's
    assert xl.recommended.render.start_layer == 9  # that block's first self-attention
    assert xl.decoder_attention == tuple(range(5, 11))


@pytest.mark.slow
def test_an_edit_goes_from_the_image_to_the_saved_session_and_on(xl, tmp_path):
    session = session_on(xl, lora_steps=2)
    before = session.render()
    assert len(list(session.drag(ask()))) == 3
    assert session.status["lora"].state == "ready"
    image = session.render()
    assert image.size == session.image.size
    assert not np.array_equal(pixels(image), pixels(before))
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", model=xl)
    assert np.array_equal(pixels(again.render()), pixels(image))
    for each in (session, again):
        assert len(list(each.drag(steps=1))) == 1
    assert np.array_equal(pixels(again.render()), pixels(session.render()))


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False])
def test_an_edit_in_low_memory_is_the_same_bit_for_bit(xl, mask):
    made = []
    for memory in ("normal", "low"):
        session = session_on(xl.with_parts(memory=memory), lora_steps=2)
        session.instructions = ask(FAR, mask=left_half() if mask else None)
        session.run(steps=3)
        made.append((session.history.current.latent, pixels(session.render())))
    (latent, image), (low_latent, low_image) = made
    assert torch.equal(latent, low_latent)
    assert np.array_equal(image, low_image)


@pytest.mark.parametrize(
    ("size", "worked"),
    [
        ((64, 64), (64, 64)),
        ((640, 480), (80, 64)),  # 73.9 x 55.4 pixels are as many as 64 x 64
        ((160, 90), (80, 48)),
        ((90, 160), (48, 80)),
        ((1000, 10), (128, 16)),  # no wider than four to one
    ],
)
def test_an_image_is_worked_on_at_the_area_that_the_model_knows(xl, size, worked):
    session = session_on(xl)
    session.set_image(waves(*size))
    assert session.request.image.fitted_size == worked
    text = session.model.encode_text("", session.request.image.fitted_size)
    assert text.time_ids.tolist() == [[worked[1], worked[0], 0, 0, worked[1], worked[0]]]


def test_the_python_that_repeats_an_edit_fits_the_image_to_the_same_size(xl):
    session = session_on(xl)
    session.set_image(waves(160, 90))
    assert "session.set_image(image, '')" in python_of(session)
    session.set_image(waves(160, 90), max_side=64)
    assert "max_side=64" in python_of(session)


def test_the_published_models_sizes_of_three_common_shapes(xl):
    side, multiple = xl.image_side, xl.image_multiple
    assert (side, multiple) == (64, 16)

    class Large(type(xl)):
        image_side, image_multiple = 1024, 32

    large = Large(**xl.parts)
    assert [large.longer_side(s) for s in ((512, 512), (300, 200), (1920, 1080))] == [
        1024, 1248, 1376,
    ]  # fmt: skip


@pytest.mark.slow
def test_an_estimate_counts_the_operations_of_a_real_pass(xl):
    session = session_on(xl, lora_steps=2)
    size = session.request.image.fitted_size
    made = _Costs(xl, size, session.settings, mask=True)
    text = xl.encode_text("", size)
    latent = torch.zeros(made.shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        xl.unet(latent, 500, **xl._inputs(text, 1)[0])
    assert made.one_pass().flops == counter.get_total_flops()
    found = {phase.name: phase for phase in session.estimate(timed=False).phases}
    assert set(found) >= {"encode", "lora", "inversion", "drag", "render", "decode"}
    low = session_on(xl.with_parts(memory="low"), lora_steps=2).estimate(timed=False)
    for phase in low.phases:
        if phase.name in ("lora", "drag"):
            assert phase.memory < found[phase.name].memory


@pytest.mark.slow
def test_it_is_inverted_exactly_and_rendered_by_the_map_of_the_drag(xl, tmp_path):
    session = session_on(xl)
    given = session.settings
    session.settings = replace(
        given,
        inversion=replace(given.inversion, method="cycle_sde"),
        render=replace(given.render, start_layer=0, correspondence=1.0),
    )
    clean = pixels(image_of(session.request, xl.decode(session.invert().latents[0]))).astype(int)
    assert abs(pixels(session.render()) - clean).max() <= 1
    session.instructions = ask(mask=left_half())
    session.run(steps=2)
    image = pixels(session.render())
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", model=xl)
    assert np.array_equal(pixels(again.render()), image)
    session.settings = replace(
        session.settings, render=replace(session.settings.render, correspondence=0.0)
    )
    assert not np.array_equal(pixels(session.render()), image)


@pytest.mark.slow
def test_a_generated_image_is_guided_and_dragged(xl):
    session = session_on(xl)
    session.generate("a cat", "a dog", guidance_scale=5.0, seed=1, size=(64, 48))
    session.instructions = ask()
    session.run(steps=2)
    assert len(session.history) == 2
    assert session.render().size == (64, 48)
