"""Canvas pixels and image pixels, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragwidget.ui.canvas.viewport import FIT_SIDE, MAX_ZOOM, PADDING, RATIO, Viewport

SIDES = st.integers(1, 5000)
SIZES = st.tuples(SIDES, SIDES)
ZOOMS = st.floats(0.1, 100)


@st.composite
def viewports(draw):
    size = draw(SIZES)
    viewport = Viewport.of(size, draw(st.none() | st.integers(120, 2000)))
    middle = draw(st.tuples(*(st.floats(-side, 2 * side) for side in size)))
    return viewport.zoomed(draw(ZOOMS), middle)


@given(viewports(), st.tuples(st.floats(-100, 5100), st.floats(-100, 5100)))
def test_there_and_back_is_the_same_point(viewport, xy):
    assert viewport.to_image(viewport.to_canvas(xy)) == pytest.approx(xy, abs=1e-6)


@given(SIZES)
def test_a_fitted_image_lies_in_the_middle_with_padding_all_round(size):
    viewport = Viewport.of(size)
    (left, top), (right, bottom) = viewport.to_canvas((0, 0)), viewport.to_canvas(size)
    width, height = viewport.canvas
    assert left == pytest.approx(width - right, abs=1)
    assert top == pytest.approx(height - bottom, abs=1)
    assert min(left, top) >= PADDING - 1
    assert max(right - left, bottom - top) <= FIT_SIDE * RATIO + 1


@given(viewports())
def test_no_more_than_the_padding_is_seen_beyond_the_image(viewport):
    assert 1 <= viewport.zoom <= MAX_ZOOM
    fitted = Viewport.of(viewport.size)
    assert viewport.zoomed(1).centre == fitted.centre
    left, top = viewport.to_canvas((0, 0))
    right, bottom = viewport.to_canvas(viewport.size)
    for near, far, side in ((left, right, viewport.canvas[0]), (top, bottom, viewport.canvas[1])):
        if far - near >= side - 2 * PADDING + 1:
            assert near <= PADDING + 1
            assert far >= side - PADDING - 1


@given(viewports(), st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)))
def test_what_is_inside_is_a_point_of_the_image(viewport, xy):
    x, y = viewport.inside(xy)
    assert 0 <= x < viewport.size[0]
    assert 0 <= y < viewport.size[1]


def test_zooming_at_a_point_keeps_it_where_it_is():
    viewport = Viewport.of((500, 400)).zoomed(3, (250, 200))
    fixed = (600.0, 500.0)
    before = viewport.to_image(fixed)
    assert viewport.zoomed_at(5, fixed).to_image(fixed) == pytest.approx(before)


def test_panning_moves_the_image_with_the_pointer():
    viewport = Viewport.of((500, 400)).zoomed(3, (250, 200))
    x, y = viewport.to_canvas((250, 200))
    assert viewport.panned(30, -20).to_canvas((250, 200)) == pytest.approx((x + 30, y - 20))


@pytest.mark.parametrize(("size", "shown"), [((512, 512), 1024), ((64, 64), 1024), ((1, 1), 16)])
def test_small_images_are_enlarged_by_eight_at_most(size, shown):
    viewport = Viewport.of(size)
    assert viewport.to_canvas(size)[0] - viewport.to_canvas((0, 0))[0] == shown
