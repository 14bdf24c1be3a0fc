"""A method and a network of one's own, driven by an unchanged session and an unchanged widget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_sessions import ask, session_on

from dragwidget.data.settings import DragSettings
from dragwidget.drag import ModelOutput, drag
from dragwidget.drag.method import DragState, Ended, StepReport
from dragwidget.drag.methods import METHODS
from dragwidget.drag.optimizer import Moments
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
    with pytest.raises(ValueError, match="method must be one of 'dragdiffusion', got 'magic'"):
        list(session.drag(ask()))


class Flow:
    """A straight path between image (t = 0) and noise (t = 1), walked in ten steps of 0.1."""

    timesteps = tuple(k / 10 for k in range(10, 0, -1))

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
