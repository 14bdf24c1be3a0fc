"""Sessions whose passes are recorded and replayed, as on a GPU where the user asks for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from recordings import CpuRecording
from tiny_sessions import FAR, ask, left_half, session_on

from dragwidget.data.settings import DragSettings
from dragwidget.drag.replay import WARM, Replays
from dragwidget.session import edit
from dragwidget.session.replaying import VARIABLE, replay_once, why_not


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dragdiffusion", {}),
        ("dragdiffusion", {"reference_attention": True}),
        ("gooddrag", {"drag_timesteps": 2}),
        ("progressive", {}),
    ],
)
def test_a_session_on_recorded_passes_gives_the_same_bits(tiny, method, more, monkeypatch):
    """The tiny network with its hooks, LoRA and reference: what a GPU would record."""

    def latents(replaying):
        monkeypatch.setattr(
            edit, "replays_of", lambda model, *_: made(model) if replaying else None
        )
        session = session_on(tiny, method=method, start="inverted", lora_steps=1, steps=8, **more)
        session.instructions = ask(FAR, mask=left_half())
        return [step.latent for step in session.drag(session.instructions)]

    every = []

    def made(model):
        every.append(Replays(model, CpuRecording))
        return every[-1]

    recorded = CpuRecording.made
    wanted, found = latents(False), latents(True)
    assert CpuRecording.made > recorded
    assert {replays.refused for replays in every} == {""}
    assert len(wanted) == len(found) > WARM
    assert all(map(torch.equal, wanted, found))


def test_a_pass_that_can_be_recorded_is_told_and_one_that_cannot_with_its_reason(tiny):
    inversion = session_on(tiny).invert()
    assert f"{VARIABLE}=1" in replay_once(inversion, CpuRecording)
    with pytest.warns(UserWarning, match="not recorded"):
        told = replay_once(inversion)  # there is no GPU here
    assert "cannot be recorded: " in told


@pytest.mark.parametrize(
    ("variable", "device", "waits", "correspondence", "reason"),
    [
        ("0", "cuda", "cuda", 0.0, "is not set"),
        ("1", "cpu", "cpu", 0.0, "not on CUDA"),
        ("1", "cuda", "cpu", 0.0, 'memory="low"'),
        ("1", "cuda", "cuda", 0.5, "correspondence"),
        ("1", "cuda", "cuda", 0.0, ""),
    ],
)
def test_passes_are_recorded_only_where_that_was_asked_for_and_can_be(
    variable, device, waits, correspondence, reason, monkeypatch
):
    monkeypatch.setenv(VARIABLE, variable)
    backbone = SimpleNamespace(device=torch.device(device), waiting_device=torch.device(waits))
    why = why_not(backbone, DragSettings(correspondence=correspondence))
    assert reason in why
    assert bool(why) == bool(reason)


def test_who_asks_for_recorded_passes_where_there_can_be_none_is_told(tiny, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    session = session_on(tiny, steps=1)
    session.instructions = ask()
    with pytest.warns(UserWarning, match="the network is on cpu, not on CUDA"):
        session.step()
