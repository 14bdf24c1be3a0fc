"""In low precision an edit comes out as in float32, by what can be read in its image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dragwidget.bench.scenes import edit, score, to_tensor
from dragwidget.data.presets import with_method
from dragwidget.demo.tasks import drag_task
from dragwidget.diffusion.devices import calculates_fast
from dragwidget.diffusion.loading import load_model
from dragwidget.session.session import DragSession


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "start"),
    [
        ("mouth", 900_000, "inverted"),
        pytest.param(
            "mountain",
            900_001,
            "warped",
            marks=pytest.mark.skipif(
                not calculates_fast(torch.device("cpu"), torch.bfloat16),
                reason="this CPU emulates bfloat16: one case takes minutes enough",
            ),
        ),
    ],
)
def test_points_end_within_a_pixel_of_where_float32_puts_them(kind, seed, start):
    task, ends = drag_task(kind, seed), []
    for dtype in ("float32", "bfloat16"):
        session = DragSession(load_model("critters", device="cpu", dtype=dtype))
        settings = with_method(session.settings, "dragdiffusion")
        drag = replace(settings.drag, start=start, steps=15)
        session.settings = replace(settings, drag=drag)
        made = edit(task, session)
        scored, points = score(task, to_tensor(made.image))
        assert not scored.fit_failed
        assert scored.completion > 0.1  # something was done that could go another way
        ends.append((points, made.handles_xy))
    (read, tracked), (low_read, low_tracked) = ends
    assert np.linalg.norm(read - low_read, axis=1).max() < 1
    # Tracking is to whole feature cells, of 2 pixels here: at most to the neighbour.
    assert np.abs(tracked - low_tracked).max() <= 2
