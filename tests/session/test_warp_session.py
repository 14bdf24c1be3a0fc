"""The warp method through an unchanged session, and its field as a start of other methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, N, Passes, ask, left_half, session_on

from dragwidget.data.presets import with_method
from dragwidget.drag.method import Ended
from dragwidget.session.session import DragSession

FIELDS = [
    {"warp_field": field, "warp_combine": combine, "warp_holes": holes}
    for field, combine, holes in [
        ("near", "mean", "keep"), ("near", "winner", "keep"), ("stretch", "mean", "neighbours"),
        ("stretch", "winner", "noise"), ("stretch", "mean", "keep"),
    ]
]  # fmt: skip
TWO = (FAR, ((40, 10), (10, 30)))


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("mask", [None, left_half()])
def test_one_step_of_one_pass_carries_every_handle_to_its_target(tiny, field, mask):
    session = session_on(tiny, method="warp", steps=9, **field)
    session.prepare()
    with Passes(tiny) as passes:
        (step,) = list(session.drag(ask(*TWO, mask=mask)))
    assert passes.count == 1
    assert session.ended == Ended.REACHED
    assert step.reached.all()
    assert (step.distances < 2).all()
    assert dict(step.loss_terms) == {}
    start, after = (node.latent for node in session.history.nodes)
    assert after.isfinite().all()
    assert not torch.equal(start, after)
    if mask is not None:
        cells = session.edit.protected(session.instructions, session.settings.drag) > 0
        assert torch.equal(start[..., cells], after[..., cells])
    assert session.render().size == session.image.size


def test_it_is_the_same_field_as_the_warped_start(tiny):
    latents = []
    for more in ({"method": "warp"}, {"start": "warped", "steps": 1}):
        session = session_on(tiny, **more)
        list(session.drag(ask(*TWO, mask=left_half())))
        latents.append(session.history.nodes[1].latent)
    assert torch.equal(*latents)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dragdiffusion", "gooddrag"])
def test_any_field_may_be_the_start_of_another_method(tiny, method):
    latents = []
    for field in FIELDS:
        session = session_on(
            tiny, method=method, start="warped", drag_timesteps=2, steps=2, stop_distance=0.01,
            **field,
        )  # fmt: skip
        list(session.drag(ask(*TWO, mask=left_half())))
        latents.append(session.history.nodes[1].latent)
        assert session.history.current.latent.isfinite().all()
    for k, one in enumerate(latents):
        assert not any(torch.equal(one, other) for other in latents[:k])


@pytest.mark.slow
def test_the_reach_changes_the_near_field_and_not_the_stretch(tiny):
    latents = []
    for field in ("near", "stretch"):
        for reach in (0.5, 2.5):
            session = session_on(tiny, method="warp", warp_field=field, warp_reach=reach)
            list(session.drag(ask()))
            latents.append(session.history.current.latent)
    assert not torch.equal(*latents[:2])
    assert torch.equal(*latents[2:])


@pytest.mark.parametrize("field", [FIELDS[0], FIELDS[3]])
def test_a_moved_target_a_rewind_and_a_file_give_the_same_bits(tiny, tmp_path, field):
    elsewhere = ask((FAR[0], (12, 40)), mask=left_half())

    def run(session):
        list(session.drag(ask(mask=left_half())))
        list(session.drag(elsewhere))
        return session

    session = run(session_on(tiny, method="warp", **field))
    assert [node.index for node in session.history.nodes] == [0, 1, 2]
    last = session.history.current.latent
    session.rewind(1)
    list(session.drag(elsewhere))
    assert torch.equal(session.history.current.latent, last)
    session.rewind(1)
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny)
    list(again.drag(elsewhere))
    assert torch.equal(again.history.current.latent, last)


def test_its_preset_takes_as_few_passes_as_the_render_alone(tiny):
    """Inversion by look-ahead, one step, and a render with the branch that was recorded."""
    session = session_on(tiny)
    settings = with_method(session.settings, "warp")
    inversion = replace(settings.inversion, strength=session.settings.inversion.strength)
    session.settings = replace(settings, inversion=inversion)
    session.instructions = ask(mask=left_half())
    with Passes(tiny) as passes:
        session.run()
        image = session.render()
    assert passes.count == (N + 1) + 1 + N
    assert not np.array_equal(image, session.image)
