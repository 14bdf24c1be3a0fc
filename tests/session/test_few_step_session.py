"""Edits with models that were distilled for a few steps, and what is said of them."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from few_step_models import write_turbo
from tiny_sessions import SIZE, Passes, ask, left_half, waves

from dragwidget.data.presets import with_method, with_preset
from dragwidget.data.settings import InversionSettings
from dragwidget.demo.scenes import sample_images
from dragwidget.diffusion.loading import load_model
from dragwidget.drag.noise_path import denoise
from dragwidget.editor.recipe import python_of
from dragwidget.session.session import DragSession

COUNT = 7  # of 10 steps, at strength 0.7


def session_on(model, method=None, **inversion):
    """A session as its user begins it, with at most 3 steps of a drag."""
    session = DragSession(model)
    settings = session.settings if method is None else with_method(session.settings, method)
    session.settings = replace(
        settings,
        inversion=replace(settings.inversion, **inversion),
        drag=replace(settings.drag, steps=3),
    )
    session.set_image(waves(), "a cat")
    session.instructions = ask(mask=left_half())
    return session


def pixels(image):
    return np.asarray(image)


def test_a_warp_takes_one_pass_between_inversion_and_render(lcm):
    session = session_on(lcm)
    with Passes(lcm) as passes:
        session.run()
        image = session.render()
    assert passes.count == (COUNT + 1) + 1 + COUNT
    assert session.edit.inversion.timestep == 699
    assert image.size == SIZE
    assert not np.array_equal(pixels(image), pixels(session.image))


@pytest.mark.slow
def test_a_progressive_drag_goes_to_the_saved_session_and_on(lcm, tmp_path):
    session = session_on(lcm, "progressive")
    assert len(list(session.drag())) == 3
    image = session.render()
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", model=lcm)
    assert np.array_equal(pixels(again.render()), pixels(image))
    for each in (session, again):
        each.run(steps=1)
    assert np.array_equal(pixels(again.render()), pixels(session.render()))


def test_a_preset_makes_an_edit_of_a_few_steps_with_any_model(tiny):
    session = session_on(tiny)
    session.settings = with_preset(session.settings, "few-step")
    session.run()
    assert session.edit.inversion.schedule.timesteps == tuple(range(999, 0, -100))
    assert session.edit.inversion.count == COUNT
    assert session.render().size == SIZE


def test_another_guidance_or_spacing_is_another_inversion(lcm):
    session = session_on(lcm)
    start = session.invert().latents[-1]
    for changes in ({"embedded_guidance": 8.5}, {"spacing": "leading"}):
        other = session_on(lcm, **changes)
        session.settings = other.settings
        assert session.status["inversion"].state == "outdated"
        assert not torch.equal(session.invert().latents[-1], start)


def test_the_guidance_is_the_same_in_inversion_and_render(lcm):
    """So a render of what was not dragged leads back; with another one it would not."""
    session = session_on(lcm, embedded_guidance=8.5)
    inversion = session.invert()
    condition = inversion.predictor.condition
    assert (condition.guidance_scale, condition.guided) == (8.5, False)
    told = []
    hook = lcm.unet.register_forward_pre_hook(
        lambda _, __, given: told.append(given["timestep_cond"]), with_kwargs=True
    )
    session.run()
    session.render()
    hook.remove()
    assert told
    assert all(torch.equal(row, told[0][:1].expand_as(row)) for row in told)


@pytest.mark.slow
def test_inversion_by_look_ahead_and_back_on_8_trailing_steps_reaches_the_image():
    model = load_model("critters", device="cpu")
    image, caption = sample_images()[0]
    reached = {}
    for method in ("plain", "lookahead"):
        session = DragSession(model)
        inversion = InversionSettings(steps=8, strength=0.7, method=method, spacing="trailing")
        session.settings = replace(session.settings, inversion=inversion)
        session.set_image(image, caption)
        made = session.invert()
        *_, back = denoise(made.predictor.predict, made.latents[-1], made.schedule, made.count)
        error = (model.decode(back) - model.decode(made.latents[0])).square().mean()
        reached[method] = float(-10 * error.log10())
    assert reached["lookahead"] > 45, reached
    assert reached["lookahead"] > reached["plain"] + 3, reached


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(("method", "title"), [("dragdiffusion", "DragDif"), ("gooddrag", "Good")])
def test_gradients_are_warned_of_once(lcm, method, title, recwarn):
    session = session_on(lcm)
    session.settings = with_method(session.settings, method)
    session.settings = replace(
        session.settings, drag=replace(session.settings.drag, steps=2, learning_rate=0.02)
    )
    session.run()
    session.set_image(waves(seed=1))
    session.render()
    (warning,) = recwarn.list
    told = rf"lcm was distilled for a few steps \(its UNet.*{title}.*Use the preset few-step"
    assert re.search(told, str(warning.message))
    assert warning.filename == __file__  # it points to the user's own line


@pytest.mark.parametrize("method", ["warp", "progressive"])
def test_nothing_is_said_of_a_warp(lcm, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session_on(lcm, method).invert()


def test_nothing_is_said_of_gradients_with_another_model(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session_on(tiny, "dragdiffusion")


@pytest.mark.filterwarnings("ignore:__array_.*:DeprecationWarning")  # of diffusers with numpy 2
def test_a_turbo_model_generates_without_guidance_and_warns_of_it(tmp_path):
    model = load_model(write_turbo(tmp_path / "t", EulerAncestralDiscreteScheduler), device="cpu")
    assert "EulerAncestralDiscreteScheduler with trailing" in model.few_step
    session = DragSession(model)
    with pytest.warns(UserWarning, match="guidance_scale=1 is none, got 7.5"):
        guided = session.generate("a cat", guidance_scale=7.5, size=SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = [session.generate("a cat", guidance_scale=g, size=SIZE) for g in (1, None)]
    assert np.array_equal(*map(pixels, images))
    assert not np.array_equal(*map(pixels, (guided, images[0])))


def test_a_latent_consistency_model_is_told_the_guidance_of_a_generation(lcm):
    session = DragSession(lcm)
    images = [session.generate("a cat", guidance_scale=g, size=SIZE) for g in (1, 8.5)]
    assert not np.array_equal(*map(pixels, images))
    session.instructions = ask()
    session.run()
    assert session.edit.inversion.predictor.condition.guidance_scale == 8.5
    code = python_of(session)
    assert "guidance_scale=8.5" in code
    assert "'spacing': 'trailing'" in code


def test_a_generated_image_keeps_its_own_timesteps(tiny):
    session = DragSession(tiny)
    session.settings = replace(
        session.settings, inversion=InversionSettings(steps=4, spacing="trailing")
    )
    session.generate("a cat", guidance_scale=1, size=SIZE)
    session.settings = replace(session.settings, inversion=InversionSettings(steps=4))
    assert session.invert().schedule.timesteps == (999, 749, 499, 249)
    code = python_of(session)
    assert code.index("'spacing': 'trailing'") < code.index("session.generate(")
    assert code.index("session.generate(") < code.index("'spacing': 'model'")
