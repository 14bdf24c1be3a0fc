"""A recorded pass is the pass: the same drag, without a line of Python run for the network."""

from __future__ import annotations

import pytest
import torch
from analytic_models import LatentItself, blob
from drag_tasks import passes_of, problem_of
from recordings import CpuRecording
from tiny_models import make_scheduler

from dragwidget.data.settings import DragSettings
from dragwidget.drag import Schedule
from dragwidget.drag.methods import method_named
from dragwidget.drag.replay import WARM, Replays

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
T, STEPS = 681, 6


class Bent(LatentItself):
    """Features and prediction that are no linear function of the latent."""

    def __call__(self, latent, timestep, **options):
        output = super().__call__(latent.sin() * 2, timestep, **options)
        if options.get("predict", True):
            self.predicted = output.prediction
        return output


def drag_of(model, *, replays=None, masked=True):
    settings = DragSettings(
        motion_radius=1, tracking_radius=3, feature_blocks=(0,), start="inverted"
    )
    passes = passes_of(model, SCHEDULE, (16, 16), settings, replays=replays)
    latent, method = blob((8, 5)), method_named("dragdiffusion")
    source = passes.at(latent, T, previous=masked).detach()
    task = problem_of(
        torch.tensor([[8.0, 12.0]]), settings, SCHEDULE, source=source,
        protected=torch.ones(16, 16).triu() if masked else None,
    )  # fmt: skip
    state = method.begin(passes, latent, torch.tensor([[8, 5]]), T)
    states = []
    for _ in range(STEPS):
        state, report = method.advance(passes, state, task)
        states.append((state, report))
    return states


@pytest.mark.parametrize("masked", [True, False])
def test_a_drag_of_recorded_passes_has_the_same_bits(masked):
    model, other = Bent(), Bent()
    replays = Replays(other, CpuRecording)
    wanted = drag_of(model, masked=masked)
    found = drag_of(other, replays=replays, masked=masked)
    assert not replays.refused
    for (one, told), (two, also) in zip(wanted, found, strict=True):
        assert torch.equal(one.latent, two.latent)
        assert torch.equal(one.handles, two.handles)
        assert told.loss_terms == also.loss_terms


def test_the_network_is_not_called_for_a_replay():
    model = Bent()
    replays = Replays(model, CpuRecording)
    leaf = blob((8, 5)).requires_grad_()
    for _ in range(WARM + 1):
        replays(leaf, T, blocks=(0,))
    called = model.passes
    replays(leaf, T, blocks=(0,))
    assert model.passes == called
    replays(leaf, T + 1, blocks=(0,))
    replays(leaf, T, blocks=(0,), predict=False)
    assert model.passes == called + 2  # each is a pass of another kind


def test_a_pass_without_a_gradient_is_never_recorded():
    replays = Replays(Bent(), CpuRecording)
    for _ in range(WARM + 3):
        replays(blob((8, 5)), T, blocks=(0,))
    assert replays.model.passes == WARM + 3


def test_what_a_pass_gave_is_not_overwritten_by_the_next():
    replays = Replays(Bent(), CpuRecording)
    for _ in range(WARM + 1):
        replays(blob((8, 5)).requires_grad_(), T, blocks=(0,))
    first = replays(blob((8, 5)).requires_grad_(), T, blocks=(0,))
    kept = first.features[0].detach().clone()
    replays(blob((2, 2)).requires_grad_(), T, blocks=(0,))
    assert torch.equal(first.features[0], kept)


def test_the_gradient_of_a_pass_that_was_overwritten_is_refused():
    replays = Replays(Bent(), CpuRecording)
    leaf = blob((8, 5)).requires_grad_()
    for _ in range(WARM + 1):
        replays(leaf, T, blocks=(0,))
    first = replays(leaf, T, blocks=(0,))
    replays(leaf, T, blocks=(0,))
    with pytest.raises(RuntimeError, match="after the next pass"):
        torch.autograd.grad(first.features[0].sum(), leaf)


def test_a_pass_that_reads_a_value_is_not_recorded_and_says_why():
    class Asking(Bent):
        def __call__(self, latent, timestep, **options):
            assert latent.detach().sum() < 1e9
            return super().__call__(latent, timestep, **options)

    model = Asking()
    replays = Replays(model, CpuRecording)
    wanted = drag_of(Asking())
    with pytest.warns(UserWarning, match="not recorded"):
        found = drag_of(model, replays=replays)
    assert "not permitted" in replays.refused
    assert torch.equal(wanted[-1][0].latent, found[-1][0].latent)


def test_a_replay_that_differs_from_the_pass_is_not_used():
    class Counting(Bent):
        def __call__(self, latent, timestep, **options):
            return super().__call__(latent * (1 + 0.1 * self.passes), timestep, **options)

    model = Counting()
    replays = Replays(model, CpuRecording)
    leaf = blob((8, 5)).requires_grad_()
    for _ in range(WARM):
        replays(leaf, T, blocks=(0,))
    with pytest.warns(UserWarning, match="differs"):
        replays(leaf, T, blocks=(0,))
