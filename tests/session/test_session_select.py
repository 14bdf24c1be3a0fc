"""``DragSession.select``: by colours before the inversion, by features from then on."""

import numpy as np
import pytest
from tiny_sessions import SIZE, session_on, waves

from dragwidget.data.selection import select_by_colour


@pytest.fixture
def session(tiny):
    return session_on(tiny)


def test_before_the_inversion_colours_decide(session):
    found = session.select([(20, 12)], tolerance=2.0)
    assert (found == select_by_colour(waves(), [(20, 12)], tolerance=2.0)).all()


def test_features_take_one_pass_and_no_more(session, monkeypatch):
    session.prepare()
    passes = []
    monkeypatch.setattr(session.stages, "_check", lambda: passes.append(1))
    first = session.select([(20, 12)])
    again = session.select([(20, 12)])
    more = session.select([(20, 12)], tolerance=16.0)
    assert len(passes) == 1
    assert first.shape == (SIZE[1], SIZE[0])
    assert first.dtype == bool
    assert (first == again).all()
    assert np.count_nonzero(more) > np.count_nonzero(first)
    assert first[12, 20]


def test_selecting_leaves_the_drag_as_it_is(session):
    session.prepare()
    before = session.edit.history.current.latent.clone()
    session.select([(20, 12)], np.array([True]))
    assert len(session.history.nodes) == 1
    assert (session.edit.history.current.latent == before).all()


def test_a_click_outside_is_refused(session):
    session.prepare()
    with pytest.raises(ValueError, match="outside the image"):
        session.select([(SIZE[0], 0)])
