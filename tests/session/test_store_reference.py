"""The reference branch on disk: found by the next session, to the bit, and never in the way."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import N, Passes, ask, settings_of, waves

from dragwidget.session import cached_stages as storing
from dragwidget.session.session import DragSession
from dragwidget.storage.cache import MARK, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def session_with(store, model, **render):
    """Two steps from the start, with nothing left to make but the render."""
    session = DragSession(model, store=store)
    settings = settings_of(model, lora_steps=1)
    session.settings = replace(settings, render=replace(settings.render, **render))
    session.set_image(waves(), "a thing")
    session.instructions = ask()
    session.step(2)
    return session


def rendered(session):
    """The image, and the passes that it took."""
    with Passes(session.model) as passes:
        image = np.asarray(session.render())
    return image, passes.count


def references(store):
    return [entry for entry in store.entries() if entry.kind == "reference"]


def branch_of(session):
    (branch,) = session.stages.references
    return branch


@pytest.mark.slow
@pytest.mark.parametrize(
    "render",
    [{}, {"keep_protected": True}, {"mutual_self_attention": False, "keep_protected": True}],
    ids=["states", "states and latents", "latents"],
)
def test_the_next_session_renders_without_the_sources_own_pass_and_the_same(store, tiny, render):
    first, second, alone = (session_with(kept, tiny, **render) for kept in (store, store, None))
    made, taken = rendered(first)
    assert taken == 2 * N
    found, taken = rendered(second)
    assert taken == N
    assert np.array_equal(made, found)
    assert np.array_equal(rendered(alone)[0], found)
    a, b = branch_of(first), branch_of(second)
    assert a.layers == b.layers
    for one, other in zip(a.latents, b.latents, strict=True):
        assert torch.equal(one, other)
    for ones, others in zip(a.states, b.states, strict=True):
        for one, other in zip(ones, others, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype


@pytest.mark.slow
def test_a_guided_pass_is_found_again_as_well(store, tiny):
    def generated():
        session = DragSession(tiny, store=store)
        session.settings = settings_of(tiny)
        session.generate("a cat", guidance_scale=3.0)
        return session

    made, taken = rendered(generated())
    assert taken == 2 * N
    found, taken = rendered(generated())
    assert taken == N
    assert np.array_equal(made, found)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["layers", "strength", "start", "prompt"])
def test_nothing_else_is_taken_for_it(store, tiny, change):
    session_with(store, tiny).render()
    session = session_with(store, tiny)
    settings, count = session.settings, N
    if change == "layers":
        render = replace(settings.render, start_layer=settings.render.start_layer + 1)
        session.settings = replace(settings, render=render)
    elif change == "strength":
        session.settings = replace(settings, inversion=replace(settings.inversion, strength=0.9))
        count = session.settings.inversion.count
    elif change == "prompt":
        session.prompt = "another thing"
    else:  # as of an edit that comes in a file, and was inverted elsewhere
        inversion = session.invert()
        inversion.latents[-1][0, 0, 0, 0] += 1e-6
    session.invert()
    assert rendered(session)[1] == 2 * count
    assert len(references(store)) == 2


@pytest.mark.slow
def test_what_does_not_change_the_pass_finds_it(store, tiny):
    session_with(store, tiny).render()
    session = session_with(store, tiny, start_step=1)
    session.settings = replace(session.settings, drag=replace(session.settings.drag, steps=9))
    assert rendered(session)[1] == N


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_it_is_the_same_whichever_way_memory_is_used(store, tiny, memory):
    other = {"normal": "low", "low": "normal"}[memory]
    made, _ = rendered(session_with(store, tiny.with_parts(memory=memory)))
    found, taken = rendered(session_with(store, tiny.with_parts(memory=other)))
    assert taken == N
    assert np.array_equal(made, found)


@pytest.mark.slow
def test_it_is_kept_in_the_networks_own_number_format(store, tiny):
    model = tiny.with_parts(unet=make_half(tiny))
    made, _ = rendered(session_with(store, model))
    second = session_with(store, model)
    found, taken = rendered(second)
    assert taken == N
    assert np.array_equal(made, found)
    assert branch_of(second).states[0][0].dtype == torch.bfloat16


def make_half(model):
    from copy import deepcopy

    return deepcopy(model.unet).to(torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [lambda content: content[:-1], lambda content: content + b"x"])
def test_a_damaged_one_is_made_anew(store, tiny, caplog, spoil):
    caplog.set_level(logging.CRITICAL)
    made, _ = rendered(session_with(store, tiny))
    (entry,) = references(store)
    entry.path.write_bytes(spoil(entry.path.read_bytes()))
    again, taken = rendered(session_with(store, tiny))
    assert taken == 2 * N
    assert np.array_equal(made, again)
    assert [kept.path for kept in references(store)] == [entry.path]
    assert store.verify() == []


@pytest.mark.slow
def test_one_that_is_too_large_a_share_of_the_store_is_not_kept_and_drives_nothing_out(
    store, tiny, caplog
):
    first = session_with(store, tiny)
    size = sum(state.nbytes for states in recorded(first).states for state in states)
    before = {entry.path for entry in store.entries()}
    store.limit = int(size / storing.SHARE) - 1
    caplog.set_level(logging.INFO)
    second = session_with(store, tiny)
    assert rendered(second)[1] == 2 * N
    assert references(store) == []
    assert {entry.path for entry in store.entries()} == before
    (record,) = [record for record in caplog.records if "reference" in record.getMessage()]
    assert record.levelno == logging.INFO  # it is a rule, and no fault
    store.limit *= 2
    assert rendered(session_with(store, tiny))[1] == 2 * N
    assert len(references(store)) == 1


def recorded(session):
    """The branch of a session that keeps nothing."""
    other = session_with(None, session.model)
    other.render()
    return branch_of(other)


def test_when_room_is_needed_references_go_before_what_was_trained(store):
    tensors = {"x": torch.zeros(100)}
    for kind, number in [("lora", 1), ("inversion", 2), ("reference", 3), ("reference", 4)]:
        assert store.put(kind, {"number": number}, tensors)
    store.limit = 3 * max(entry.size for entry in store.entries())
    assert store.put("lora", {"number": 5}, tensors)
    assert sorted(entry.made_by()["number"] for entry in store.entries()) == [1, 2, 5]


@pytest.mark.slow
def test_a_branch_whose_keeping_is_interrupted_is_there_for_the_next_render(
    store, tiny, monkeypatch
):
    session = session_with(store, tiny)

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.render()
    assert rendered(session)[1] == N
    assert references(store) == []
    hidden = {path.name for path in store.folder.rglob(".*") if path.is_file()}
    assert hidden == {MARK}  # and nothing unfinished
