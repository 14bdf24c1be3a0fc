"""Confidence: whether what a handle was drawn on is under it still."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analytic_models import RolledImage
from tiny_sessions import Passes, ask, left_half, session_on

from dragwidget.drag import FeatureMap
from dragwidget.drag.method import Ended
from dragwidget.drag.tracking import LOW_CONFIDENCE, confidence, low_confidence
from dragwidget.editor.messages import ended
from dragwidget.ui.widget import DragWidget

GRID = (32, 32)


def rolled(rows: float = 0, columns: float = 0, grid: tuple[int, int] = GRID) -> FeatureMap:
    image = RolledImage().image(torch.tensor([rows, columns]).reshape(1, 2, 1, 1))
    return FeatureMap((image,), grid)


def sure(features, handle, drawn=(10.0, 12.0), original=None, radius=3):
    return confidence(
        features, torch.tensor(handle), original or rolled(), torch.tensor(drawn), radius=radius
    )


@pytest.mark.parametrize("move", [(0, 0), (3, 5), (-4, 2)])
def test_it_is_1_where_the_content_is_under_the_handle(move):
    assert sure(rolled(*move), (10.0 + move[0], 12.0 + move[1])) == pytest.approx(1, abs=1e-4)


def test_it_falls_with_the_distance_of_the_content_from_the_handle():
    values = [sure(rolled(0, 5), (10.0, 17.0 + missed)) for missed in (0, 1, 2, 4, 8)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < LOW_CONFIDENCE < values[1]


def test_content_that_occurs_elsewhere_is_tracked_back_to_there():
    """A handle on an exact copy of another place: alike, but not what was drawn on."""
    image = rolled().blocks[0].clone()
    image[..., 10, 12] = image[..., 25, 28] + 1e-3
    original = FeatureMap((image,), GRID)
    assert sure(FeatureMap((image,), GRID), (10.0, 12.0), original=original) > 0.9
    assert sure(rolled(), (25.0, 28.0), original=original) < 0.01


def test_a_grid_finer_than_the_networks_map_loses_no_confidence():
    assert sure(rolled(grid=(64, 64)), (21.0, 24.0), (21.0, 24.0), rolled(grid=(64, 64))) == 1


# ---------------------------------------------------------------- of a session


def test_undragged_handles_are_certain(tiny):
    session = session_on(tiny)
    with pytest.raises(RuntimeError, match=r"drag\(\) first"):
        session.confidence()
    session.prepare()
    session.instructions = ask()
    assert session.confidence().tolist() == [1]


@pytest.mark.parametrize("method", ["dragdiffusion", "gooddrag", "warp", "progressive"])
def test_every_method_has_a_number_for_each_handle(tiny, method):
    session = session_on(
        tiny, method=method, drag_timesteps=2, tracks_per_timestep=1, updates_per_track=1, steps=3
    )
    list(session.drag(ask(((12, 12), (20, 12)), ((40, 30), (44, 40)), mask=left_half())))
    values = session.confidence()
    assert values.shape == (2,)
    assert ((values >= 0) & (values <= 1)).all()
    assert values.min() < 1
    session.edit.release()
    session.edit.checked = None
    np.testing.assert_allclose(session.confidence(), values, atol=1e-5)


def test_it_takes_one_pass_at_most_and_only_once_for_a_node(tiny):
    session = session_on(tiny, method="warp")
    list(session.drag(ask()))
    with Passes(tiny) as passes:
        first = session.confidence()
        assert passes.count <= 2  # here, and where the handle was drawn
        count = passes.count
        assert session.confidence() is first
    assert passes.count == count
    latent = session.history.current.latent
    session.rewind(0)
    assert session.confidence().tolist() == [1]
    assert torch.equal(session.history.nodes[1].latent, latent)


def test_it_changes_no_bit_of_the_drag(tiny):
    latents = []
    for check in (False, True):
        session = session_on(tiny, steps=4)
        for _ in session.drag(ask()):
            if check:
                session.confidence()
        latents.append(session.history.current.latent)
    assert torch.equal(*latents)


def test_low_confidence_is_told_where_reached_is_reported():
    assert low_confidence([0.9, 0.31]) == ""
    assert low_confidence([0.9, 0.123]) == "pair 2 (0.12)"
    said = ended(Ended.REACHED, "all handles are there", [0.1, 0.9])
    assert said.startswith("Targets reached, but confidence is low at pair 1 (0.10)")
    assert ended(Ended.REACHED, "all handles are there", [0.9]) == "All handles are there."
    assert "low" not in ended(Ended.STEP_LIMIT, "step limit reached", [0.1])


def test_settings_of_the_features_change_it(tiny):
    session = session_on(tiny, method="warp")
    list(session.drag(ask()))
    first = session.confidence()
    drag = replace(session.settings.drag, feature_blocks=(1,))
    session.settings = replace(session.settings, drag=drag)
    assert session.confidence() is not first


def test_confidence_is_shown_beside_each_pair_where_a_drag_reached_its_targets(tiny):
    session = session_on(tiny, method="warp")
    widget = DragWidget(session, clock="sync", instructions=ask(), journal=False)
    widget.run()
    widget.wait()
    (value,) = session.confidence().tolist()
    assert f"confidence {value:.2f}" in widget._view.status._distances.value
    assert ("confidence is low at pair 1" in widget._view.status._line.value) == (
        value < LOW_CONFIDENCE
    )
    widget.rewind(0)
    assert "confidence" not in widget._view.status._distances.value
    widget.close()
