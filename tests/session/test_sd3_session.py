"""An edit with Stable Diffusion 3 from the image to the saved session, and by the widget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, ask, left_half, waves

from dragwidget.data.settings import InversionSettings
from dragwidget.session.session import DragSession
from dragwidget.ui.widget import DragWidget


def pixels(image):
    return np.asarray(image)


def session_on(model, **drag):
    """A session with an image and little to do."""
    session, given = DragSession(model), model.recommended
    session.settings = replace(
        given,
        inversion=replace(given.inversion, steps=6, strength=0.5),
        drag=replace(given.drag, steps=3, **drag),
    )
    session.set_image(waves(), "a cat")
    return session


@pytest.mark.slow
@pytest.mark.parametrize("method", ["warp", "progressive", "dragdiffusion"])
@pytest.mark.parametrize("mask", [True, False])
def test_an_edit_goes_from_the_image_to_the_saved_session_and_on(sd3, tmp_path, method, mask):
    session = session_on(sd3, method=method)
    before = session.render()
    session.instructions = ask(mask=left_half() if mask else None)
    session.run(steps=2)
    image = session.render()
    assert image.size == session.image.size
    assert not np.array_equal(pixels(image), pixels(before))
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", model=sd3)
    assert np.array_equal(pixels(again.render()), pixels(image))
    if method != "warp":  # that one is at its targets
        for each in (session, again):
            each.run(steps=1)
        assert torch.equal(again.history.current.latent, session.history.current.latent)


@pytest.mark.slow
def test_an_edit_in_low_memory_is_the_same_bit_for_bit(sd3):
    made = []
    for model in (sd3, sd3.with_memory("low")):
        session = session_on(model, method="progressive", reference_attention=True)
        session.instructions = ask(FAR, mask=left_half())
        session.run(steps=2)
        made.append((session.history.current.latent, pixels(session.render())))
    (latent, image), (low_latent, low_image) = made
    assert torch.equal(latent, low_latent)
    assert np.array_equal(image, low_image)


@pytest.mark.slow
def test_the_map_of_the_drag_is_attended_to_while_dragging_and_rendering(sd3):
    images = []
    for share in (0.0, 1.0):
        session = session_on(sd3, method="progressive", correspondence=share)
        session.settings = replace(
            session.settings, render=replace(session.settings.render, correspondence=share)
        )
        session.instructions = ask(mask=left_half())
        session.run(steps=1)
        images.append(pixels(session.render()))
    assert not np.array_equal(*images)


@pytest.mark.slow
def test_a_generated_image_is_guided_and_dragged(sd3):
    session = session_on(sd3)
    session.generate("a cat", "a dog", guidance_scale=5.0, seed=1, size=(64, 48))
    session.instructions = ask()
    session.run(steps=1)
    assert session.render().size == (64, 48)
    with pytest.raises(ValueError, match="size must be multiples of 8 pixels, got 60 x 48"):
        session.generate("a cat", size=(60, 48))


@pytest.mark.slow
def test_an_estimate_is_made_without_weights(sd3):
    session = session_on(sd3, method="progressive")
    found = {phase.name: phase for phase in session.estimate(timed=False).phases}
    assert set(found) == {"encode", "inversion", "drag", "render", "decode"}
    assert all(phase.memory > 0 for phase in found.values())
    low = session_on(sd3.with_memory("low"), method="progressive").estimate(timed=False)
    drag = next(phase for phase in low.phases if phase.name == "drag")
    assert drag.memory < found["drag"].memory


@pytest.mark.parametrize(
    ("size", "worked"), [((64, 64), (64, 64)), ((640, 480), (72, 56)), ((1000, 10), (128, 8))]
)
def test_an_image_is_worked_on_at_the_area_that_the_model_knows(sd3, size, worked):
    session = session_on(sd3)
    session.set_image(waves(*size))
    assert session.request.image.fitted_size == worked


def test_what_this_family_cannot_do_is_refused_by_name(sd3):
    session = session_on(sd3)
    settings = session.settings
    for change, message in (
        ({"lora": replace(settings.lora, steps=2)}, "trains no LoRA, and LoRASettings.steps is 2"),
        (
            {"inversion": InversionSettings(steps=6, method="cycle_sde")},
            "'cycle_sde' needs the noise levels of DDIM, which FlowPath does not have",
        ),
        (
            {"drag": replace(settings.drag, feature_blocks=(4,))},
            r"feature blocks are 0 to 3, got \(4,\)",
        ),
        ({"render": replace(settings.render, start_layer=7)}, "has 6 self-attention layers"),
    ):
        with pytest.raises(ValueError, match=message):
            session.settings = replace(settings, **change)
    with pytest.raises(ValueError, match="takes no LoRA"):
        session.use_lora("some.safetensors")
    with pytest.raises(ValueError, match=r"positions for images of at most 192 pixels a side"):
        sd3.encode_text("", (200, 64))
    with pytest.raises(ValueError, match="multiple must be 8, the pixels of"):
        session.set_image(waves(), multiple=4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["warp", "progressive"])
def test_the_widget_edits_with_it(sd3, method):
    session = session_on(sd3, method=method)
    widget = DragWidget(session, clock="sync", instructions=ask(), journal=False)
    try:
        widget.step()
        assert len(session.history) == 1
        widget.render()
        assert widget.error == ""
        assert widget.result.size == (64, 48)
    finally:
        widget.close()
