"""What a session refuses, what it says, and that it is then as it was before."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_sessions import FAR, Passes, ask, blocks_of, left_half, session_on, state, waves

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import (
    DragSettings,
    InversionSettings,
    LoRASettings,
    RenderSettings,
    Settings,
)
from dragwidget.session.session import DragSession


@pytest.fixture
def session(tiny):
    """With something dragged, and a step gone back."""
    session = session_on(tiny)
    session.instructions = ask(mask=left_half())
    session.step(2)
    session.rewind(1)
    return session


# ---------------------------------------------------------------- bad input

BAD_POINTS = {
    "outside": ([FAR, ((64, 3), (5, 5))], {}, r"handle of pair 2, \(64.0, 3.0\), is outside the"),
    "NaN": ([((1, np.nan), (5, 5))], {}, "a handle point must be finite, got"),
    "none": ([], {}, "no pair of points: give at least one handle and its target"),
    "odd": ([(1, 1), (2, 2), (3, 3)], {}, "its length must be even, got 3 points"),
    "many": ([FAR] * 101, {}, "at most 100 pairs can be dragged at once, got 101"),
    "mask size": ([FAR], {"mask": np.ones((64, 48))}, "the mask is 48 x 64 but the image is 64"),
    "mask NaN": ([FAR], {"mask": np.full((48, 64), np.nan)}, "a mask must be finite, got NaN"),
    "mask empty": (
        [FAR],
        {"mask": np.zeros((48, 64))},
        "the mask is zero everywhere, so",
    ),
    "other size": (
        [(1, 1), (9, 9)],
        {"size": (48, 64)},
        "are for an image of 48 x 64, this one is 64 x 48",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_POINTS)
def test_bad_instructions_are_refused(session, name):
    points, options, message = BAD_POINTS[name]
    before = state(session)
    with pytest.raises(ValueError, match=message):
        session.drag(DragInstructions.from_points(points, **{"size": (64, 48), **options}))
    assert state(session) == before


def recommended(session, **changes):
    return replace(session.model.recommended, **changes)


BAD_CALLS = {
    "text as instructions": (
        lambda s: s.drag("to the left"),
        TypeError,
        "instructions must be DragInstructions, got str",
    ),
    "no instructions": (lambda s: setattr(s, "instructions", None), TypeError, "got NoneType"),
    "no step": (lambda s: s.step(0), ValueError, "must be a whole number of 1 or more, got 0"),
    "half a step": (lambda s: s.run(steps=0.5), ValueError, "whole number of 1 or more, got 0.5"),
    "bad settings of good instructions": (
        lambda s: s.drag(ask(((1, 1), (9, 9)), prompt="dog"), DragSettings(feature_blocks=(9,))),
        ValueError,
        r"feature blocks are 0 \(the mid block\) to 4, got \(9,\): set DragSettings",
    ),
    "no steps of good instructions": (
        lambda s: s.drag(ask(((1, 1), (9, 9)), prompt="dog"), steps=0),
        ValueError,
        "steps must be",
    ),
    "settings of all stages for the drag": (
        lambda s: s.drag(settings=Settings()),
        TypeError,
        "Settings.drag must be DragSettings, got Settings",
    ),
    "settings of the drag for all stages": (
        lambda s: setattr(s, "settings", DragSettings()),
        TypeError,
        "settings must be Settings, got DragSettings",
    ),
    "a render from behind the last layer": (
        lambda s: setattr(s, "settings", recommended(s, render=RenderSettings(start_layer=12))),
        ValueError,
        r"start_layer is 12, but this model has 10 self-attention.*: take one of 0 to 9",
    ),
    "a step that was not taken": (lambda s: s.render(7), ValueError, "there is no step 7"),
    "a preview before the start": (lambda s: s.preview(-1), ValueError, "there is no step -1"),
    "going back too far": (lambda s: s.rewind(-1), ValueError, "there is no step -1: this branch"),
    "a prompt that is no text": (
        lambda s: setattr(s, "prompt", 7),
        TypeError,
        "the prompt must be a string, got 7",
    ),
    "a prompt that is half an emoji": (
        lambda s: s.set_image(waves(), "\ud83e"),
        ValueError,
        "the prompt is not valid text",
    ),
    "cells that are cut": (
        lambda s: s.set_image(waves(), multiple=6),
        ValueError,
        "multiple must be 4, the pixels of one latent cell of this model, or a multiple of it, got",
    ),
    "no side": (
        lambda s: s.set_image(waves(), max_side=0),
        ValueError,
        "max_side must be at least 32 pixels, .* multiples of 32; got 0",
    ),
    "a size that is cut": (
        lambda s: s.generate("cat", size=(64, 50)),
        ValueError,
        r"size must be multiples of 4 pixels, got 64 x 50 \(width x height\)",
    ),
    "no size": (lambda s: s.generate("cat", size=(0, 64)), ValueError, "size must be at least 1"),
    "half a size": (
        lambda s: s.generate("cat", size=(64.0, 64)),
        TypeError,
        "size must be two whole numbers",
    ),
    "guidance that is no number": (
        lambda s: s.generate("cat", guidance_scale=float("nan")),
        ValueError,
        r"Generation.guidance_scale must lie in \[0, 1000\], got nan",
    ),
    "a seed below zero": (
        lambda s: s.generate("cat", seed=-1),
        ValueError,
        "Generation.seed must lie in",
    ),
    "no negative prompt": (
        lambda s: s.generate("cat", None),
        TypeError,
        "the prompt must be a string, got None",
    ),
    "no such LoRA": (
        lambda s: s.use_lora("gone.safetensors"),
        FileNotFoundError,
        "there is no LoRA file gone.safetensors",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_and_changes_nothing(session, name):
    call, error, message = BAD_CALLS[name]
    before = state(session)
    with Passes(session.model) as passes, pytest.raises(error, match=message):
        call(session)
    assert passes.count == 0
    assert state(session) == before


@pytest.mark.parametrize("call", [c for c, *_ in BAD_CALLS.values()], ids=BAD_CALLS)
def test_bad_input_changes_nothing_in_an_empty_session_either(tiny, call):
    session = DragSession(tiny)
    with pytest.raises((TypeError, ValueError, RuntimeError, FileNotFoundError)):
        call(session)
    with pytest.raises(RuntimeError, match="there is no image yet"):
        _ = session.status
    assert session.settings == tiny.recommended
    assert session.instructions is None


def test_more_steps_than_noise_levels_are_refused(tiny):
    session = DragSession(blocks_of(tiny, noise_levels=40))
    before = session.settings
    with pytest.raises(ValueError, match="a model with 40 noise levels takes 1 to 40 DDIM steps"):
        session.settings = replace(before, inversion=InversionSettings(steps=41))
    assert session.settings is before


# ---------------------------------------------------------------- what cannot go on


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda session: setattr(session, "prompt", "a dog"),
        lambda session: setattr(session, "instructions", ask(prompt="a dog")),
        lambda session: session.set_image(waves(seed=1)),
        lambda session: session.set_image(waves(), "a cat"),  # nothing is drawn on it now
        lambda session: setattr(
            session, "settings", replace(session.settings, inversion=InversionSettings(steps=4))
        ),
        lambda session: setattr(
            session, "settings", replace(session.settings, lora=LoRASettings(steps=1))
        ),
    ],
    ids=["prompt", "prompt drawn", "image", "image again", "inversion", "lora"],
)
def test_a_drag_does_not_go_on_with_what_is_stale(tiny, change):
    session = session_on(tiny)
    walk = session.drag(ask())
    next(walk)
    edit = session.edits[0]
    change(session)
    with pytest.raises(RuntimeError, match=r"this drag cannot continue: .* was changed meanwhile"):
        next(walk)
    assert len(edit.history.nodes) == 2  # the start and the step before the change


def test_a_drag_needs_an_image_and_something_drawn_on_it(tiny):
    session = DragSession(tiny)
    with pytest.raises(RuntimeError, match=r"no image yet: set_image\(\) or generate\(\) first"):
        session.drag(ask())
    with pytest.raises(RuntimeError, match="no image yet"):
        session.run()
    session.set_image(waves())
    with pytest.raises(RuntimeError, match="nothing to drag: pass DragInstructions with at least"):
        session.step()


@pytest.mark.parametrize("verb", ["prepare", "render", "preview", "reset", "invert", "train_lora"])
def test_there_is_nothing_to_do_without_an_image(tiny, verb):
    with pytest.raises(RuntimeError, match="there is no image yet"):
        getattr(DragSession(tiny), verb)()


def test_there_is_no_history_before_the_image_is_inverted(tiny):
    session = session_on(tiny)
    with pytest.raises(RuntimeError, match=r"not inverted yet: prepare\(\) or drag\(\) first"):
        _ = session.history
    with pytest.raises(RuntimeError, match="not inverted yet"):
        session.rewind(0)
    with pytest.raises(ValueError, match="there is no step 3: nothing was dragged yet"):
        session.render(3)
    assert session.status["inversion"].state == "missing"
    session.prepare()
    assert list(session.history) == []
