"""Cycle-SDE inversion through a session: exact, kept with the edit, the same after every detour."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from tiny_sessions import FAR, INVERSION, N, Passes, ask, left_half, session_on

from dragwidget.diffusion.backbone import Backbone
from dragwidget.session.session import DragSession
from dragwidget.session.source import image_of
from dragwidget.storage.cache import Store

NEAR = ((12, 12), (24, 28))
FEW = {"drag_timesteps": 2, "tracks_per_timestep": 2, "updates_per_track": 2}


def inverting(tiny, seed=0, store=None, **drag):
    session = session_on(tiny, **{**FEW, **drag})
    if store is not None:
        made, session = session, DragSession(tiny, store=store)
        session.settings = made.settings
        session.set_image(made.image, "a cat")
    session.settings = replace(
        session.settings,
        inversion=replace(INVERSION, method="cycle_sde", seed=seed),
        render=replace(session.settings.render, start_layer=0),
    )
    return session


def dragged(session):
    session.instructions = ask(NEAR, mask=left_half())
    session.run()
    return session


@pytest.mark.parametrize("attends", [True, False])
def test_a_render_of_the_source_is_its_autoencoders_image(tiny, attends):
    session = inverting(tiny)
    render = replace(session.settings.render, mutual_self_attention=attends)
    session.settings = replace(session.settings, render=render)
    inversion = session.invert()
    wanted = np.asarray(image_of(session.request, tiny.decode(inversion.latents[0])), dtype=int)
    assert np.abs(np.asarray(session.render(), dtype=int) - wanted).max() <= 1
    assert len(inversion.noises) == N
    plain = session_on(tiny).invert()
    assert plain.noises == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "drag",
    [
        {"method": "warp"},
        {"method": "progressive"},
        {"method": "gooddrag"},
        {"start": "warped"},
        {},
    ],
    ids=str,
)
def test_every_method_drags_on_it(tiny, drag):
    session = dragged(inverting(tiny, **drag))
    assert session.history.current.index > 0
    assert session.history.current.latent.isfinite().all()
    assert not np.array_equal(session.render(), session.render(step=0))


def test_another_seed_is_another_inversion(tiny):
    one, same, other = (inverting(tiny, seed).invert() for seed in (0, 0, 1))
    assert torch.equal(one.latents[-1], same.latents[-1])
    assert not torch.equal(one.latents[-1], other.latents[-1])
    assert all(map(torch.equal, one.noises, same.noises))


@pytest.mark.slow
@pytest.mark.parametrize("drag", [{"method": "progressive", "step_length": 3.0}, {}], ids=str)
def test_a_rewind_and_a_branch_and_a_file_give_the_same_bits(tiny, tmp_path, drag):
    session = dragged(inverting(tiny, steps=9, **drag))
    latent, image = session.history.current.latent, session.render()
    steps = session.history.current.index
    session.rewind(1)
    session.instructions = ask(FAR, mask=left_half())
    session.step()
    session.rewind(1)
    session.instructions = ask(NEAR, mask=left_half())
    session.run(steps=steps - 1)
    assert torch.equal(session.history.current.latent, latent)
    assert np.array_equal(session.render(), image)
    session.rewind(1)
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny)
    assert all(map(torch.equal, again.invert().noises, session.invert().noises))
    again.run(steps=steps - 1)
    assert torch.equal(again.history.current.latent, latent)
    assert np.array_equal(again.render(), image)


def test_a_store_keeps_its_noises(tiny, tmp_path):
    first = inverting(tiny, store=Store(tmp_path)).invert()
    session = inverting(tiny, store=Store(tmp_path))
    with Passes(tiny) as passes:
        second = session.invert()
    assert passes.count == 0
    assert len(second.noises) == N
    assert all(map(torch.equal, first.noises, second.noises))
    with Passes(tiny) as passes:
        inverting(tiny, 1, Store(tmp_path)).invert()
    assert passes.count == N


@pytest.mark.parametrize("change", ["missing", "fewer", "other shape"])
def test_a_file_without_its_noises_is_refused(tiny, tmp_path, change):
    path = tmp_path / "edit.drag"
    dragged(inverting(tiny, method="warp")).save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    tensors = read_tensors(parts["tensors.safetensors"])
    noises = tensors.pop("latents.0.noises")
    if change == "fewer":
        tensors["latents.0.noises"] = noises[1:].clone()
    elif change == "other shape":
        tensors["latents.0.noises"] = noises[..., 1:].clone()
    parts["tensors.safetensors"] = write_tensors(tensors)
    assert json.loads(parts["session.json"])["edits"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"is not a session that can be opened: it (lacks|has) "):
        DragSession.load(path, tiny)


def test_a_model_without_such_noise_levels_refuses_it_by_name(tiny):
    class Bare(Backbone):
        name, recommended, feature_block_count = "bare", tiny.recommended, 4

        def schedule(self, steps):
            return {"steps": steps}

        def check_layers(self, settings):
            pass

    settings = inverting(tiny).settings
    with pytest.raises(ValueError, match=r"InversionSettings\.method 'cycle_sde' needs the noise"):
        Bare().check(settings)
