"""Reading an image: every kind comes in upright, RGB, unshifted; every broken one is refused."""

from __future__ import annotations

import doctest
import io
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dragwidget.data import image as image
from dragwidget.data.image import fit, source_image

ORIENTATION = 0x0112  # the EXIF tag


def colours(height: int = 6, width: int = 9) -> np.ndarray:
    """(height, width, 3) uint8, every value another."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def centroid(pixels: np.ndarray) -> tuple[float, float]:
    """(x, y) of the brightness, as a fraction of the image; pixel centres are at + 0.5."""
    weight = pixels.astype(float).sum(axis=-1)
    rows, columns = np.indices(weight.shape) + 0.5
    height, width = weight.shape
    return (
        float((columns * weight).sum() / weight.sum() / width),
        float((rows * weight).sum() / weight.sum() / height),
    )


def blob(width: int, height: int, x: float, y: float) -> np.ndarray:
    """A bright spot at the fraction (x, y) of a black image."""
    rows, columns = np.indices((height, width)) + 0.5
    distance = ((columns / width - x) ** 2 + (rows / height - y) ** 2) / 0.1**2
    return np.repeat((255 * np.exp(-distance))[..., None], 3, axis=-1).round().astype(np.uint8)


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize("as_text", [True, False])
def test_a_file_may_be_named_by_text_or_path(tmp_path, as_text):
    path = tmp_path / "image.png"
    Image.fromarray(colours()).save(path)
    read = source_image(str(path) if as_text else path)
    assert np.array_equal(read.original, colours())
    assert read.size == (9, 6)
    assert read.fitted_size == (64, 64)


def test_arrays_images_and_floats_are_the_same_image():
    assert np.array_equal(source_image(colours()).original, colours())
    assert np.array_equal(source_image(Image.fromarray(colours())).original, colours())
    assert np.array_equal(source_image(colours() / 255).original, colours())
    assert np.array_equal(source_image((colours() / 255).astype(np.float32)).original, colours())


def test_grey_arrays_become_rgb():
    grey = colours()[..., 0]
    assert np.array_equal(source_image(grey).original, np.stack([grey] * 3, axis=-1))


def test_views_of_an_array_are_taken():
    assert np.array_equal(source_image(colours()[::-1, ::2]).original, colours()[::-1, ::2])


def test_both_arrays_are_read_only():
    read = source_image(colours())
    assert not read.original.flags.writeable
    assert not read.pixels.flags.writeable


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, colours()),
        (2, colours()[:, ::-1]),
        (3, colours()[::-1, ::-1]),
        (4, colours()[::-1]),
        (5, colours().transpose(1, 0, 2)),
        (6, np.rot90(colours(), -1)),
        (7, np.rot90(colours(), 2).transpose(1, 0, 2)),
        (8, np.rot90(colours())),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(colours()).save(path, exif=exif)
    assert np.array_equal(source_image(path).original, turned)


def test_an_exif_rotated_jpeg_has_the_size_it_is_shown_at(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(blob(90, 60, 0.25, 0.5)).save(path, exif=exif)
    read = source_image(path)
    assert read.size == (60, 90)
    assert centroid(read.original) == pytest.approx((0.5, 0.25), abs=0.01)


def test_what_is_transparent_is_laid_on_white():
    rgba = np.zeros((2, 3, 4), dtype=np.uint8)
    rgba[..., 3] = [[0, 127, 255], [0, 127, 255]]
    wanted = np.repeat([[[255], [128], [0]]], 2, axis=0).repeat(3, axis=-1)
    assert np.array_equal(source_image(rgba).original, wanted)
    assert np.array_equal(source_image(rgba / 255).original, wanted)
    grey_alpha = Image.fromarray(rgba).convert("LA")
    assert np.array_equal(source_image(grey_alpha).original, wanted)


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 255])])
def test_palettes_are_looked_up_and_their_transparency_is_laid_on_white(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    path = tmp_path / "palette.png"
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    first = [10, 20, 30] if transparency is None else [255, 255, 255]
    assert source_image(path).original.tolist() == [[first, [40, 50, 60]]]


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    path = tmp_path / "grey16.png"
    Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16)).save(path)
    assert source_image(path).original[0, :, 0].tolist() == [0, 1, 128, 255]


def test_other_modes_become_rgb():
    assert source_image(Image.new("1", (1, 1), 1)).original.tolist() == [[[255, 255, 255]]]
    with pytest.warns(UserWarning, match="CMYK without an ICC profile: its colours are approx"):
        assert source_image(Image.new("CMYK", (1, 1))).original.tolist() == [[[255, 255, 255]]]


def test_an_animated_gif_gives_its_first_frame(tmp_path):
    path = tmp_path / "animation.gif"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"animation\.gif has several frames: the first is read"):
        assert (source_image(path).original == [255, 0, 0]).all()


def test_an_open_image_is_left_as_it_was():
    image = Image.fromarray(colours())
    image.getexif()[ORIENTATION] = 6
    source_image(image)
    assert image.size == (9, 6)
    assert image.getexif()[ORIENTATION] == 6


# ---------------------------------------------------------------- how it is fitted


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([1, 8, 32, 64]),
    st.integers(64, 900),
)
def test_fitted_sides_are_multiples_within_the_limit_and_near_the_aspect(
    width, height, multiple, max_side
):
    fitted = fit((width, height), multiple, max_side)
    assert all(side % multiple == 0 for side in fitted)
    assert all(multiple <= side <= max_side for side in fitted)
    long, short = max(fitted), min(fitted)
    exact = long * min(width, height) / max(width, height)
    assert abs(short - exact) <= multiple / 2 or short == multiple
    assert (fitted[0] >= fitted[1]) == (width >= height) or fitted[0] == fitted[1]


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((512, 512), (512, 512)),
        ((201, 150), (256, 192)),
        ((4000, 3000), (512, 384)),
        ((5000, 20), (512, 64)),
        ((20, 5000), (64, 512)),
        ((1, 1), (64, 64)),
    ],
)
def test_fit_examples(size, fitted):
    assert fit(size, multiple=64, max_side=512) == fitted


@pytest.mark.parametrize(("multiple", "max_side"), [(64, 63), (0, 512)])
def test_a_grid_that_fits_nothing_is_refused(multiple, max_side):
    with pytest.raises(ValueError, match="max_side must be at least"):
        fit((10, 10), multiple, max_side)


@pytest.mark.parametrize("size", [(1, 1), (5000, 20), (20, 5000), (500, 333), (201, 150)])
def test_images_of_any_shape_come_back_at_their_size(size):
    width, height = size
    read = source_image(colours(height, width))
    assert read.size == size
    assert read.pixels.shape[:2] == read.fitted_size[::-1] == fit(size)[::-1]
    assert read.restore(read.pixels).size == size


@pytest.mark.slow
@pytest.mark.parametrize("size", [(500, 333), (201, 150), (700, 1100), (90, 120)])
@pytest.mark.parametrize("spot", [(0.5, 0.5), (0.3, 0.7), (0.65, 0.35)])
def test_fitting_and_restoring_do_not_shift(size, spot):
    width, height = size
    read = source_image(blob(width, height, *spot))
    pixel = 1 / max(size)
    assert centroid(read.pixels) == pytest.approx(centroid(read.original), abs=0.02 * pixel)
    restored = np.asarray(read.restore(read.pixels))
    assert centroid(restored) == pytest.approx(centroid(read.original), abs=0.02 * pixel)


def test_fitting_never_crops():
    pixels = np.zeros((300, 100, 3), dtype=np.uint8)
    pixels[[0, -1]] = 255
    pixels[:, [0, -1]] = 255
    fitted = source_image(pixels, max_side=128).pixels
    for border in (fitted[0], fitted[-1], fitted[:, 0], fitted[:, -1]):
        assert border.min() > 50


def test_an_image_that_fits_is_not_resampled():
    pixels = colours(64, 128)
    read = source_image(pixels)
    assert np.array_equal(read.pixels, pixels)
    assert np.array_equal(np.asarray(read.restore(read.pixels)), pixels)


@pytest.mark.parametrize("pixels", [np.zeros((64, 64, 3)), np.zeros((64, 65, 3), np.uint8)])
def test_only_fitted_pixels_can_be_restored(pixels):
    with pytest.raises(ValueError, match=r"pixels must be uint8 of shape \(64, 64, 3\), got"):
        source_image(colours()).restore(pixels)


# ---------------------------------------------------------------- what is refused


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(colours(60, 90)).save(file, "png")
    return file.getvalue()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no image at .*gone\.png"):
        source_image(tmp_path / "gone.png")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: name one image in it"):
        source_image(tmp_path)


@pytest.mark.parametrize("data", [b"", b"This is text.\n", png()[:4]])
def test_a_file_that_is_no_image_is_refused(tmp_path, data):
    path = tmp_path / "text.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"text\.png is not an image that can be read: save it as"):
        source_image(path)


@pytest.mark.parametrize("length", [20, 100, 1000, len(png()) - 30])
def test_a_truncated_png_is_refused(tmp_path, length):
    path = tmp_path / "truncated.png"
    path.write_bytes(png()[:length])
    with pytest.raises(ValueError, match="is damaged or truncated: "):
        source_image(path)


@pytest.mark.parametrize("kind", ["file", "image", "array"])
def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, kind):
    source: object = colours(60, 90)
    if kind == "image":
        source = Image.fromarray(colours(60, 90))
    if kind == "file":
        source = tmp_path / "large.png"
        pathlib.Path(source).write_bytes(png())
    with pytest.raises(
        ValueError, match=r"has 90 x 60 pixels, and at most 5,000 are decoded: scale"
    ):
        source_image(source, max_pixels=5000)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "bomb.png"
    path.write_bytes(png())
    with pytest.raises(ValueError, match=r"bomb\.png is too large: .*decompression bomb"):
        source_image(path)


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match="the image is empty: 0 x 5 pixels"):
        source_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0), (5,), (2, 5, 5, 3), (3, 5, 5), (5, 5, 1), ()])
def test_an_array_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"must be \(H, W\), .*not empty, got shape .*channels last"
    ):
        source_image(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, float, "holds NaN or infinity: replace them first"),
        (np.inf, float, "holds NaN or infinity"),
        (255, float, r"floats must be in 0..1, got 255..255: scale it, for example array / 255"),
        (-1, float, r"floats must be in 0..1, got -1..-1"),
        (255, np.uint16, "got uint16: divide it by the value of white, array / 65535 if"),
        (255, int, "must be uint8 or floats in 0..1, got int64"),
        (True, bool, "must be uint8 or floats in 0..1, got bool"),
        (None, object, "must be uint8 or floats in 0..1, got object"),
    ],
)
def test_an_array_out_of_range_is_refused(value, dtype, message):
    with pytest.raises(ValueError, match=message):
        source_image(np.full((4, 4, 3), value, dtype=dtype))


@pytest.mark.parametrize("source", [None, [[1, 2]], 7])
def test_another_kind_of_source_is_refused(source):
    with pytest.raises(
        TypeError, match="a Pillow image, a path, the bytes of a file or a numpy array, got "
    ):
        source_image(source)


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(image)
    assert results.attempted
    assert not results.failed
