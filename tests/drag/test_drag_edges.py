"""Edges of a drag: overflow, borders, odd sizes, zero radii. Right, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic_models import LatentItself, blob
from tiny_models import make_scheduler
from tiny_sessions import ask, session_on, waves

from dragwidget.data.frames import from_grid, to_grid
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings
from dragwidget.drag import ModelOutput, Schedule, denoise, drag, invert

SCHEDULE = Schedule(make_scheduler().alphas_cumprod)
T = 681
PAIR = ((5, 8), (11, 8))


def walk(model=None, pair=PAIR, *, mask=None, timestep=T, **settings):
    instructions = DragInstructions.from_points([pair], size=(16, 16), mask=mask)
    options = DragSettings(**{"feature_scale": 1.0, "steps": 3, **settings})
    return drag(model or LatentItself(), blob((8, 5)), instructions, SCHEDULE, timestep, options)


LEFT = np.arange(16)[None, :].repeat(16, 0) < 12

# ---------------------------------------------------------------- what is not finite


class BadPrediction(LatentItself):
    """Overflows behind the last block that features are read from."""

    def __call__(self, latent, timestep, *, blocks=(), predict=True):
        output = super().__call__(latent, timestep, blocks=blocks, predict=predict)
        if output.prediction is None:
            return output
        return ModelOutput(output.prediction * torch.inf, output.features)


def test_a_prediction_that_is_not_finite_is_refused_where_the_region_needs_it():
    with pytest.raises(ArithmeticError, match="'region': nan"):
        next(walk(BadPrediction(), mask=LEFT))
    assert next(walk(BadPrediction())).index == 1  # without a mask nothing is predicted


class Steep(LatentItself):
    """Its gradient is finite, and the square of it is not."""

    def __call__(self, latent, _timestep, *, blocks=(), **_):
        return ModelOutput(None, tuple(latent * 1e25 for _ in blocks))


def test_a_gradient_whose_square_overflows_is_refused_and_not_taken_for_none():
    with pytest.raises(ArithmeticError, match=r"step 1 was refused: .* not finite"):
        next(walk(Steep()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_overflows_stops_an_inversion_and_a_render_by_name(tiny, bad):
    session = session_on(tiny)
    session.instructions = ask()
    session.step()

    def overflow(_module, _inputs, output):
        output.sample = output.sample * bad
        return output

    handle = tiny.unet.register_forward_hook(overflow)
    try:
        with pytest.raises(ArithmeticError, match="is not finite: the network overflowed"):
            session.render()
        session.prompt = "a dog"
        with pytest.raises(ArithmeticError, match="of the inversion is not finite"):
            session.prepare()
    finally:
        handle.remove()


# ---------------------------------------------------------------- where and how many


@pytest.mark.parametrize("timestep", [0, 680, 999, 1000, -1])
def test_a_timestep_that_is_none_of_the_schedules_is_refused(timestep):
    with pytest.raises(ValueError, match=f"one of the 50 timesteps .* got {timestep}"):
        next(walk(timestep=timestep))


@pytest.mark.parametrize("loop", [invert, denoise])
@pytest.mark.parametrize("count", [-1, 51, 100])
def test_more_steps_than_there_are_is_refused(loop, count):
    with pytest.raises(ValueError, match=f"count must be 0 to 50 .* got {count}"):
        next(loop(lambda z, _: z, torch.zeros(1, 4, 4, 4), SCHEDULE, count))


def test_no_steps_at_all_lead_nowhere():
    assert list(invert(lambda z, _: z, torch.zeros(1, 4, 4, 4), SCHEDULE, 0)) == []
    assert SCHEDULE.last(0) == ()


# ---------------------------------------------------------------- radii and weights of zero


def test_a_motion_radius_of_zero_supervises_one_cell():
    steps = list(walk(motion_radius=0, learning_rate=0.05))
    assert all(np.isfinite(step.loss) and step.loss > 0 for step in steps)
    assert not torch.equal(steps[-1].latent, blob((8, 5)))


def test_a_tracking_radius_of_zero_leaves_the_handle_where_it_is():
    *_, last = walk(tracking_radius=0, learning_rate=0.1)
    assert last.handles_xy.tolist() == [[5, 8]]


def test_a_mask_without_region_weight_changes_nothing_of_the_drag():
    with_mask = [step.latent for step in walk(mask=LEFT, region_weight=0.0)]
    without = [step.latent for step in walk()]
    assert all(torch.equal(a, b) for a, b in zip(with_mask, without, strict=True))


@pytest.mark.parametrize("radius", [1, 4, 20])
def test_a_patch_of_any_radius_at_the_masks_and_the_images_border_is_finite(radius):
    pair = ((11.9, 15.9), (0, 0))
    for step in walk(pair=pair, mask=LEFT, motion_radius=radius, tracking_radius=radius):
        assert np.isfinite(step.loss)
        assert step.latent.isfinite().all()


# ---------------------------------------------------------------- sizes and last pixels


@pytest.mark.slow
@pytest.mark.parametrize("size", [(63, 47), (47, 63), (33, 129), (130, 31), (16, 16)])
def test_images_of_odd_sizes_are_dragged_from_corner_to_corner_and_come_back_whole(tiny, size):
    width, height = size
    session = session_on(tiny, region_weight=0.1)
    session.set_image(waves(width, height), "a cat")
    corners = [(0, 0), (width - 0.01, 0), (0, height - 0.01), (width - 1, height - 1)]
    pairs = list(zip(corners, corners[::-1], strict=True))
    mask = np.ones((height, width), bool)
    mask[height // 2 :, : width // 2] = False
    session.instructions = ask(*pairs, size=size, mask=mask)
    session.step(2)
    last = session.history[-1]
    assert last.latent.isfinite().all()
    assert (last.handles_xy >= 0).all()
    assert (last.handles_xy < [width, height]).all()
    np.testing.assert_allclose(
        last.distances, np.linalg.norm(last.targets_xy - last.handles_xy, axis=1)
    )
    assert session.render().size == size


@pytest.mark.parametrize("size", [(63, 47), (130, 31), (512, 512)])
def test_the_last_row_and_column_are_cells_like_any_other(size):
    width, height = size
    grid = (height // 2, width // 2)
    cells = to_grid([(width - 1, height - 1), (np.nextafter(width, 0), 0)], size, grid)
    assert cells.tolist() == [[grid[0] - 1, grid[1] - 1], [0, grid[1] - 1]]
    assert np.array_equal(to_grid(from_grid(cells, size, grid), size, grid), cells)


@pytest.mark.parametrize("xy", [(64, 0), (0, 48), (-0.01, 0), (float("nan"), 0)])
def test_a_point_off_the_image_is_refused(xy):
    with pytest.raises(ValueError, match=r"outside the|must be finite"):
        ask((xy, (5, 5)))
