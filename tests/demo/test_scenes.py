"""The domain "Critters": images depend on a seed alone, are smooth, and alike at any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from dragwidget.demo.domain.keypoints import POINTS, keypoints
from dragwidget.demo.scenes import (
    CONTINUOUS,
    KINDS,
    RANGES,
    TIMES,
    captions,
    clearance,
    render,
    sample_scenes,
    scribbles,
)

SEEDS = list(range(900_200, 900_212))


def test_a_scene_and_its_image_depend_on_the_seed_alone():
    together = sample_scenes(SEEDS)
    alone = sample_scenes(SEEDS[5:6])
    assert torch.equal(together.vector()[5:6], alone.vector())
    assert captions(together)[5] == captions(alone)[0]
    torch.testing.assert_close(render(together, 32)[5:6], render(alone, 32), atol=1e-5, rtol=0)


def test_the_distribution_is_the_one_the_model_was_trained_on():
    """Change what is drawn, or what is sampled, and the model in the package is worth nothing."""
    scenes = sample_scenes([0, 950_000])
    assert [KINDS[k] for k in scenes.kind] == ["cat", "bear"]
    assert [TIMES[k] for k in scenes.time_of_day] == ["night", "night"]
    assert scenes.sun_x.tolist() == pytest.approx([0.097536, 0.268910], abs=1e-5)
    assert scenes.mountain_y.tolist() == pytest.approx([0.286519, 0.414839], abs=1e-5)
    assert scenes.yaw.tolist() == pytest.approx([0.632843, 0.543447], abs=1e-5)
    colours = [[0.34242, 0.34330, 0.49283], [0.32027, 0.34048, 0.45592]]
    torch.testing.assert_close(
        render(scenes).mean((2, 3)), torch.tensor(colours), atol=5e-5, rtol=0
    )


def test_parameters_stay_in_their_ranges_and_fill_them():
    scenes = sample_scenes(range(2000))
    for name, (low, high) in RANGES.items():
        values = getattr(scenes, name)
        assert low <= values.min()
        assert values.max() <= high
        assert values.max() - values.min() > 0.95 * (high - low)
    assert set(scenes.kind.tolist()) == set(range(len(KINDS)))
    assert set(scenes.time_of_day.tolist()) == set(range(len(TIMES)))


def test_the_sun_hangs_free_and_the_mountain_top_is_in_sight():
    assert (clearance(sample_scenes(range(1000))) > 0).float().mean() > 0.97


@pytest.mark.parametrize("size", [40, 128])
def test_images_are_rgb_between_0_and_1(size):
    images = render(sample_scenes(SEEDS), size)
    assert images.shape == (len(SEEDS), 3, size, size)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1 + 1e-6
    assert images.std() > 0.1


@pytest.mark.slow
def test_an_image_is_drawn_on_the_device_of_its_scene():
    # "meta" computes shapes only, and refuses to mix devices as a GPU does
    assert render(sample_scenes([1, 2]).to(torch.device("meta")), 32).device.type == "meta"


def test_it_is_the_same_world_at_every_size():
    scenes = sample_scenes(SEEDS[:4])
    # In cells of 1/16 of the image: outlines are one pixel wide at either size.
    large, small = avg_pool2d(render(scenes, 256), 16), avg_pool2d(render(scenes, 128), 8)
    assert (large - small).abs().max() < 0.04
    assert (large - small).abs().mean() < 0.003


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_gradient_is_the_slope(name):
    scenes = sample_scenes(SEEDS[:6])
    column = CONTINUOUS.index(name)
    low, high = RANGES[name]
    vector = scenes.vector()
    vector[:, column] = vector[:, column].clamp(low + 0.1 * (high - low), high - 0.1 * (high - low))
    # Smooth images to weigh with: their inner product sums over many pixels.
    weights = torch.sin(torch.arange(3 * 48 * 48) * 0.37).view(3, 48, 48)

    def value(v: torch.Tensor) -> torch.Tensor:
        return (render(scenes.with_vector(v), 48) * weights).sum((1, 2, 3))

    start = vector.clone().requires_grad_()
    slope = torch.autograd.grad(value(start).sum(), start)[0][:, column]
    step = torch.zeros_like(vector)
    step[:, column] = 2e-3 * (high - low)
    quotient = (value(vector + step) - value(vector - step)).detach() / (2 * step[:, column])
    scale = quotient.abs().max()
    assert scale > 0  # the parameter is seen
    torch.testing.assert_close(slope, quotient, atol=0.05 * float(scale), rtol=0.05)


def test_scenes_are_cut_joined_and_rebuilt_without_loss():
    scenes = sample_scenes(SEEDS)
    again = type(scenes).cat([scenes[:3], scenes[3], scenes[torch.arange(4, len(scenes))]])
    assert torch.equal(again.vector(), scenes.vector())
    assert torch.equal(again.kind, scenes.kind)
    doubled = scenes.with_vector(scenes.vector())
    assert torch.equal(doubled.vector(), scenes.vector())
    assert len(scenes[2]) == 1


def test_captions_use_few_words_and_every_word_tells():
    lines = captions(sample_scenes(range(1500)))
    words = {word for line in lines for word in line.replace(",", "").split()}
    assert len(words) <= 40
    assert set(KINDS) | set(TIMES) <= words
    assert max(len(line.split()) for line in lines) <= 30


def test_scribbles_depend_on_their_seed_alone_and_vary():
    images = scribbles([1, 2, 3], 32)
    assert images.shape == (3, 3, 32, 32)
    torch.testing.assert_close(images[2:], scribbles([3], 32), atol=1e-5, rtol=0)
    assert images.min() >= 0
    assert images.max() <= 1 + 1e-6
    assert (images[0] - images[1]).abs().mean() > 0.05


@pytest.mark.parametrize(
    ("point", "parameter"), [("sun", "sun_radius"), ("nose", None), ("left_eye", None)]
)
def test_a_keypoint_lies_where_the_thing_is_drawn(point, parameter):
    scenes = sample_scenes(range(60))
    facing = (scenes.yaw.abs() < 0.2) & (scenes.pitch.abs() < 0.2) & (scenes.eyes > 0.9)
    scenes = scenes[facing] if parameter is None else scenes[:8]
    places = keypoints(scenes, 128).of(point)
    if parameter is None:  # ink at the nose, the pupil at the eye: darker than all round
        images = render(scenes, 128).mean(1)
        columns, rows = places.round().long().unbind(1)
        index = torch.arange(len(scenes))
        assert (images[index, rows, columns] < 0.45).all()
        return
    grown = replace(scenes, **{parameter: getattr(scenes, parameter) * 1.02})
    change = (render(grown, 128) - render(scenes, 128)).abs().sum(1)
    axis = torch.arange(128.0)
    visible = keypoints(scenes).visible[:, POINTS.index(point)]
    # A ring of change round the sun: its box is centred on the point.
    for image, place, seen in zip(change, places, visible, strict=True):
        ring = image > 0.3 * image.max()
        if not seen:
            continue
        for index, along in ((0, ring.any(0)), (1, ring.any(1))):
            inside = axis[along]
            assert abs(float((inside.min() + inside.max()) / 2 - place[index])) <= 1.0


def test_the_far_side_and_the_outside_are_not_visible():
    scenes = sample_scenes([900_200])
    turned = replace(scenes, yaw=torch.tensor([1.4]))
    assert not keypoints(turned).visible[0, POINTS.index("right_eye")]
    gone = replace(scenes, sun_x=torch.tensor([1.2]))
    assert not keypoints(gone).visible[0, POINTS.index("sun")]


def test_more_pitch_lowers_the_nose_and_more_yaw_takes_it_to_the_right():
    scenes = sample_scenes([900_203])
    start = keypoints(replace(scenes, yaw=torch.zeros(1), pitch=torch.zeros(1))).of("nose")
    down = keypoints(replace(scenes, yaw=torch.zeros(1), pitch=torch.full((1,), 0.3))).of("nose")
    right = keypoints(replace(scenes, yaw=torch.full((1,), 0.3), pitch=torch.zeros(1))).of("nose")
    assert down[0, 1] > start[0, 1] + 4
    assert right[0, 0] > start[0, 0] + 4
