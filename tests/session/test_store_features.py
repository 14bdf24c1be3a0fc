"""The pass at the start of a warped drag on disk: found by the next session, to the bit."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, Passes, ask, left_half, settings_of, waves

from dragwidget.session import cached_stages as storing
from dragwidget.session.session import DragSession
from dragwidget.storage.cache import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def session_with(store, model, *, mask=None, **drag):
    """Prepared, and nothing dragged yet."""
    session = DragSession(model, store=store)
    session.settings = settings_of(model, lora_steps=1, **{"start": "warped", **drag})
    session.set_image(waves(), "a thing")
    session.instructions = ask(FAR, mask=mask)
    session.prepare()
    return session


def first_step(session):
    """Take it; the passes that it costs."""
    with Passes(session.model) as passes:
        session.step(1)
    return passes.count


def kept(store):
    return [entry for entry in store.entries() if entry.kind == "features"]


def assert_same_edit(*sessions):
    """When each has gone two steps on from its first."""
    for session in sessions:
        session.step(2)
    one, *others = sessions
    for other in others:
        assert_same_steps(one, other)


def assert_same_steps(one, other):
    assert len(one.history) == len(other.history) == 3
    for a, b in zip(one.history, other.history, strict=True):
        assert torch.equal(a.latent, b.latent)
        assert np.array_equal(a.handles_xy, b.handles_xy)
        assert a.loss_terms == b.loss_terms


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, left_half()], ids=["no mask", "mask"])
@pytest.mark.parametrize("template", ["current", "original"])
def test_the_next_sessions_first_step_takes_one_pass_and_is_the_same(store, tiny, mask, template):
    first, second, alone = (
        session_with(where, tiny, mask=mask, template=template) for where in (store, store, None)
    )
    assert first_step(first) == 2
    assert len(kept(store)) == 1
    assert first_step(second) == 1
    assert first_step(alone) == 2
    assert_same_edit(first, second, alone)


@pytest.mark.slow
def test_a_preview_of_what_was_found_is_the_same(store, tiny):
    first, second = (session_with(store, tiny, mask=left_half()) for _ in range(2))
    first.step(1)
    second.step(1)
    with Passes(tiny) as passes:
        found = second.preview()
    assert passes.count == 0
    assert found.tobytes() == first.preview().tobytes()


@pytest.mark.slow
def test_a_start_that_needs_a_gradient_keeps_and_finds_nothing(store, tiny):
    session_with(store, tiny).step(1)
    assert first_step(session_with(store, tiny, start="inverted")) == 2
    store.clear()
    session_with(store, tiny, start="inverted").step(1)
    assert kept(store) == []


@pytest.mark.slow
def test_one_with_a_mask_takes_the_place_of_one_without(store, tiny):
    session_with(store, tiny).step(1)
    assert first_step(session_with(store, tiny, mask=left_half())) == 2
    assert len(kept(store)) == 1
    assert first_step(session_with(store, tiny, mask=left_half())) == 1
    assert first_step(session_with(store, tiny)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("drag", [{"feature_blocks": (2,)}, {"feature_scale": 0.25}])
def test_other_features_are_not_taken_for_them(store, tiny, drag):
    session_with(store, tiny).step(1)
    assert first_step(session_with(store, tiny, **drag)) == 2
    assert len(kept(store)) == 2


@pytest.mark.slow
def test_what_does_not_change_the_pass_finds_them(store, tiny):
    session_with(store, tiny).step(1)
    assert first_step(session_with(store, tiny, learning_rate=0.02, motion_radius=2)) == 1


@pytest.mark.slow
def test_damaged_ones_are_made_anew(store, tiny, caplog):
    caplog.set_level(logging.CRITICAL)
    first = session_with(store, tiny)
    first.step(1)
    (entry,) = kept(store)
    entry.path.write_bytes(entry.path.read_bytes()[:-1])
    second = session_with(store, tiny)
    assert first_step(second) == 2
    assert_same_edit(first, second)
    assert store.verify() == []
    assert first_step(session_with(store, tiny)) == 1


@pytest.mark.slow
def test_they_are_the_same_whichever_way_memory_is_used(store, tiny):
    first = session_with(store, tiny.with_parts(memory="low"))
    first.step(1)
    second = session_with(store, tiny)
    assert first_step(second) == 1
    assert_same_edit(first, second)


@pytest.mark.slow
def test_back_at_the_start_another_target_takes_one_pass(store, tiny):
    session = session_with(store, tiny)
    session.step(3)
    session.reset()
    session.instructions = ask((FAR[0], (40, 30)))
    assert first_step(session) == 1
    other = session_with(None, tiny)
    other.instructions = ask((FAR[0], (40, 30)))
    other.step(1)
    assert torch.equal(session.history.current.latent, other.history.current.latent)


@pytest.mark.slow
def test_too_large_a_share_of_the_store_is_not_kept(store, tiny, monkeypatch):
    monkeypatch.setattr(storing, "SHARE", 1e-9)
    session = session_with(store, tiny)
    assert first_step(session) == 2
    assert kept(store) == []
    assert first_step(session_with(store, tiny)) == 2


@pytest.mark.slow
def test_they_are_of_the_latent_that_the_drag_starts_from(store, tiny):
    session_with(store, tiny).step(1)
    session = session_with(store, tiny)
    (edit,) = session.edits  # as one that comes in a file, and was inverted elsewhere
    start = edit.inversion.latents[-1] + 1e-6
    latents = (*edit.inversion.latents[:-1], start)
    edit.inversion = replace(edit.inversion, latents=latents)
    assert first_step(session) == 2
