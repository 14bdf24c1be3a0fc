"""The training stage that teaches what a warped latent means: its arithmetic, on real tasks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from dragwidget.data.presets import with_method
from dragwidget.demo.tasks import drag_task
from dragwidget.demo.training.architecture import build_scheduler
from dragwidget.demo.training.drags_stage import PrefetchedTasks, draw_tasks, remains, warp
from dragwidget.diffusion.loading import load_model
from dragwidget.drag.noise_path import Schedule, denoise
from dragwidget.session.session import DragSession


def test_a_network_that_names_the_remains_walks_from_the_warped_latent_to_the_answer():
    generator = torch.Generator().manual_seed(0)
    warped, answer, noise = torch.randn(3, 2, 4, 8, 8, generator=generator, dtype=torch.float64)
    schedule = Schedule(build_scheduler().alphas_cumprod.double())
    a = schedule.alpha(schedule.timesteps[25])
    left = remains(noise, warped, answer, a)
    shown = a.sqrt() * warped + (1 - a).sqrt() * noise
    for latent in denoise(lambda _z, _t: left, shown, schedule, 25):
        pass
    last = schedule.alpha(0)
    assert torch.allclose(latent, last.sqrt() * answer + (1 - last).sqrt() * left, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["turn", "move", "two"])
def test_tasks_are_warped_in_training_as_a_drag_bends_them(kind):
    task = drag_task(kind, 700)
    session = DragSession(load_model("critters", device="cpu"))
    session.set_image(task.source.permute(1, 2, 0).numpy(), task.instructions.prompt)
    session.instructions = task.instructions
    own = with_method(session.settings, "dragdiffusion")
    session.settings = replace(own, drag=replace(own.drag, start="warped"))
    session.prepare()
    next(session.drag())
    before, after = (node.latent for node in session.history.path())
    clean = session.model.encode((task.source.permute(1, 2, 0).numpy() * 255).round().astype("u1"))
    inversion = session.settings.inversion
    schedule = Schedule(session.model.alphas_cumprod, inversion.steps)
    a = schedule.alpha(schedule.timesteps[inversion.steps - inversion.count])
    moved = warp(task.instructions, clean) - clean
    assert torch.allclose(after, before + a.sqrt() * moved, atol=1e-4)


def test_nothing_remains_where_the_warp_was_right():
    answer = torch.randn(2, 4, 8, 8)
    noise = torch.randn(2, 4, 8, 8)
    levels = [remains(noise, answer, answer, torch.tensor(a)) for a in (0.1, 0.5, 0.9)]
    assert all(torch.equal(one, other) for one, other in pairwise([noise, *levels]))


@pytest.mark.slow
def test_tasks_drawn_ahead_by_other_processes_are_those_that_are_drawn_here():
    with PrefetchedTasks(1, 32) as ahead:
        for seeds in ([500, 501], [502, 503]):
            asked, images = ahead(seeds)
            wanted, drawn = draw_tasks(seeds, 32)
            assert np.array_equal(images, drawn)
            assert asked == wanted
