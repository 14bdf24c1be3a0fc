"""Files of images: what is opened, what is checked before it is decoded, what it carries."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from icc_profiles import rgb_profile
from PIL import Image, ImageFile, PngImagePlugin

from dragwidget.data.image import source_image
from dragwidget.data.image_opening import FORMATS
from dragwidget.data.image_reading import ReadImage, flattened, read_image, read_mask, with_alpha
from dragwidget.data.paths import user_path

ORIENTATION, XRES, SOFTWARE, ARTIST = 0x0112, 0x011A, 0x0131, 0x013B


def noise(size=(12, 8), bands: int = 3) -> np.ndarray:
    shape = (size[1], size[0], bands)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, late: bool = False) -> bytes:
    """A sound PNG of noise with more chunks, before its pixels or behind them."""
    data = encoded(Image.fromarray(noise()), "PNG")
    at = len(data) - 12 if late else 33
    return data[:at] + b"".join(chunks) + data[at:]


def icon(image: bytes) -> bytes:
    """An icon that says 16 x 16, whatever it holds."""
    head = struct.pack("<HHH", 0, 1, 1)
    return head + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(image), 22) + image


def huge_png(width: int = 13000, height: int = 13000) -> bytes:
    """The header of one; what comes after it is never looked at."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of what was decoded."""
    sizes: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def noted(image):
        sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    return sizes


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_the_png_in_an_icon_is_measured_before_it_is_decoded(decoded, read):
    with pytest.raises(ValueError, match="13000 x 13000 pixels, and at most 80,000,000 are dec"):
        read(icon(huge_png()))
    assert decoded == []


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_the_bitmap_in_an_icon_is_measured_before_it_is_decoded(decoded, read):
    header = struct.pack("<IiiHHIIiiII", 40, 13000, 26000, 1, 32, 0, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="too large: the image has 13000 x 13000 pixels, and at"):
        read(icon(header))
    assert decoded == []


@pytest.mark.parametrize("bitmap", ["png", "bmp"])
def test_an_icon_is_read(bitmap):
    image = Image.fromarray(noise((16, 16))).convert("RGBA")
    data = encoded(image, "ICO", sizes=[(16, 16)], bitmap_format=bitmap)
    assert np.array_equal(read_image(data).pixels, noise((16, 16)))


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_what_is_too_large_is_not_decoded(decoded, read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning is not ours
        with pytest.raises(ValueError, match="has 13000 x 9000 pixels, and at most 80,000,000"):
            read(huge_png(13000, 9000))
    with pytest.raises(ValueError, match=r"is too large: .*decompression bomb"):
        read(huge_png(50000, 50000))
    assert decoded == []


@pytest.mark.parametrize("form", ["JPEG2000", "AVIF"])
def test_an_image_that_is_larger_than_its_container_says_is_no_larger_in_memory(form):
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow has no {form}")
    data = bytearray(encoded(Image.new("RGB", (400, 300)), form))
    box, at = (b"ihdr", 4) if form == "JPEG2000" else (b"ispe", 8)
    place = data.index(box) + at
    data[place : place + 8] = struct.pack(">II", 16, 16)
    try:
        read = read_image(bytes(data))
    except ValueError as error:
        assert "damaged or truncated" in str(error)  # noqa: PT017
    else:
        assert read.pixels.shape == (16, 16, 3)


# ---------------------------------------------------------------- chunks of PNG

LONG = zlib.compress(b"x" * (3 * 2**20))
TEXTS = {
    "zTXt": chunk(b"zTXt", b"prompt\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"prompt\0\1\0\0\0" + LONG),
    "plain iTXt": chunk(b"iTXt", b"workflow\0\0\0\0\0" + b"{}" * 2**20),
    "tEXt": chunk(b"tEXt", b"workflow\0" + b"{}" * 2**20),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_a_png_is_read_however_long_its_texts_are(name, late):
    data = png_with(TEXTS[name], late=late)
    assert np.array_equal(read_image(data).pixels, noise())
    assert read_mask(data).shape == (8, 12)


def test_a_png_is_read_however_many_texts_it_has(monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1000)
    texts = [chunk(b"tEXt", b"key\0" + b"x" * 400) for _ in range(5)]
    assert np.array_equal(read_image(png_with(*texts)).pixels, noise())


def test_a_long_profile_of_a_png_is_applied():
    profile = rgb_profile() + np.random.default_rng(0).bytes(2**21)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    data = png_with(chunk(b"iCCP", b"long\0\0" + zlib.compress(profile)))
    image = Image.fromarray(noise())
    image.info["icc_profile"] = profile
    assert np.array_equal(read_image(data).pixels, read_image(image).pixels)
    assert not np.array_equal(read_image(data).pixels, noise())


def test_damaged_texts_do_not_matter():
    data = png_with(chunk(b"zTXt", b"key\0\0no zlib"), chunk(b"iTXt", b"key\0\1\0\0\0no zlib"))
    assert np.array_equal(read_image(data).pixels, noise())


# ---------------------------------------------------------------- formats, frames, damage


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_bytes_of_a_file_are_an_image(kind):
    data = encoded(Image.fromarray(noise()), "PNG")
    assert np.array_equal(source_image(kind(data)).original, noise())
    with pytest.raises(ValueError, match="the image is not an image that can be read: save it as"):
        read_image(kind(b"no image"))


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_masks_and_images_are_opened_with_the_same_formats(tmp_path, read):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", "EPS")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png", "DDS")
    (tmp_path / "c.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="is not an image that can be read: save it as PNG"):
            read(path)
    assert "EPS" not in FORMATS


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_read_and_that_is_said(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match="the image has several frames: the first is read"):
        assert read_image(data).pixels[0, 0].tolist() == [255, 0, 0]


def test_the_other_images_of_a_camera_are_not_frames():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert read_image(data).pixels[0, 0].tolist() == [254, 0, 0]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_file_is_called_so(form):
    data = encoded(Image.fromarray(noise((90, 60))), form)
    for read in (read_image, read_mask):
        if read is read_mask and form in ("JPEG", "WEBP"):
            continue  # refused before that
        with pytest.raises(ValueError, match="is damaged or truncated: "):
            read(data[: len(data) * 2 // 3])


def test_a_full_memory_is_not_called_a_damaged_file(monkeypatch):
    def load(_):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(MemoryError):
        read_image(encoded(Image.fromarray(noise()), "PNG"))


def test_a_session_file_is_no_image_and_the_message_says_what_opens_it(tmp_path):
    (tmp_path / "fox.drag").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"fox\.drag is not an image .*DragSession\.load opens it"):
        read_image(tmp_path / "fox.drag")


def test_damaged_exif_is_left_out_and_that_is_said(monkeypatch):
    def getexif(_):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", getexif)
    with pytest.warns(UserWarning, match=r"EXIF cannot be read \(not a TIFF file\): it is left"):
        read = read_image(Image.fromarray(noise()))
    assert np.array_equal(read.pixels, noise())
    assert read.metadata.exif == b""


def test_what_was_read_is_not_read_again():
    read = read_image(noise())
    assert read_image(read) is read
    assert np.array_equal(source_image(read).original, noise())


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("https://example.org/fox.png", "https://example.org/fox.png is a URL: download it"),
        ("http://example.org/fox.png", "is a URL: download it, and give the path of the file"),
        ("s3://bucket/fox.png", "is a URL"),
        ("HTTPS://example.org/fox.png", "is a URL"),
        (Path("https://example.org/fox.png"), "is a URL"),
        ("file:///home/me/fox.png", "is a URL: give the path alone, without file://"),
        ("data:image/png;base64," + "A" * 10_000, r"data:image/png;base64,A+\.\.\. is a URL"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask, source_image])
def test_a_url_is_refused_as_one(path, says, read):
    with pytest.raises(ValueError, match=says):
        read(path)


@pytest.mark.parametrize("path", ["fox.png", "C:/fox.png", "C:\\fox.png", "a:b.png", "http.png"])
def test_what_is_no_url_is_a_path(path):
    assert user_path(path) == Path(path)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(noise()).save(tmp_path / "fox.png")
    assert np.array_equal(read_image("~/fox.png").pixels, noise())
    assert read_mask(Path("~/fox.png")).all()
    with pytest.raises(FileNotFoundError, match=f"there is no image at {tmp_path}/gone.png"):
        read_image("~/gone.png")
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


# ---------------------------------------------------------------- what an image carries


def test_alpha_is_carried_and_laid_on_white_it_is_the_same_to_the_bit():
    values, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = Image.fromarray(np.dstack([values, values[::-1], values.T, alpha]))
    read = read_image(image)
    assert np.array_equal(read.metadata.alpha, alpha)
    again = with_alpha(read.pixels, read.metadata.alpha)
    assert again.mode == "RGBA"
    assert np.array_equal(again.getchannel("A"), alpha)
    assert np.array_equal(flattened(again), read.pixels)
    assert np.array_equal(read_image(again).pixels, read.pixels)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_an_alpha_that_is_opaque_everywhere_is_none(mode):
    image = Image.fromarray(noise()).convert("RGBA").convert("L" if mode == "LA" else "RGBA")
    assert read_image(image.convert(mode)).metadata.alpha is None


def exif_of(metadata_exif: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(metadata_exif)
    return exif


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_is_carried_upright_and_of_the_size_and_colours_as_they_are_now(form):
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = 6, "A. Nyone"
    exif[0x8769] = {0xA001: 65535, 0xA002: 12, 0xA003: 8, 0x829A: 0.5}
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 0.0)}
    options = {"lossless": True} if form == "WEBP" else {}
    read = read_image(encoded(Image.fromarray(noise()), form, exif=exif.tobytes(), **options))
    assert read.pixels.shape == (12, 8, 3)
    assert read.metadata.conversions == ("turned upright (EXIF orientation 6)",)
    kept = exif_of(read.metadata.exif)
    assert ORIENTATION not in kept
    assert kept[ARTIST] == "A. Nyone"
    details = kept.get_ifd(0x8769)
    assert (details[0xA001], details[0xA002], details[0xA003]) == (1, 8, 12)
    assert float(details[0x829A]) == 0.5
    assert kept.get_ifd(0x8825)[1] == "N"
    assert not {256, 257, 258, 259, 262, 273, 278, 279} & set(kept)  # of the TIFF's own pixels


@pytest.mark.parametrize(
    ("form", "dpi"), [("PNG", (300, 150)), ("JPEG", (300, 150)), ("TIFF", (300, 150))]
)
def test_the_resolution_is_carried_and_turned_with_the_image(form, dpi):
    image = Image.fromarray(noise())
    assert read_image(encoded(image, form, dpi=dpi)).metadata.dpi == pytest.approx(dpi, abs=0.1)
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    turned = read_image(encoded(image, form, dpi=dpi, exif=exif)).metadata.dpi
    assert turned == pytest.approx(dpi[::-1], abs=0.1)


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 72), (1e9, 1e9), "fine", (72,), None])
def test_a_resolution_that_is_none_is_not_carried(dpi):
    image = Image.fromarray(noise())
    image.info["dpi"] = dpi
    assert read_image(image).metadata.dpi is None


def test_an_array_carries_nothing():
    metadata = read_image(noise()).metadata
    assert (metadata.alpha, metadata.exif, metadata.dpi, metadata.conversions) == (
        None, b"", None, (),
    )  # fmt: skip
    assert isinstance(read_image(noise()), ReadImage)
