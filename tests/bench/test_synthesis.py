"""The keypoint evaluator: exact points, completion 0 on the source and half at half-way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from dragwidget.bench.dev.validation import ValidationResult, make_jobs, measure, validate
from dragwidget.bench.dev.validation_command import table
from dragwidget.bench.metrics import PERFECT, completion, psnr, worst_window
from dragwidget.bench.synthesis import _FIRST, _fit, fit_scene
from dragwidget.demo.domain.keypoints import keypoints
from dragwidget.demo.tasks import drag_task

CASES = [("turn", 900_400), ("sun", 900_401), ("mouth", 900_402)]


def degraded(image: torch.Tensor) -> torch.Tensor:
    """A little blurred and tinted, with soft noise: as an autoencoder gives an image back."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)) * 0.03
    soft = avg_pool2d((image + noise)[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    mixed = 0.5 * image + 0.5 * soft + torch.tensor([0.01, -0.005, 0.005])[:, None, None]
    return mixed.clamp(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), CASES)
@pytest.mark.parametrize("through", [None, degraded])
def test_on_the_true_target_it_finds_the_points_within_half_a_pixel(kind, seed, through):
    result = measure(drag_task(kind, seed), "target", through)
    assert result.error <= 0.5
    assert result.completion >= 0.9
    assert not result.failed


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), CASES)
@pytest.mark.parametrize(("through", "limit"), [(None, 0.02), (degraded, 0.05)])
def test_on_the_source_it_reports_that_nothing_was_done(kind, seed, through, limit):
    assert abs(measure(drag_task(kind, seed), "source", through).completion) <= limit


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), CASES[:2])
def test_on_a_half_way_image_it_reports_half(kind, seed):
    result = measure(drag_task(kind, seed), "half")
    assert result.completion == pytest.approx(
        0.5, abs=0.06
    )  # parameters half way: points nearly so
    assert result.completion == pytest.approx(result.true_completion, abs=0.02)


@pytest.mark.slow
def test_there_are_three_results_to_a_task():
    results = list(validate(make_jobs(900_405, 1, size=64)))
    assert [result.image for result in results] == ["target", "source", "half"]
    assert [round(result.true_completion, 1) for result in results] == [1, 0, 0.5]


def test_the_table_of_results_counts_and_names_those_that_did_not_hold():
    def result(image, error, completion, true_completion, failed=False):
        return ValidationResult(
            "turn", 900_400, image, error, completion, true_completion, 0.1, failed
        )

    kept = [
        result("target", 0.49, 0.9, 1),
        result("source", 3, 0.019, 0),
        result("half", 3, 0.5, 0.5),
    ]
    lost = [
        result("target", 0.51, 1, 1),
        result("source", 0, 0.021, 0),
        result("half", 0, 0.5, 0.5, failed=True),
    ]
    assert all(one.held for one in kept)
    assert not any(one.held for one in lost)
    assert table({"drawn": kept}).endswith("none")
    text = table({"drawn": kept + lost})
    assert text.count("1/2") == 3
    assert [line.split(":")[0].strip() for line in text.splitlines()[-3:]] == [
        "drawn, target",
        "drawn, source",
        "drawn, half",
    ]
    assert text.endswith("fit failed")


@pytest.mark.slow
def test_what_is_no_critter_any_more_fails():
    task = drag_task("turn", 900_400)
    x, y = keypoints(task.source_scene).of("nose")[0].round().long().tolist()
    broken = task.source.clone()
    face = broken[:, y - 22 : y + 8, x - 20 : x + 20]
    broken[:, y - 22 : y + 8, x - 20 : x + 20] = face.flip(1)  # the face upside down
    assert fit_scene(broken, task.source_scene).failed


@pytest.mark.slow
def test_what_ends_in_a_false_valley_is_explained_from_more_starts():
    task = drag_task("nod", 950_190)
    with torch.no_grad():
        first = _fit(task.target, task.source_scene, task.seed, _FIRST)
    assert first.failed  # or else this task shows nothing any more: find another one
    fit = fit_scene(task.target, task.source_scene, task.seed)
    assert not fit.failed
    true = keypoints(task.target_scene).xy
    assert float((fit.points.xy - true).norm(dim=-1).max()) < 0.5


@pytest.mark.slow
def test_equal_arguments_give_equal_fits():
    task = drag_task("mouth", 900_402)
    first, again = (fit_scene(task.target, task.source_scene) for _ in range(2))
    assert torch.equal(first.scene.vector(), again.scene.vector())


def test_share_is_1_at_the_target_0_at_the_handle_and_negative_beyond():
    handles, targets = [(0, 0), (5, 5)], [(8, 0), (5, 11)]
    assert completion(handles, targets, targets) == 1
    assert completion(handles, targets, handles) == 0
    assert completion(handles, targets, [(-8, 0), (5, -1)]) == -1
    with pytest.raises(ValueError, match="at least one target"):
        completion(handles, handles, handles)


def test_psnr_counts_the_chosen_pixels_only():
    one, other = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    other[:, 0] = 0.1
    rows = np.zeros((4, 4), dtype=bool)
    rows[0] = True
    assert psnr(one, other, rows) == pytest.approx(20, abs=1e-3)
    assert psnr(one, other, ~rows) == PERFECT
    assert np.isnan(psnr(one, other, np.zeros((4, 4), dtype=bool)))


def test_the_worst_window_sees_a_thing_and_not_a_soft_outline():
    image = torch.zeros(3, 128, 128)
    thing = image.clone()
    thing[:, 40:56, 60:76] = 0.5
    assert worst_window(image, thing) == pytest.approx(0.5, abs=1e-3)
    assert worst_window(image, image + 0.1) == pytest.approx(0.1, abs=1e-3)
    stripes = image.clone()
    stripes[:, ::2] = 0.1
    stripes[:, 1::2] = -0.1
    assert worst_window(image, stripes) < 1e-3
