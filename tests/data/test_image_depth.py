"""Integers and floats: their range is known, or asked for, and never assumed in silence."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from dragwidget.data.image_reading import read_image, read_mask

LEVELS = np.arange(256, dtype=np.uint16).reshape(16, 16)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_sixteen_bits_go_from_0_to_65535_in_every_byte_order(mode):
    data = (LEVELS * 257).astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    image = Image.frombytes(mode, (16, 16), data)
    read = read_image(image)
    assert np.array_equal(read.pixels[..., 0], LEVELS)
    assert read.metadata.conversions == ("brought from 16 bits to 8 bits",)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_of_a_file_are_scaled_and_rounded_to_the_nearest(form):
    values = np.array([[0, 128, 129, 385, 386, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    if form == "JPEG2000":  # whose encoder wants some more
        values = values.repeat(64, axis=0).repeat(8, axis=1)
    read = read_image(encoded(Image.fromarray(values), form))
    assert np.array_equal(read.pixels[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("bands", [3, 4])
def test_sixteen_bits_of_colour_are_read(form, bands):
    # Pillow writes none, so these are made by hand: 2 x 1 pixels.
    values = np.array([[[0x1234, 0xFFFF, 0, 0xFFFF], [0xABCD, 0x8000, 0x00FF, 0xFFFF]]], ">u2")
    values = values[..., :bands]
    read = read_image(png16(values) if form == "PNG" else tiff16(values))
    assert np.abs(read.pixels.astype(float) - values[..., :3] / 257).max() <= 1
    assert read.metadata.conversions == ("brought from 16 bits to 8 bits",)


def png16(values: np.ndarray) -> bytes:
    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    kind = {3: 2, 4: 6}[bands]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff16(values: np.ndarray, photometric: int = 2, bits: int = 16, data: bytes = b"") -> bytes:
    height, width, bands = values.shape
    data = data or values.astype("<u2").tobytes()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[256], tags[257], tags[258], tags[259] = width, height, (bits,) * bands, 1
    tags[262], tags[277], tags[278], tags[279] = photometric, bands, height, len(data)
    if bands == 4:
        tags[338] = 2  # alpha as it is
    tags[273] = 0  # moved behind the tags by Pillow
    return b"II*\0\x08\0\0\0" + tags.tobytes(8) + data


def test_twelve_bits_of_a_tiff_go_from_0_to_4095():
    first, second = 0xFFF, 0x800
    data = bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    read = read_image(tiff16(np.zeros((1, 2, 1)), photometric=1, bits=12, data=data))
    assert read.pixels[0, :, 0].tolist() == [255, 128]
    assert read.metadata.conversions == ("brought from 12 bits to 8 bits",)


def test_a_tiff_whose_zero_is_white_is_no_negative():
    values = np.array([[[0], [65535], [0x4000]]], dtype=np.uint16)
    assert read_image(tiff16(values, photometric=0)).pixels[0, :, 0].tolist() == [255, 0, 191]


def test_the_transparent_grey_of_16_bits_is_transparent():
    image = Image.fromarray(np.array([[0, 40000]], dtype=np.uint16))
    read = read_image(encoded(image, "PNG", transparency=40000))
    assert read.pixels[0, :, 0].tolist() == [0, 255]
    assert read.metadata.alpha.tolist() == [[255, 0]]


@pytest.mark.parametrize("top", [255, 1023, 4095])
def test_sixteen_bits_that_look_like_fewer_are_nearly_black_and_that_is_said(top):
    image = Image.fromarray(np.array([[0, top]], dtype=np.uint16))
    with pytest.warns(UserWarning, match=f"has 16 bits and no value above {top}, so it is nearly"):
        assert read_image(image).pixels.max() == round(top / 257)


@pytest.mark.parametrize("form", [None, "TIFF"])
@pytest.mark.parametrize("values", [[[0, 255]], [[-5, 70000]], [[0, 65535]]])
def test_32_bit_integers_are_refused_as_nothing_says_which_is_white(form, values):
    image = Image.fromarray(np.array(values, dtype=np.int32))
    assert image.mode == "I"
    source = encoded(image, form) if form else image
    low, high = values[0]
    with pytest.raises(
        ValueError, match=rf"integers \(mode I\) from {low} to {high}, and nothing says.*uint8"
    ):
        read_image(source)


def test_signed_integers_of_a_tiff_are_refused():
    tags = {258: 16, 339: 2}
    image = Image.fromarray(np.array([[-3, 30000]], dtype=np.int32))
    data = encoded(image, "TIFF", tiffinfo=tags)
    with pytest.raises(ValueError, match=r"integers \(mode I\) from -3 to 30000"):
        read_image(data)


@pytest.mark.parametrize("values", [[[0.0, 255.0]], [[-0.1, 0.5]], [[0.0, np.nan]], [[0, np.inf]]])
@pytest.mark.parametrize("form", [None, "TIFF"])
def test_floats_beyond_0_to_1_are_refused(values, form):
    image = Image.fromarray(np.array(values, dtype=np.float32))
    with pytest.raises(ValueError, match=r"floats \(mode F\) from .*nothing says which value"):
        read_image(encoded(image, form) if form else image)


@pytest.mark.parametrize("form", [None, "TIFF"])
def test_floats_of_an_image_from_0_to_1_are_taken_as_such_and_that_is_said(form):
    image = Image.fromarray(np.array([[0, 0.25, 1]], dtype=np.float32))
    with pytest.warns(UserWarning, match="holds floats: 0 is taken as black, 1 as white"):
        read = read_image(encoded(image, form) if form else image)
    assert read.pixels[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int64, np.uint32, bool, complex, object])
def test_an_array_of_another_type_is_refused_and_told_what_to_divide_by(dtype):
    with pytest.raises(ValueError, match=rf"got {np.dtype(dtype)}: divide it by the value of whi"):
        read_image(np.ones((4, 4, 3), dtype=dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_an_array_are_rounded_to_the_nearest_level(dtype):
    array = np.array([[0, 0.499 / 255, 0.501 / 255, 127.6 / 255, 1]], dtype=dtype)
    assert read_image(array).pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255]


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[0, 1, 255]], np.uint8),
        ([[0, 1, 65535]], np.uint16),
        ([[0, 1, 70000]], np.int32),
        ([[-1, 1, 7]], np.int32),
        ([[0, 1e-6, 1]], np.float32),
        ([[-2, 0.5, 300]], np.float32),
    ],
)
def test_any_value_of_a_mask_above_zero_counts(tmp_path, values, dtype):
    image = Image.fromarray(np.array(values, dtype=dtype))
    assert read_mask(image).tolist() == [[False, True, True]]
    image.save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif").tolist() == [[False, True, True]]


def test_what_is_transparent_in_a_mask_is_protected(tmp_path):
    rgba = np.array([[[255, 255, 255, 0], [255, 0, 0, 1], [0, 0, 0, 255]]], np.uint8)
    for image in (Image.fromarray(rgba), Image.fromarray(rgba).convert("LA")):
        image.save(tmp_path / "mask.png")
        assert read_mask(tmp_path / "mask.png").tolist() == [[False, True, False]]


def test_a_palette_of_a_mask_is_looked_up(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 3])
    for place in range(3):
        image.putpixel((place, 0), place)
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[True, False, True]]
    image.save(tmp_path / "mask.png", transparency=2)
    assert read_mask(tmp_path / "mask.png").tolist() == [[True, False, False]]


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "JPEG2000", "TIFF", "AVIF"])
def test_a_lossy_mask_is_refused(form):
    if form == "AVIF" and form not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    options = {"compression": "jpeg"} if form == "TIFF" else {}
    with pytest.raises(ValueError, match=f"{form} is lossy, so its black is never quite black"):
        read_mask(encoded(Image.new("L", (32, 32)), form, **options))


def test_a_lossless_webp_is_a_mask():
    image = Image.new("RGB", (16, 16))
    image.putpixel((3, 2), (1, 0, 0))
    mask = read_mask(encoded(image, "WEBP", lossless=True))
    assert mask.sum() == 1
    assert mask[2, 3]
