"""Colours of every profile are read as sRGB; where that cannot be, it is said."""

from __future__ import annotations

import io

import numpy as np
import pytest
from icc_profiles import DISPLAY_P3, cmyk_profile, gray_profile, rgb_profile
from PIL import Image, ImageCms, PngImagePlugin

from dragwidget.data.colour import srgb_profile
from dragwidget.data.image_reading import read_image, read_mask
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.session.session import DragSession
from dragwidget.ui.canvas import DragCanvas

RED = (230, 60, 40)


def in_srgb(image: Image.Image, profile: bytes) -> np.ndarray:
    """What littlecms makes of it."""
    return np.asarray(
        ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    )


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def shades(mode: str) -> Image.Image:
    """All sorts of values."""
    size = (32, 16, len(Image.new(mode, (1, 1)).getbands()))
    values = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return Image.frombytes(mode, (16, 32), values.tobytes())


PROFILES = {
    "Adobe RGB": ("RGB", rgb_profile()),
    "Display P3": ("RGB", rgb_profile(DISPLAY_P3, 2.4)),
    "linear": ("RGB", rgb_profile(gamma=1.0)),
    "linear gray": ("L", gray_profile(1.0)),
    "gray": ("L", gray_profile(1.8)),
    "CMYK": ("CMYK", cmyk_profile()),
}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "open"])
def test_an_icc_profile_is_applied_in_every_format(tmp_path, name, form):
    mode, profile = PROFILES[name]
    image = shades(mode)
    if (form == "PNG" and mode == "CMYK") or (form == "WEBP" and mode != "RGB"):
        pytest.skip(f"{form} holds no {mode}")
    if form == "open":
        source: object = image
        image.info["icc_profile"] = profile
    else:
        options = {"lossless": True} if form == "WEBP" else {}
        source = tmp_path / f"image.{form}"
        image.save(source, form, icc_profile=profile, **options)
        with Image.open(source) as image:
            image.load()
    read = read_image(source)
    assert np.array_equal(read.pixels, in_srgb(image, profile))
    assert "made for a test to sRGB" in read.metadata.conversions[0]


def test_the_values_that_are_read_are_those_that_a_reader_of_the_profile_sees():
    image = Image.new("RGB", (1, 1), RED)
    image.info["icc_profile"] = rgb_profile(DISPLAY_P3, 2.2)
    assert np.abs(read_image(image).pixels[0, 0].astype(int) - [252, 24, 0]).max() <= 8
    gray = Image.new("L", (1, 1), 55)
    gray.info["icc_profile"] = gray_profile(1.0)
    linear = 55 / 255
    wanted = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)  # the transfer curve of IEC 61966-2-1
    assert np.abs(read_image(gray).pixels[0, 0] - wanted).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "YCbCr", "I;16"])
def test_a_profile_is_applied_in_every_mode_that_it_can_belong_to(mode):
    image = Image.linear_gradient("L").convert("RGB").convert(mode) if mode != "I;16" else None
    if image is None:
        levels = np.arange(256, dtype=np.uint16).repeat(256).reshape(256, 256) * 257
        image = Image.fromarray(levels)
    plain = Image.fromarray(read_image(image).pixels)
    image.info["icc_profile"] = rgb_profile(gamma=1.0)
    assert np.array_equal(read_image(image).pixels, in_srgb(plain, rgb_profile(gamma=1.0)))


def test_colours_are_converted_before_they_are_laid_on_white():
    image = Image.new("RGBA", (1, 1), (*RED, 128))
    image.info["icc_profile"] = rgb_profile()
    opaque = in_srgb(Image.new("RGB", (1, 1), RED), rgb_profile())[0, 0].astype(float)
    wanted = (opaque * 128 + 255 * 127) / 255
    assert np.abs(read_image(image).pixels[0, 0] - wanted).max() <= 0.5


def test_a_profile_of_srgb_changes_no_bit():
    image = shades("RGB")
    for profile in (srgb_profile(), rgb_srgb()):
        image.info["icc_profile"] = profile
        assert np.array_equal(read_image(image).pixels, np.asarray(image))
        assert read_image(image).metadata.conversions == ()


def rgb_srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_our_profile_is_srgb_and_always_the_same_bytes():
    assert srgb_profile()[24:36] == bytes(12)
    assert srgb_profile()[36:] == rgb_srgb()[36:]
    gradient = Image.merge("RGB", [Image.linear_gradient("L")] * 3)
    assert np.abs(in_srgb(gradient, srgb_profile()).astype(int) - np.asarray(gradient)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "profile", "why"),
    [
        ("RGB", b"no profile", "cannot open profile"),
        ("RGB", rgb_profile()[:300], "cannot build transform"),
        ("RGB", rgb_profile()[:200], "cannot"),
        ("RGB", gray_profile(), "it is for GRAY, the image is RGB"),
        ("RGB", cmyk_profile(), "it is for CMYK, the image is RGB"),
        ("L", cmyk_profile(), "it is for CMYK, the image is GRAY"),
        ("RGB", bytes(2**24 + 1), "it has 16777217 bytes, at most 16777216 are read"),
    ],
)
def test_a_profile_that_cannot_be_used_is_named_and_the_values_are_taken_as_srgb(
    mode, profile, why
):
    image = shades(mode)
    image.info["icc_profile"] = profile
    with pytest.warns(UserWarning, match=rf"ICC profile cannot be used \({why}.*taken as sRGB"):
        read = read_image(image)
    assert np.array_equal(read.pixels, np.asarray(image.convert("RGB")))


def test_lab_is_converted_to_srgb():
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (2, 2), RED),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    del lab.info["icc_profile"]
    read = read_image(encoded(lab, "TIFF"))
    assert np.abs(read.pixels.astype(int) - RED).max() <= 4
    assert read.metadata.conversions == ("colours converted from CIELAB to sRGB",)


def png(**chunks: bytes) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, data in chunks.items():
        info.add(name.encode(), data)
    return encoded(Image.new("RGB", (1, 1), RED), "PNG", pnginfo=info)


def numbers(*values: float) -> bytes:
    return b"".join(round(value * 100_000).to_bytes(4, "big") for value in values)


SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


def test_a_png_that_states_srgb_in_its_own_chunks_is_srgb():
    for chunks in (
        {"gAMA": numbers(0.45455)},
        {"gAMA": numbers(0.45455), "cHRM": numbers(*SRGB)},
        {"gAMA": numbers(1.0), "sRGB": b"\0"},  # which is stronger
    ):
        assert read_image(png(**chunks)).pixels[0, 0].tolist() == list(RED)


@pytest.mark.parametrize(
    "chunks", [{"gAMA": numbers(1.0)}, {"cHRM": numbers(0.3127, 0.329, 0.68, *SRGB[3:])}]
)
def test_another_gamma_or_primaries_of_a_png_are_not_applied_and_that_is_said(chunks):
    with pytest.warns(UserWarning, match=r"the PNG states gamma .* its colours are taken as sRGB"):
        assert read_image(png(**chunks)).pixels[0, 0].tolist() == list(RED)


def test_exif_that_says_adobe_rgb_is_not_applied_and_that_is_said():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    exif[0x8769] = exif.get_ifd(0x8769)
    data = encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="EXIF says Adobe RGB, and it carries no colour profile"):
        read_image(data)


def test_a_mask_is_never_colour_converted():
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (1, 0, 0))
    for profile in (rgb_profile(gamma=4.0), b"broken"):
        image.info["icc_profile"] = profile
        assert read_mask(image).tolist() == [[False, True]]


def test_everyone_reads_colours_alike(tmp_path, tiny: StableDiffusion):
    path = tmp_path / "image.png"
    shades("RGB").resize((64, 64)).save(path, icc_profile=rgb_profile())
    wanted = read_image(path).pixels
    session = DragSession(tiny)
    session.set_image(path)
    assert np.array_equal(session.image, wanted)
    # What a LoRA is trained on, and what is inverted, is of these.
    assert np.array_equal(session.request.image.pixels, wanted)
    canvas = DragCanvas(path)
    assert np.array_equal(canvas.image, wanted)
    canvas.show_image(Image.open(path))
    canvas.flush()
    assert np.array_equal(canvas.scene.image, wanted)
    canvas.close()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_profile_longer_than_any_is_not_applied_and_that_is_said(form, monkeypatch):
    profile = rgb_profile(gamma=1.0)
    image = Image.new("RGB", (4, 4), RED)
    data = encoded(image, form, icc_profile=profile)
    plain = read_image(encoded(image, form)).pixels
    assert not np.array_equal(read_image(data).pixels, plain)
    monkeypatch.setattr("dragwidget.data.colour.MAX_PROFILE", len(profile) - 1)
    with pytest.warns(UserWarning, match=rf"it has {len(profile)} bytes, at most"):
        assert np.array_equal(read_image(data).pixels, plain)
