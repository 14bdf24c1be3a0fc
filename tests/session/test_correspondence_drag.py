"""Correspondence attention in the drag: its passes attend to the source by the map of the drag."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, Passes, ask, left_half, session_on

from dragwidget.diffusion.attention import AttendingToSource
from dragwidget.diffusion.backbone import SelfAttention
from dragwidget.drag.correspondence import correspondence
from dragwidget.session.session import DragSession

METHODS = ["dragdiffusion", "gooddrag", "progressive"]
NEAR = ((12, 12), (24, 28))
LATER = ((26, 40), (20, 34))
FEW = {"drag_timesteps": 2, "tracks_per_timestep": 2, "updates_per_track": 2}


def mapping(model, method="dragdiffusion", **more):
    return session_on(model, method=method, **{**FEW, "correspondence": 0.6, **more})


def latents(session):
    return [node.latent for node in session.history.path()]


def changed(session, **drag):
    session.settings = replace(session.settings, drag=replace(session.settings.drag, **drag))
    return session


def test_a_pass_attends_by_its_map_with_its_weight(tiny):
    inversion = session_on(tiny).invert()
    timestep, latent = inversion.timestep, inversion.latents[-1]
    model = AttendingToSource(inversion.predictor, inversion.latent_at, 0.6)
    layers = tiny.decoder_attention
    states = inversion.predictor(latent, timestep, attention=SelfAttention(layers)).states
    elsewhere = latent.roll(1, dims=3)
    handle, target = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 5.0]])
    model.moved = correspondence(tuple(latent.shape[2:]), handle, target, field="stretch")
    mapped = SelfAttention(layers, states, model.moved, 0.6)
    seen = model(elsewhere, timestep, blocks=(2,)).features[0]
    assert torch.equal(
        seen, inversion.predictor(elsewhere, timestep, blocks=(2,), attention=mapped).features[0]
    )
    model.moved = None  # nothing has moved: reference attention, to the bit
    reference = AttendingToSource(inversion.predictor, inversion.latent_at)
    unmoved = model(elsewhere, timestep, blocks=(2,)).features[0]
    assert torch.equal(unmoved, reference(elsewhere, timestep, blocks=(2,)).features[0])
    assert not torch.equal(seen, unmoved)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_until_a_handle_has_moved_it_is_reference_attention_to_the_bit(tiny, method):
    mapped = mapping(tiny, method, steps=8)
    reference = mapping(tiny, method, steps=8, correspondence=0.0, reference_attention=True)
    for session in (mapped, reference):
        session.instructions = ask(NEAR, mask=left_half())
        session.run()
    still = 0
    nodes = [session.history.path() for session in (mapped, reference)]
    for one, other in zip(*nodes, strict=True):
        if one.parent and mapped.history.nodes[one.parent].handles[0] != NEAR[0]:
            break
        assert torch.equal(one.latent, other.latent)
        assert one.handles == other.handles
        still += 1
    assert 1 < still < len(nodes[0])
    assert not torch.equal(nodes[0][-1].latent, nodes[1][-1].latent)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"start": "warped"}, {}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_rewind_a_branch_and_a_file_go_on_to_the_same_bits(tiny, tmp_path, method, more):
    """Also where a handle is new, so that the drag begins again on a dragged latent."""
    session = mapping(tiny, method, steps=20, **more)
    session.instructions = ask(NEAR, mask=left_half())
    session.run(3)
    both = ask(NEAR, LATER, mask=left_half())
    session.instructions = both
    session.run(3)
    wanted, image = latents(session), session.render()
    assert len(wanted) > 5
    session.rewind(3)
    session.edit.release()
    session.instructions = ask(FAR, mask=left_half())
    session.step()
    session.rewind(3)
    session.instructions = both
    for _ in wanted[4:]:  # a pass that is left from the last step is the one that is made again
        session.edit.release()
        session.step()
    assert all(map(torch.equal, latents(session), wanted))
    session.rewind(4)
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny)
    again.run(len(wanted) - 5)
    assert all(map(torch.equal, latents(again), wanted))
    assert np.array_equal(again.render(), image)


@pytest.mark.parametrize("mask", [None, left_half()])
def test_it_takes_no_pass_more_than_reference_attention(tiny, mask):
    counts = []
    for weight in (0.0, 0.6):
        session = mapping(tiny, correspondence=weight, reference_attention=True)
        session.prepare()
        with Passes(tiny) as passes:
            list(session.drag(ask(NEAR, mask=mask)))
        counts.append(passes.count)
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_a_confidence_does_not_believe_the_map(tiny):
    session = mapping(tiny, "progressive", correspondence=1.0)
    session.instructions = ask(NEAR, mask=left_half())
    session.run()
    mapped, wanted = session.confidence(), latents(session)
    session.step()
    ahead = session.history.current.latent
    session.rewind(session.history.current.index - 1)
    changed(session, correspondence=0.0, reference_attention=True)
    assert np.array_equal(session.confidence(), mapped)
    changed(session, correspondence=1.0, reference_attention=False)
    session.step()  # what was seen in between is not taken for what the drag sees
    assert torch.equal(session.history.current.latent, ahead)
    assert all(map(torch.equal, latents(session), wanted))


@pytest.mark.slow
def test_stable_diffusion_xl_drags_with_it(xl):
    found = []
    for weight in (0.0, 0.6):
        session = mapping(xl, "progressive", correspondence=weight, reference_attention=True)
        list(session.drag(ask(NEAR, mask=left_half())))
        found.append(session.history.current.latent)
        assert found[-1].isfinite().all()
    assert not torch.equal(*found)
