"""Going on with another target, and looking at what motion supervision sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import Passes, ask, session_on

RATE = 1e-3  # no step of Adam changes a value by much more


def change(session, **drag):
    """By how much the next step changes the latent, at most."""
    before = session.history.current.latent
    session.settings = replace(session.settings, drag=replace(session.settings.drag, **drag))
    assert session.step() is not None
    return (session.history.current.latent - before).abs().max()


def test_a_warped_drag_bends_again_where_a_target_is_new_and_only_there(tiny):
    session = session_on(tiny, learning_rate=RATE)
    session.prepare()
    session.instructions = ask()
    assert change(session) < 5 * RATE
    assert change(session, start="warped") < 5 * RATE  # the same target
    session.instructions = ask(((12, 12), (20, 40)))
    assert change(session) > 50 * RATE
    session.rewind(0)
    assert change(session) > 50 * RATE


def test_similarity_is_one_where_it_looks_from_and_costs_one_pass(tiny):
    session = session_on(tiny)
    session.prepare()
    with Passes(tiny) as passes:
        similar = session.similarity((20, 30))
    assert passes.count == 1
    assert list(similar) == list(range(tiny.feature_block_count))
    for cosine in similar.values():
        rows, columns = cosine.shape
        assert np.abs(cosine).max() <= 1
        assert np.isclose(cosine[30 * rows // 48, 20 * columns // 64], 1, atol=1e-5)
        assert cosine.min() < 0.999


def test_similarity_changes_nothing(tiny):
    session, other = session_on(tiny), session_on(tiny)
    for each in (session, other):
        each.instructions = ask()
        each.step(1)
    session.similarity((5, 5))
    for each in (session, other):
        each.step(1)
    assert torch.equal(session.history.current.latent, other.history.current.latent)


@pytest.mark.parametrize("xy", [(-1, 5), (64, 5), (5, 48)])
def test_similarity_is_refused_outside_the_image(tiny, xy):
    session = session_on(tiny)
    session.prepare()
    with pytest.raises(ValueError, match="outside the image"):
        session.similarity(xy)


def test_similarity_needs_an_inversion(tiny):
    with pytest.raises(RuntimeError, match="not inverted"):
        session_on(tiny).similarity((5, 5))
