"""GoodDrag through an unchanged session: stop anywhere, go on, go back, branch; the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, N, Passes, ask, left_half, session_on

from dragwidget.diffusion.attention import record_reference, render_latents
from dragwidget.drag import denoise
from dragwidget.drag.method import Ended
from dragwidget.session.journal import Journal, restore
from dragwidget.session.node import instructions_json, node_bytes, open_node
from dragwidget.session.session import DragSession
from dragwidget.session.source import image_of
from dragwidget.storage.tensors import digest

GOOD = {
    "method": "gooddrag", "template": "original", "drag_timesteps": 2, "tracks_per_timestep": 2,
    "updates_per_track": 2, "step_length": 4.0, "learning_rate": 0.02, "steps": 100,
}  # fmt: skip
UPDATES = 8


def good(tiny, **more):
    return session_on(tiny, **{**GOOD, **more})


def nodes(session):
    return session.history.path()[1:]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.latent, b.latent)
        assert torch.equal(a.moments.first, b.moments.first)
        assert (a.timestep, a.counts, a.plain_steps, a.still) == (
            b.timestep, b.counts, b.plain_steps, b.still,
        )  # fmt: skip
        assert a.handles == b.handles
        assert a.step.loss == b.step.loss


@pytest.fixture(scope="module")
def straight(tiny):
    session = good(tiny)
    list(session.drag(ask(mask=left_half())))
    return session


def test_a_drag_walks_down_the_timesteps_to_its_end(straight):
    walked = straight.invert().schedule.last(N)
    assert [n.timestep for n in nodes(straight)] == [*walked[:1] * 3, *walked[1:2] * 4, walked[2]]
    assert straight.ended == Ended.DENOISED
    assert len(nodes(straight)) == UPDATES
    assert list(straight.drag()) == []
    assert straight.ended == Ended.DENOISED


@pytest.mark.slow
def test_single_steps_give_the_same_bits(tiny, straight):
    session = good(tiny)
    session.instructions = ask(mask=left_half())
    while session.step():
        session.stages.edit(session.request).release()
        session.preview()
    assert_same(nodes(session), nodes(straight))


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_a_saved_drag_goes_on_to_the_same_bits(tiny, straight, tmp_path, at):
    session = good(tiny)
    session.instructions = ask(mask=left_half())
    session.run(at)
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny)
    again.run()
    assert_same(nodes(again), nodes(straight))


@pytest.mark.slow
def test_a_journal_goes_on_to_the_same_bits(tiny, straight, tmp_path):
    session, journal = good(tiny), Journal(tmp_path / "journal")
    for step in session.drag(ask(mask=left_half())):
        journal.took_step(session)
        if step.index == 5:
            break
    again, _ = restore(tmp_path / "journal", tiny)
    again.run()
    assert_same(nodes(again), nodes(straight))


@pytest.mark.parametrize("bad", [{"counts": (0, -1)}, {"counts": (0,) * 17}, {"plain_steps": -1}])
def test_a_node_with_counts_that_cannot_be_is_refused(straight, tmp_path, bad):
    start, node = straight.history.nodes[:2]
    drawn = {instructions_json(node.instructions)[0]: node.instructions}
    for written, refused in ((node, False), (replace(node, **bad), True)):
        header, data = node_bytes(written)
        path = tmp_path / "node.safetensors"
        path.write_bytes(header + data)
        given = (path, len(header + data), digest(header), [start], drawn)
        if refused:
            with pytest.raises(ValueError, match="step 1 of its history has counts"):
                open_node(*given)
        else:
            assert open_node(*given).counts == node.counts == (0, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 2, 4, 7])
def test_going_back_and_on_again_gives_the_same_bits(tiny, straight, at):
    session = good(tiny)
    list(session.drag(ask(mask=left_half())))
    session.rewind(at)
    session.run()
    assert_same(nodes(session), nodes(straight))
    assert len(session.history.tips) == 2


@pytest.mark.slow
def test_a_moved_target_steers_and_branches(tiny):
    """Moved during the drag, or later after going back: the same bits."""
    steered = good(tiny)
    elsewhere = ask((FAR[0], (12, 40)), mask=left_half())
    for step in steered.drag(ask(mask=left_half())):
        if step.index == 5:
            steered.instructions = elsewhere
    branched = good(tiny)
    list(branched.drag(ask(mask=left_half())))
    branched.rewind(5)
    list(branched.drag(elsewhere))
    assert_same(nodes(branched), nodes(steered))
    first, other = (n.latent for n in (branched.history.nodes[6], nodes(branched)[5]))
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_a_handle_drawn_at_a_later_timestep_is_what_lies_there_then(tiny):
    session = good(tiny)
    session.instructions = ask(mask=left_half())
    session.run(5)
    number = session.history.current.number
    session.instructions = ask(FAR, ((30, 20), (16, 20)), mask=left_half())
    session.run()
    assert nodes(session)[-1].anchor_nodes == (0, number)
    again = good(tiny)
    again.instructions = ask(mask=left_half())
    again.run(5)
    again.instructions = ask(FAR, ((30, 20), (16, 20)), mask=left_half())
    while again.step():
        again.stages.edit(again.request).release()
    assert_same(nodes(again), nodes(session))


@pytest.mark.slow
def test_of_the_undragged_latent_no_feature_map_stays(tiny):
    session = good(tiny)
    list(session.drag(ask(mask=left_half())))
    edit = session.stages.edit(session.request)
    plain = edit._plain[0]
    side = 2 * session.settings.drag.motion_radius + 1
    assert {patch.values.shape[1:] for patch in plain._patches.values()} == {(side, side)}
    assert all(not seen.features.blocks for seen in plain._steps.values())


# ---------------------------------------------------------------- rendering


@pytest.mark.parametrize("at", [2, 4, 8])
def test_a_render_starts_where_the_latent_is(tiny, straight, at):
    """First the rest of the dragging timestep, plainly; then with mutual self-attention."""
    node, inversion, render = nodes(straight)[at - 1], straight.invert(), straight.settings.render
    walked = list(inversion.schedule.last(N))
    left = walked[walked.index(node.timestep) :]
    straight.render()  # the reference branch is made
    with Passes(tiny) as passes:
        image = straight.render(at)
    assert passes.count == len(left) == N - node.counts[0]
    predict = inversion.predictor.predict
    latent = node.latent
    if node.plain_steps:
        latent = next(denoise(predict, latent, inversion.schedule, len(left)))
    branch = list(
        record_reference(inversion.predictor, inversion.latents[-1], inversion.schedule, N, render)
    )[-1]
    first = N - len(left) + node.plain_steps
    rest = list(
        render_latents(
            inversion.predictor, latent, inversion.schedule, N, branch, render, first=first
        )
    )
    wanted = image_of(straight.request, tiny.decode(rest[-1]))
    assert np.array_equal(image, wanted)


@pytest.mark.slow
def test_where_nothing_was_changed_render_and_preview_show_the_source(tiny):
    session = good(tiny, learning_rate=1e-30)
    session.prepare()
    start, start_preview = session.render(), session.preview()
    list(session.drag(ask(mask=left_half())))
    for step in (3, 6, 8):
        gap = np.abs(np.asarray(session.render(step), int) - np.asarray(start, int))
        assert gap.max() <= 1
        gap = np.abs(np.asarray(session.preview(step), int) - np.asarray(start_preview, int))
        assert gap.max() <= 1


# ---------------------------------------------------------------- beside the paper's method


@pytest.mark.slow
def test_another_method_goes_on_from_where_gooddrag_stands(tiny):
    session = good(tiny)
    session.instructions = ask(mask=left_half())
    session.run(5)
    node = session.history.current
    drag = replace(session.settings.drag, method="dragdiffusion")
    session.settings = replace(session.settings, drag=drag)
    session.run(2)
    assert session.history.current.timestep == node.timestep
    assert not torch.equal(session.history.current.latent, node.latent)
    session.settings = replace(session.settings, drag=replace(drag, method="gooddrag"))
    session.run()
    assert session.history.current.timestep < node.timestep
    assert session.render().size == session.image.size


@pytest.mark.slow
def test_a_generated_image_is_dragged_under_guidance(tiny):
    session = good(tiny)
    session.generate("a cat", "a dog", 3.0, seed=1, size=(64, 48))
    steps = list(session.drag(ask(mask=left_half())))
    assert len(steps) == UPDATES
    assert all(bool(step.latent.isfinite().all()) for step in steps)
    assert session.render().size == (64, 48)
