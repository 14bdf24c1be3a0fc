"""Shapes cover exactly the pixels that their definitions say."""

import numpy as np
import plain_shapes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lines_run import lines_run

from dragwidget.ui.canvas import raster

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))
# Whole and half numbers meet pixel borders and centres, where a rule must decide.
NUMBERS = st.one_of(
    st.integers(-20, 60).map(float),
    st.integers(-40, 120).map(lambda half: half / 2),
    st.floats(-20, 60, allow_nan=False),
)
POINTS = st.tuples(NUMBERS, NUMBERS)
SIZES = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 8.5, 20.0, 90.0]), st.floats(0.1, 40))


def painted(paint, shape, *args):
    mask = np.zeros(shape, bool)
    paint(mask, *args, True)
    return mask


@given(SHAPES, st.lists(POINTS, min_size=1, max_size=5), SIZES)
def test_a_stroke_covers_what_lies_within_its_radius(shape, points, size):
    mask = painted(raster.paint_stroke, shape, np.array(points), size)
    np.testing.assert_array_equal(mask, plain_shapes.stroke(shape, points, size))


@given(SHAPES, st.lists(POINTS, min_size=3, max_size=8))
def test_a_polygon_covers_what_it_winds_round(shape, points):
    mask = painted(raster.paint_polygon, shape, np.array(points))
    np.testing.assert_array_equal(mask, plain_shapes.polygon(shape, points))


@given(SHAPES, POINTS, POINTS)
def test_a_rectangle_covers_what_lies_between_its_corners(shape, a, b):
    mask = painted(raster.paint_rectangle, shape, a, b)
    np.testing.assert_array_equal(mask, plain_shapes.rectangle(shape, a, b))


@given(SHAPES, st.integers(0, 2**32), st.floats(0, 12), st.sampled_from([0.02, 0.3, 0.9]))
def test_growing_reaches_what_lies_within_the_radius(shape, seed, radius, density):
    mask = np.random.default_rng(seed).random(shape) < density
    np.testing.assert_array_equal(raster.dilate(mask, radius), plain_shapes.grown(mask, radius))
    np.testing.assert_array_equal(raster.erode(mask, radius), plain_shapes.shrunk(mask, radius))


@pytest.mark.parametrize("xy", [(3.0, 4.0), (3.99, 4.99), (3.5, 4.5), (3.01, 4.98)])
def test_the_thinnest_brush_covers_the_pixel_it_is_on(xy):
    assert painted(raster.paint_stroke, (9, 9), np.array([xy]), 0.1)[4, 3]


@pytest.mark.parametrize("across", [0.0, 1.0, 1e-170])
@pytest.mark.parametrize("down", [5e-324, 1e-200, 1e-12, 1e-9, -5e-324])
def test_a_segment_that_hardly_rises_is_drawn(across, down):
    points = np.array([(5.0 * (across == 1), 0.0), (across, down)])
    mask = painted(raster.paint_stroke, (9, 9), points, 4.0)
    np.testing.assert_array_equal(mask, painted(raster.paint_stroke, (9, 9), points.round(3), 4.0))


def test_painting_false_erases_and_leaves_the_rest():
    mask = np.ones((20, 20), bool)
    raster.paint_stroke(mask, np.array([(5.0, 5.0), (15.0, 5.0)]), 4.0, False)
    raster.paint_rectangle(mask, (0, 18), (20, 20), False)
    raster.paint_polygon(mask, np.array([(0.0, 10.0), (4.0, 10.0), (0.0, 14.0)]), False)
    assert not mask[5, 10]
    assert not mask[19].any()
    assert not mask[10, 0]
    assert mask[15, 10]


def test_a_full_brush_over_twelve_megapixels_runs_lines_by_segment_not_by_pixel():
    mask = np.zeros((3000, 4000), bool)
    points = np.stack([np.linspace(0, 4000, 300), 1500 + 900 * np.sin(np.arange(300))], axis=1)
    assert lines_run(lambda: raster.paint_stroke(mask, points, 800.0, True)) < 300 * 500
    assert mask.any()
