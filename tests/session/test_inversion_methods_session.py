"""Look-ahead and fixed-point inversion through a session, and what the first render saves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import INVERSION, N, Passes, ask, left_half, session_on

from dragwidget.data.settings import InversionSettings
from dragwidget.demo.tasks import drag_task
from dragwidget.diffusion.attention import record_reference
from dragwidget.session.rendering import rendering
from dragwidget.session.session import DragSession
from dragwidget.session.source import image_of
from dragwidget.storage.cache import Store


def session_with(tiny, method, store=None, **more):
    session = session_on(tiny, **more)
    if store is not None:
        session = DragSession(tiny, store=store)
        session.settings = session_on(tiny).settings
        session.set_image(session_on(tiny).image, "a cat")
    session.settings = replace(session.settings, inversion=replace(INVERSION, method=method))
    return session


def dragged(session):
    session.instructions = ask(mask=left_half())
    session.run()
    return session


@pytest.mark.slow
def test_the_first_render_after_look_ahead_takes_half_the_passes(tiny):
    counts = {}
    for method in ("plain", "lookahead", "cycle_sde"):
        session = session_with(tiny, method)
        with Passes(tiny) as inversion:
            session.prepare()
        dragged(session)
        with Passes(tiny) as first:
            session.render()
        with Passes(tiny) as again:
            session.render()
        counts[method] = inversion.count, first.count, again.count
    assert counts == {
        "plain": (N, 2 * N, N), "lookahead": (N + 1, N, N), "cycle_sde": (N, N, N),
    }  # fmt: skip
    assert counts["lookahead"][1] <= 0.55 * counts["plain"][1]


def test_fixed_points_take_a_pass_each(tiny):
    session = session_with(tiny, "fixed_point")
    inversion = replace(session.settings.inversion, iterations=3)
    session.settings = replace(session.settings, inversion=inversion)
    with Passes(tiny) as passes:
        session.prepare()
    assert passes.count == 4 * N


def test_where_no_render_attends_to_the_source_look_ahead_records_nothing(tiny):
    session = session_with(tiny, "lookahead")
    quiet = replace(session.settings.render, mutual_self_attention=False, keep_protected=False)
    session.settings = replace(session.settings, render=quiet)
    session.prepare()
    assert list(session.stages.references) == []
    recorded = session_with(tiny, "lookahead")
    recorded.prepare()
    for one, other in zip(session.invert().latents, recorded.invert().latents, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_other_layers_are_recorded_by_the_same_inversion(tiny):
    session = dragged(session_with(tiny, "lookahead"))
    first = session.render()
    render = session.settings.render
    session.settings = replace(session.settings, render=replace(render, start_layer=0))
    with Passes(tiny) as passes:
        other = session.render()
    assert passes.count == N + 1 + N
    session.settings = replace(session.settings, render=render)
    assert np.array_equal(session.render(), first)
    assert not np.array_equal(other, first)


def test_a_saved_session_renders_the_same_bits(tiny, tmp_path):
    session = dragged(session_with(tiny, "lookahead"))
    first = session.render()
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny)
    assert again.settings.inversion.method == "lookahead"
    assert np.array_equal(again.render(), first)


@pytest.mark.slow
def test_a_stored_inversion_renders_the_same_bits_with_its_branch_and_without(tiny, tmp_path):
    images = []
    for folder, forget in (("a", False), ("a", False), ("a", True)):
        store = Store(tmp_path / folder)
        if forget:
            for kind in tmp_path.rglob("*reference*"):
                if kind.is_file():
                    kind.unlink()
        session = session_with(tiny, "lookahead", store)
        with Passes(tiny) as passes:
            session.prepare()
        assert passes.count == (0 if images else N + 1)
        images.append(np.asarray(dragged(session).render()))
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


@pytest.mark.slow
def test_a_generated_image_needs_no_inversion_by_any_method(tiny):
    images = []
    for method in ("plain", "lookahead", "cycle_sde"):
        session = session_with(tiny, method)
        session.generate("a cat", seed=1, size=(64, 48))
        with Passes(tiny) as passes:
            session.prepare()
        assert passes.count == 0
        images.append(np.asarray(dragged(session).render()))
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


@pytest.mark.slow
def test_an_estimate_counts_the_passes_of_the_method(tiny):
    def passes(method, **more):
        session = session_with(tiny, method)
        inversion = replace(session.settings.inversion, **more)
        session.settings = replace(session.settings, inversion=inversion)
        return {p.name: p.passes for p in session.estimate(timed=False).phases}

    assert (passes("plain")["inversion"], passes("plain")["reference"]) == (N, N)
    assert passes("lookahead")["inversion"] == N + 1
    assert "reference" not in passes("lookahead")
    assert passes("fixed_point", iterations=2)["inversion"] == 3 * N
    assert passes("cycle_sde")["inversion"] == N
    assert "reference" not in passes("cycle_sde")


# ---------------------------------------------------------------- on the embedded model

SCENES = [("turn", 970_000), ("mouth", 970_001), ("nod", 970_003)]


def psnr(one, other):
    gap = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    return 10 * np.log10(255**2 / (gap**2).mean())


@pytest.fixture(scope="module")
def critters():
    return DragSession.from_pretrained("critters", device="cpu").model


@pytest.mark.slow
def test_the_recorded_branch_renders_what_a_separate_one_does(critters):
    """At least 45 dB on average over the scenes."""
    ratios = []
    for kind, seed in SCENES:
        task = drag_task(kind, seed)
        session = DragSession(critters)
        pixels = (task.source.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        session.set_image(pixels, task.instructions.prompt)
        session.settings = replace(
            session.settings,
            inversion=InversionSettings(steps=20, strength=0.6, method="lookahead"),
            drag=replace(session.settings.drag, steps=2),
            render=replace(session.settings.render, keep_source_pixels=False),
        )
        list(session.drag(task.instructions))
        image = session.render()
        inversion, node = session.invert(), session.history.current
        render = session.settings.render
        branch = list(
            record_reference(
                inversion.predictor, inversion.latents[-1], inversion.schedule, inversion.count,
                render,
            )
        )[-1]  # fmt: skip
        protected = session.edit.protected(session.instructions, session.settings.drag)
        work = rendering(
            inversion, node.latent, node.timestep, branch, render, protected,
            plain_steps=node.plain_steps,
        )  # fmt: skip
        while True:
            try:
                next(work)
            except StopIteration as end:
                latent = end.value
                break
        ratios.append(psnr(image, image_of(session.request, critters.decode(latent))))
    assert np.mean(ratios) >= 45
