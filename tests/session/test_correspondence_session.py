"""Correspondence attention through a session: the map of a drag's history, and renders by it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, N, Passes, ask, left_half, session_on

from dragwidget.drag.correspondence import correspondence
from dragwidget.drag.warping import in_latent
from dragwidget.session.session import DragSession

NEAR = ((12, 12), (24, 28))
FEW = {"drag_timesteps": 2, "tracks_per_timestep": 2, "updates_per_track": 2}
DRAGS = [
    {"method": "warp", "warp_field": "stretch", "warp_combine": "winner"},
    {"method": "warp"},
    {"method": "progressive", "step_length": 2.0},
    {"start": "warped"},
    {"method": "gooddrag", "start": "warped"},
    {},
]


def rendering(session, **render):
    session.settings = replace(
        session.settings, render=replace(session.settings.render, start_layer=0, **render)
    )
    return session


def dragged(tiny, drag, **render):
    session = rendering(session_on(tiny, **{**FEW, **drag}), **{"correspondence": 1.0, **render})
    session.instructions = ask(NEAR, mask=left_half())
    session.run()
    return session


def cells(session, points, drag):
    """Points in image pixels as cells of the latent."""
    scale = torch.tensor(session.image.size) / torch.tensor([drag.shape[3], drag.shape[2]])
    return ((torch.tensor(points) + 0.5) / scale - 0.5).flip(-1)


@pytest.mark.slow
@pytest.mark.parametrize("drag", DRAGS, ids=str)
def test_every_method_renders_by_the_map_of_its_handles(tiny, drag):
    session = dragged(tiny, drag)
    node = session.history.current
    found = session.edit.correspondence(node)
    row, column = cells(session, node.handles, node.latent)[0].round().long().tolist()
    assert found.source[row, column].tolist() != [row, column] or node.handles[0] == NEAR[0]
    with Passes(tiny) as passes:
        image = session.render()
    assert passes.count == 2 * N - list(session.invert().schedule.last(N)).index(node.timestep)
    mutual = rendering(session, correspondence=0.0)
    with Passes(tiny) as passes:
        assert not np.array_equal(mutual.render(), image)
    assert passes.count < 2 * N  # with the same reference branch


def test_a_warps_map_is_that_of_its_pairs(tiny):
    session = dragged(tiny, DRAGS[0])
    node, settings = session.history.current, session.settings.drag
    found = session.edit.correspondence(node)
    grid, size = session.edit._grid(settings), tuple(node.latent.shape[2:])
    protected = session.edit.protected(session.instructions, settings)
    handles, targets = (
        in_latent(session.edit._handles(each, node.instructions, grid)[0], grid, node.latent)
        for each in session.history.path(node)
    )
    wanted = correspondence(
        size, handles, targets, protected, field="stretch", combine="winner"
    )  # fmt: skip
    assert torch.equal(found.source, wanted.source)
    assert torch.equal(found.weight, wanted.weight)
    assert found.moved.any()


@pytest.mark.parametrize("drag", [DRAGS[0], DRAGS[2]], ids=str)
def test_maps_follow_one_another_where_handles_are_new(tiny, drag):
    session = dragged(tiny, drag)
    first = session.edit.correspondence(session.history.current)
    start = session.history.current
    session.instructions = ask(NEAR, ((26, 40), (20, 34)), mask=left_half())
    session.run()
    node = session.history.current
    assert node.index > start.index
    found = session.edit.correspondence(node)
    wanted = first
    steps = session.history.path(node)[start.index :]
    pieces = pairwise(steps) if drag["method"] == "warp" else [(steps[0], steps[-1])]
    for begin, end in pieces:
        wanted = wanted.then(session.edit._correspondence(begin, end))
    assert torch.equal(found.source, wanted.source)
    assert torch.equal(found.weight, wanted.weight)
    assert np.asarray(session.render()).any()


def test_a_moved_target_leads_a_progressive_warp_on_and_a_warp_anew(tiny):
    for drag in (DRAGS[0], DRAGS[2]):
        session = dragged(tiny, drag)
        session.instructions = ask((NEAR[0], (14, 34)), mask=left_half())
        session.run()
        node = session.history.current
        found = session.edit.correspondence(node)
        whole = session.edit._correspondence(session.history.nodes[0], node)
        same = torch.equal(found.source, whole.source)
        assert same == (drag["method"] == "progressive")


def test_where_nothing_was_dragged_the_render_is_as_ever(tiny):
    session = dragged(tiny, DRAGS[0])
    assert session.edit.correspondence(session.history.nodes[0]) is None
    on = session.render(step=0)
    off = rendering(session, correspondence=0.0).render(step=0)
    assert np.array_equal(on, off)


def test_it_needs_the_reference_branch_even_without_mutual_attention(tiny):
    session = dragged(tiny, DRAGS[0], mutual_self_attention=False, keep_protected=False)
    assert session.status["reference"].state == "missing"
    with Passes(tiny) as passes:
        image = session.render()
    assert passes.count == 2 * N
    plain = rendering(session, correspondence=0.0)
    assert session.status["reference"].state == "off"
    assert not np.array_equal(plain.render(), image)


def test_a_rewind_a_branch_and_a_file_render_the_same_bits(tiny, tmp_path):
    session = dragged(tiny, {"method": "progressive", "step_length": 3.0, "steps": 9})
    image = session.render()
    session.rewind(1)
    session.instructions = ask(FAR, mask=left_half())
    session.run()
    session.rewind(1)
    session.instructions = ask(NEAR, mask=left_half())
    session.run()
    assert np.array_equal(session.render(), image)
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny)
    assert again.settings.render.correspondence == 1.0
    assert np.array_equal(again.render(), image)
