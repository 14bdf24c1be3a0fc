"""A method and a network of one's own, driven by an unchanged session and an unchanged widget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import SIZE, ask, left_half, session_on, waves
from torch.nn.functional import avg_pool2d, interpolate

from dragwidget.data.presets import with_preset
from dragwidget.data.settings import (
    DragSettings,
    InversionSettings,
    LoRASettings,
    RenderSettings,
    Settings,
)
from dragwidget.diffusion.backbone import Backbone
from dragwidget.drag import ModelOutput, drag
from dragwidget.drag.method import DragState, Ended, StepReport
from dragwidget.drag.methods import METHODS
from dragwidget.drag.optimizer import Moments
from dragwidget.session.session import DragSession
from dragwidget.session.source import image_of
from dragwidget.ui.widget import DragWidget


class Shift:
    """Adds 0.25 to every cell of the latent in each step; handles jump one cell to the right."""

    def begin(self, passes, latent, handles, timestep):  # noqa: ARG002 - the protocol's arguments
        return DragState(latent, timestep, handles.float(), (), Moments.zeros(latent))

    def advance(self, passes, state, task):  # noqa: ARG002
        handles = state.handles + torch.tensor([0.0, 1.0])
        after = DragState(
            state.latent + 0.25, state.timestep, handles, state.anchors, state.moments,
            state.index + 1, retarget=False,
        )  # fmt: skip
        return after, StepReport({"shift": 0.25})

    def ended(self, state, task):  # noqa: ARG002
        return Ended.REACHED if state.index >= 3 else None


@pytest.fixture
def shift(monkeypatch):
    monkeypatch.setitem(METHODS, "shift", Shift())


@pytest.mark.slow
@pytest.mark.usefixtures("shift")
def test_a_method_of_ones_own_is_driven_by_an_unchanged_session(tiny):
    session = session_on(tiny, steps=9, method="shift")
    steps = list(session.drag(ask()))
    assert [step.index for step in steps] == [1, 2, 3]
    assert session.ended == Ended.REACHED
    start = session.history.nodes[0].latent
    for step in steps:
        torch.testing.assert_close(step.latent, start + 0.25 * step.index)
        assert step.loss_terms == {"shift": 0.25}
    session.rewind(1)
    session.step(1)
    assert torch.equal(session.history.current.latent, steps[1].latent)
    assert session.render().size == session.image.size


@pytest.mark.slow
@pytest.mark.usefixtures("shift")
def test_a_method_of_ones_own_is_driven_by_an_unchanged_widget(tiny):
    widget = DragWidget(
        session_on(tiny, steps=9, method="shift"), clock="sync", instructions=ask(), journal=False
    )
    widget.run()
    widget.wait()
    assert widget.index == 3
    assert widget.error == ""
    widget.close()


def test_an_unknown_method_is_refused_by_name(tiny):
    session = session_on(tiny, method="magic")
    with pytest.raises(
        ValueError,
        match="method must be one of 'dragdiffusion', 'gooddrag', 'progressive', 'warp', "
        "got 'magic'",
    ):
        list(session.drag(ask()))


class Flow:
    """A straight path between image (t = 0) and noise (t = 1), walked in equal steps."""

    def __init__(self, steps=10):
        self.timesteps = tuple(k / steps for k in range(steps, 0, -1))

    def last(self, count):
        return self.timesteps[-count:]

    def previous(self, t):
        if t not in self.timesteps:
            raise ValueError(f"{t} is none of {self.timesteps}")
        return (*self.timesteps, 0.0)[self.timesteps.index(t) + 1]

    def levels(self, t):
        return torch.tensor(1 - t), torch.tensor(t)

    def marginal(self, mean, variance, t):
        return (1 - t) * mean, (1 - t) ** 2 * variance + t**2

    def step(self, z, prediction, t):
        return z - (t - self.previous(t)) * prediction, z - t * prediction

    def inverse_step(self, z, prediction, t):
        return z + (t - self.previous(t)) * prediction

    def training_target(self, clean, noise, t):
        return (1 - t) * clean + t * noise, noise - clean


class ToBlack:
    """A velocity that leads every latent to zero; its features are the latent."""

    def __call__(self, latent, timestep, *, blocks=(), predict=True):
        return ModelOutput(latent / timestep if predict else None, (latent,) * len(blocks))


def test_a_network_on_a_flow_path_is_dragged_by_the_papers_method():
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latent[:, :, 8, 4] += 4
    drawn = ask(((4, 8), (10, 8)), size=(16, 16), mask=np.pad(np.ones((12, 12)), 2))
    settings = DragSettings(feature_scale=1.0, steps=5, learning_rate=0.1)
    steps = list(drag(ToBlack(), latent, drawn, Flow(), 0.7, settings))
    assert len(steps) == 5
    assert set(steps[-1].loss_terms) == {"motion", "region"}
    assert not torch.equal(steps[-1].latent, latent)
    path, z = Flow(), latent
    back = path.step(path.inverse_step(z, latent, 0.7), latent, 0.7)[0]
    torch.testing.assert_close(back, z)
    with pytest.raises(ValueError, match=r"0\.65 is none of"):
        list(drag(ToBlack(), latent, drawn, Flow(), 0.65, settings))


# ---------------------------------------------------------------- a backbone of one's own


class Flat(Backbone):
    """Colours as latents on a straight path to noise, along which it sees them grow."""

    name, fingerprint = "flat", "flat 1"
    latent_channels, vae_factor, image_side, image_multiple, feature_block_count = 3, 4, 64, 8, 3
    recommended = Settings(
        inversion=InversionSettings(steps=10, strength=0.5),
        lora=LoRASettings(steps=0),
        drag=DragSettings(steps=3),
        render=RenderSettings(mutual_self_attention=False),
    )

    def schedule(self, steps):
        return Flow(steps)

    def encode(self, pixels):
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return avg_pool2d(image, self.vae_factor)

    def decode(self, latent):
        return (interpolate(latent, scale_factor=self.vae_factor) / 2 + 0.5).clamp(0, 1)

    def encode_text(self, prompt, size, **_):
        return f"{prompt}, {size[0]} x {size[1]}"

    def __call__(self, z, t, condition, *, features=(), predict=True, **_):
        shown = z * len(condition)
        return ModelOutput(z * (1 - t) if predict else None, (shown,) * len(features))


def test_a_backbone_of_ones_own_is_driven_by_an_unchanged_session(tmp_path):
    session = DragSession(Flat())
    session.set_image(waves(), "a cat")
    settings = session.settings
    assert settings.drag.feature_blocks == (1,)  # the last decoder block but one of two
    inversion = session.invert()
    assert inversion.timestep == 0.5
    assert [type(t) for t in inversion.schedule.timesteps] == [float] * 10
    steps = list(session.drag(ask(mask=left_half())))
    assert [step.index for step in steps] == [1, 2, 3]
    assert set(steps[-1].loss_terms) == {"motion", "region"}
    assert not torch.equal(steps[-1].latent, inversion.latents[-1])
    image, seen = session.render(), session.preview()
    assert image.size == seen.size == SIZE
    assert sorted(session.similarity((8, 8))) == [0, 1, 2]
    session.rewind(0)
    clean = image_of(session.request, session.model.decode(inversion.latents[0]))
    difference = np.asarray(session.render(), dtype=int) - np.asarray(clean)
    assert np.abs(difference).mean() < 3  # levels: the way back is that there, but for its steps
    session.rewind(3)
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", Flat())
    assert torch.equal(again.history.current.latent, steps[-1].latent)
    assert again.history.current.timestep == 0.5
    assert np.array_equal(again.render(), image)


def test_what_a_backbone_cannot_do_is_refused_by_name():
    session = DragSession(Flat())
    session.set_image(waves())
    with pytest.raises(ValueError, match="flat trains no LoRA, and LoRASettings"):
        session.settings = replace(session.settings, lora=LoRASettings())
    with pytest.raises(ValueError, match="flat shares no self-attention"):
        session.settings = replace(session.settings, render=RenderSettings())
    with pytest.raises(ValueError, match="spacing is 'trailing': set it to 'model'"):
        session.settings = with_preset(session.settings, "few-step")
    with pytest.raises(ValueError, match="flat takes no LoRA"):
        session.use_lora("some.safetensors")
    with pytest.raises(ValueError, match="flat has no copy without weights"):
        session.estimate()


@pytest.mark.slow
def test_a_backbone_of_ones_own_is_driven_by_an_unchanged_widget(tmp_path):
    session = DragSession(Flat())
    session.set_image(waves(), "a cat")
    widget = DragWidget(session, clock="sync", instructions=ask(), journal=tmp_path / "journal")
    widget.run()
    result = widget.wait()
    assert (widget.index, widget.error) == (3, "")
    assert result.size == SIZE
    widget.rewind(1)
    widget.step()
    assert widget.index == 2
    latent = session.history.current.latent
    widget.close()
    restored = DragWidget.restore(tmp_path / "journal", model=Flat(), clock="sync")
    assert restored.index == 2
    assert torch.equal(restored.session.history.current.latent, latent)
    restored.step()
    assert (restored.index, restored.error) == (3, "")
    restored.close()
