"""A step of DragDiffusion asks the device for nothing until its work is done, then once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from analytic_models import LatentItself, blob
from drag_tasks import passes_of, problem_of
from host_reads import Operations, host_reads
from tiny_models import make_scheduler
from tiny_sessions import ask, left_half, session_on

from dragwidget.data.settings import DragSettings
from dragwidget.drag import GaussianPrior, Schedule
from dragwidget.drag.methods import method_named

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
T = 681
METHOD = method_named("dragdiffusion")


def step_of(pairs: int, *, masked: bool = True, model: LatentItself | None = None, **changes):
    """A step in the middle of a drag, ready to be taken."""
    settings = DragSettings(motion_radius=1, tracking_radius=3, feature_blocks=(0, 1), **changes)
    passes = passes_of(model or LatentItself(), SCHEDULE, (32, 32), settings)
    latent = blob((8, 5))
    handles = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))[:pairs] * 3
    state = replace(METHOD.begin(passes, latent, handles, T), retarget=False, index=4)
    task = problem_of(
        handles.flip(1).add(2).clamp(max=31),
        settings,
        SCHEDULE,
        source=passes.at(latent, T, previous=True).detach(),
        protected=torch.ones(16, 16) if masked else None,
        prior=GaussianPrior.of(latent, SCHEDULE, T),
    )
    passes.at(latent, T, previous=masked)
    return lambda: METHOD.advance(passes, state, task)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"masked": False},
        {"template": "original"},
        {"prior_weight": 2.0},
        {"tracking": "cone", "trace_back": 0.2},
        {"tracking": "nearer"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pairs", [1, 5])
def test_a_step_reads_once_at_its_end(pairs, changes):
    assert host_reads(step_of(pairs, **changes)) == (0, 1)


def test_what_is_read_inside_a_step_would_be_counted():
    class Asking(LatentItself):
        def __call__(self, latent, timestep, **options):
            assert latent.sum() < 1e9
            latent.nonzero()
            latent.detach().cpu()
            return super().__call__(latent, timestep, **options)

    assert host_reads(step_of(1, model=Asking())) == (2, 2)


def test_the_network_is_not_waited_for_either(tiny):
    """Settings and pairs as a session gives them; the history is the host's own."""
    session = session_on(tiny, start="inverted")
    session.instructions = ask(mask=left_half())
    session.step()
    seen = []
    original = METHOD.advance

    def advance(*given):
        seen.append(host_reads(lambda: found.append(original(*given))))
        return found[-1]

    found: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHOD, "advance", advance)
        session.step()
    assert seen == [(0, 1)]


def operations(pairs: int) -> int:
    with Operations() as counting:
        step_of(pairs)()
    return counting.counted.total()


def test_twenty_pairs_take_no_more_operations_than_two():
    step_of(1)()
    assert operations(20) <= operations(2) + 5  # the windows may be compared in two portions


def test_the_loss_of_many_pairs_is_that_of_each_alone():
    _, together = step_of(9, masked=False)()
    alone = 0.0
    for k in range(9):
        settings = DragSettings(motion_radius=1, feature_blocks=(0, 1))
        passes = passes_of(LatentItself(), SCHEDULE, (32, 32), settings)
        handles = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))[k : k + 1] * 3
        state = METHOD.begin(passes, blob((8, 5)), handles, T)
        task = problem_of(handles.flip(1).add(2).clamp(max=31), settings, SCHEDULE)
        alone += METHOD.advance(passes, state, task)[1].loss_terms["motion"]
    assert together.loss_terms["motion"] == pytest.approx(alone, rel=1e-5)
