"""The progressive warp through an unchanged session: steer, go back, branch; the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, Passes, ask, left_half, session_on

from dragwidget.drag.method import Ended
from dragwidget.session.session import DragSession

NEAR = ((12, 12), (18, 20))  # 10 pixels: 5 feature cells
MOVED = (NEAR[0], (12, 24))


def progressive(tiny, **more):
    settings = {
        "method": "progressive", "step_length": 0.5, "stop_distance": 0.5, "steps": 80,
        "updates_per_track": 2,
    }  # fmt: skip
    return session_on(tiny, **{**settings, **more})


def nodes(session):
    return session.history.path()[1:]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.latent, b.latent)
        assert torch.equal(a.moments.first, b.moments.first)
        assert a.handles == b.handles
        assert a.step.loss == b.step.loss


@pytest.fixture(scope="module")
def straight(tiny):
    session = progressive(tiny)
    list(session.drag(ask(NEAR, mask=left_half())))
    return session


def test_ten_pixels_take_ten_visible_steps_of_one_length(straight):
    assert len(nodes(straight)) >= 10
    assert straight.ended == Ended.REACHED
    left = [float(node.step.distances[0]) for node in nodes(straight)]
    assert np.allclose(np.diff(left), left[-1] - left[-2], atol=0.02)
    assert left[-1] == 0
    for one, other in zip(nodes(straight), nodes(straight)[1:], strict=False):
        assert not torch.equal(one.latent, other.latent)
    assert straight.render().size == straight.image.size


def test_a_step_takes_one_pass_for_each_update(tiny):
    session = progressive(tiny)
    session.instructions = ask(NEAR)
    session.run(1)  # the pass at the start, which handles were drawn on
    session.step()
    with Passes(tiny) as passes:
        session.step()
    assert passes.count <= 3


def test_single_steps_give_the_same_bits(tiny, straight):
    session = progressive(tiny)
    session.instructions = ask(NEAR, mask=left_half())
    while session.step():
        session.edit.release()
        session.preview()
    assert_same(nodes(session), nodes(straight))


@pytest.mark.parametrize("at", [0, 3, 7])
def test_going_back_and_on_again_gives_the_same_bits(tiny, straight, at):
    session = progressive(tiny)
    list(session.drag(ask(NEAR, mask=left_half())))
    session.rewind(at)
    session.run()
    assert_same(nodes(session), nodes(straight))
    assert len(session.history.tips) == 2


@pytest.mark.parametrize("at", [1, 6])
def test_a_saved_drag_goes_on_to_the_same_bits(tiny, straight, tmp_path, at):
    session = progressive(tiny)
    session.instructions = ask(NEAR, mask=left_half())
    session.run(at)
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny)
    again.run()
    assert_same(nodes(again), nodes(straight))


def test_a_moved_target_steers_and_branches(tiny):
    """Moved during the drag, or later after going back: the same bits."""
    steered, elsewhere = progressive(tiny), ask(MOVED, mask=left_half())
    for step in steered.drag(ask(NEAR, mask=left_half())):
        if step.index == 4:
            steered.instructions = elsewhere
    branched = progressive(tiny)
    list(branched.drag(ask(NEAR, mask=left_half())))
    branched.rewind(4)
    list(branched.drag(elsewhere))
    assert_same(nodes(branched), nodes(steered))
    x, y = nodes(steered)[-1].handles[0]
    assert (x, y) == (12, 24)


def test_a_drag_that_goes_on_still_warps_the_first_latent(tiny):
    """Without updates, two targets one after the other are the warp to the second."""
    twice, once = progressive(tiny, learning_rate=1e-38), progressive(tiny, learning_rate=1e-38)
    list(twice.drag(ask(NEAR, mask=left_half())))
    list(twice.drag(ask(MOVED, mask=left_half())))
    list(once.drag(ask(MOVED, mask=left_half())))
    torch.testing.assert_close(
        twice.history.current.latent, once.history.current.latent, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("stays", [True, False])
def test_a_handle_that_is_new_or_gone_leaves_what_was_dragged_where_it_is(tiny, stays):
    session, far = progressive(tiny, learning_rate=1e-38, step_length=1.0), ((50, 36), (56, 36))
    list(session.drag(ask(NEAR)))
    before = session.history.current.latent
    list(session.drag(ask(NEAR, far) if stays else ask(far)))
    after = session.history.current.latent
    assert not torch.equal(after, before)
    near = (..., slice(0, 5), slice(0, 5))  # where the first pair moved, 38 pixels from the second
    torch.testing.assert_close(after[near], before[near], rtol=0, atol=0.05)


def test_a_mask_that_is_new_does_not_move_what_was_dragged_before(tiny):
    session = progressive(tiny, learning_rate=1e-38)
    session.instructions = ask(FAR)
    session.run(6)
    before = session.history.current.latent
    session.instructions = ask(FAR, mask=left_half())
    session.step()
    cells = session.edit.protected(session.instructions, session.settings.drag) > 0
    after = session.history.current.latent
    torch.testing.assert_close(after[..., cells], before[..., cells], rtol=0, atol=1e-5)
