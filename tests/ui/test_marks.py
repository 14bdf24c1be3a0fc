"""Marks are painted where they belong, in the colours of the field."""

import io

import numpy as np
import pytest
from PIL import Image

from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.marks import (
    Disc,
    Line,
    Marks,
    Polygon,
    Ring,
    Text,
    arrow,
    paint_with_pillow,
)
from dragwidget.ui.canvas.overlay import Overlay, encode, shown_size
from dragwidget.ui.still import small_png


def same(xy):
    return xy


def painted(*shapes, size=(60, 60)):
    return np.asarray(paint_with_pillow(Image.new("RGB", size, "black"), shapes)).astype(int)


def test_a_disc_and_a_ring_are_round_and_smooth():
    disc = painted(Disc((30, 30), 10, "#ffffff"))[..., 0]
    assert disc.sum() / 255 == pytest.approx(np.pi * 100, rel=0.03)
    ring = painted(Ring((30, 30), 10, "#ffffff", 2))[..., 0]
    assert ring.sum() / 255 == pytest.approx(np.pi * (11**2 - 9**2), rel=0.1)
    assert ring[30, 30] == 0
    assert ((ring > 20) & (ring < 235)).any()


def test_what_is_transparent_lets_through():
    assert painted(Disc((30, 30), 10, "#ffffff80"))[30, 30, 0] == pytest.approx(128, abs=1)


def test_shapes_may_reach_outside_or_lie_there():
    painted(Disc((-5, 30), 10, "#ffffff"), Line(((-50, -50), (-20, 90)), "#ffffff", 3))
    painted(Polygon(((50, 50), (90, 90), (50, 90)), "#ffffff"), Text("7", (59, 59), "#ffffff", 9))


def test_a_handle_is_red_with_its_number_and_a_target_a_blue_ring():
    marks = Marks(pairs=(PointPair((20, 20), (70, 70)),))
    image = painted(*marks.shapes(same, 1), size=(100, 100))
    assert image[20, 15, 0] > 200 > 100 > image[20, 15, 1]  # red, beside the number
    assert image[16:25, 16:25].min(axis=2).max() > 150  # and the number is white
    red, _, blue = image[70, 63]
    assert blue > 200 > 130 > red
    assert image[45, 45].min() > 200  # a white arrow between them


def test_an_arrow_between_points_that_touch_is_none():
    assert arrow((5, 5), (10, 5), 1) == []
    assert arrow((5, 5), (5, 5), 1) == []


def test_pairs_out_of_sight_are_left_out_and_those_that_cross_it_are_not():
    ends = [((-90, 5), (-80, 5)), ((-90, 50), (190, 50)), ((5, 5), (9, 9))]
    marks = Marks(pairs=tuple(PointPair(*pair) for pair in ends))
    texts = [shape.text for shape in marks.shapes(same, 1, (100, 100)) if isinstance(shape, Text)]
    assert texts == ["2", "3"]


# ---------------------------------------------------------------- the mask's overlay


def overlay(mask, style="darken"):
    return np.asarray(Overlay(mask, style, "#ff0000", 0.5, 1024).rgba())


def test_darkening_covers_what_is_frozen_and_tint_what_may_change():
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    dark, tint = overlay(mask), overlay(mask, "tint")
    side = len(dark)
    assert dark[0, 0, 3] == 128
    assert dark[side // 2, side // 2, 3] == 0
    assert tint[0, 0, 3] == 0
    assert tint[side // 2, side // 2].tolist() == [255, 0, 0, 128]
    assert dark[side // 2, side // 4 + 1, 3] > 200  # the edge is drawn


def test_the_border_of_the_image_is_no_edge():
    assert not overlay(np.ones((8, 8), bool))[..., 3].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3000, 7), (700, 900)])
def test_an_overlay_is_as_large_as_is_shown(shape):
    made = Overlay(np.zeros(shape, bool), "darken", "#ff0000", 0.5, 1024)
    assert max(made.size) <= 2048
    assert np.asarray(made.rgba())[..., 3].min() == 128
    assert made.png().startswith(b"\x89PNG")


@pytest.mark.parametrize("lossless", [True, False])
def test_images_are_encoded_as_they_are(lossless):
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    _, data = encode(Image.fromarray(noise), lossless=lossless)
    again = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(again, noise) == lossless
    assert again.shape == noise.shape


def test_large_images_are_reduced():
    assert shown_size((4000, 3000)) == (2048, 1536)
    assert shown_size((100, 3)) == (100, 3)


@pytest.mark.slow
def test_a_small_png_is_small():
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    assert len(small_png(Image.fromarray(noise), 20_000)) <= 20_000


def test_a_note_stands_readable_below_its_handle():
    plain = Marks(tracked=((50, 30),))
    noted = Marks(tracked=((50, 30),), notes=("0.93",))
    assert Marks(tracked=((50, 30),), notes=("",)).shapes(same, 1) == plain.shapes(same, 1)
    white = np.full((100, 100, 3), 255, np.uint8)
    images = [
        np.asarray(paint_with_pillow(Image.fromarray(white), marks.shapes(same, 1))).astype(int)
        for marks in (plain, noted)
    ]
    changed = (images[0] != images[1]).any(-1)
    rows, columns = np.nonzero(changed)
    assert rows.min() > 38  # the handle's own mark is not covered
    assert abs(columns.mean() - 50) < 2
    label = images[1][rows.min() : rows.max(), columns.min() : columns.max()]
    assert label.min() < 80  # white words on a dark label, on a white image too
    assert label.max() > 230
