"""What is written carries what its source did, whole or not at all; what cannot be is refused."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from icc_profiles import rgb_profile
from PIL import Image
from tiny_sessions import session_on, waves

from dragwidget.data.colour import srgb_profile
from dragwidget.data.image import SourceImage, source_image
from dragwidget.data.image_reading import Metadata, flattened, read_image
from dragwidget.data.image_writing import _BY_SUFFIX, _FORMATS, encode_image, output_format
from dragwidget.session.session import DragSession
from dragwidget.session.source import to_pixels
from dragwidget.storage import atomic as files
from dragwidget.storage.image_files import EditedImage, write_image

ORIENTATION, ARTIST = 0x0112, 0x013B
SUFFIXES = [suffix for suffix, name in _BY_SUFFIX.items() if name in Image.SAVE or Image.init()]


def photo(mode: str = "RGBA") -> bytes:
    """Of Adobe RGB, on its side, with an author, a resolution and, if RGBA, a soft edge."""
    image = Image.fromarray(waves(48, 64)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = 6, "A. Nyone"
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif, dpi=(300, 150), icc_profile=rgb_profile())
    return file.getvalue()


def result_of(data: bytes) -> tuple[SourceImage, Image.Image]:
    """The source, and a result of the very same pixels."""
    source = source_image(data, multiple=1, max_side=64)
    return source, source.restore(source.pixels)


def exif_of(image: Image.Image) -> dict[int, object]:
    return dict(image.getexif())


# ---------------------------------------------------------------- what is carried


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_result_carries_what_its_format_can_hold(tmp_path, suffix):
    form = _FORMATS[_BY_SUFFIX[suffix]]
    source, result = result_of(photo("RGBA" if form.alpha else "RGB"))
    write_image(result, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as written:
        written.load()
        assert written.size == (64, 48)
        assert (written.info.get("icc_profile") == srgb_profile()) == (
            "icc_profile" in form.carries
        )
        if "exif" in form.carries:
            assert exif_of(written)[ARTIST] == "A. Nyone"
            assert exif_of(written).get(ORIENTATION, 1) == 1
        if "dpi" in form.carries:
            assert written.info["dpi"] == pytest.approx((150, 300), abs=1)
        if form.alpha:
            assert written.mode == "RGBA"
            alpha = np.asarray(written.getchannel("A")).astype(int)
            most = 3 if form.name == "AVIF" else 0  # whose alpha is lossy too
            assert np.abs(alpha - source.metadata.alpha).max() <= most
        shown = np.asarray(flattened(written)).astype(int)
    assert np.abs(shown - source.original).mean() < 3


@pytest.mark.parametrize("name", ["PNG", "TIFF", "TGA", "JPEG2000"])
def test_a_result_with_alpha_laid_on_white_is_the_result(name):
    source, result = result_of(photo())
    written = Image.open(io.BytesIO(encode_image(result, name)))
    assert np.array_equal(flattened(written), source.original)


def test_what_was_written_is_read_again_as_it_was():
    source, result = result_of(photo())
    again = read_image(encode_image(result, "PNG"))
    assert np.array_equal(again.pixels, source.original)
    assert np.array_equal(again.metadata.alpha, source.metadata.alpha)
    assert again.metadata.conversions == ()
    assert again.metadata.dpi == pytest.approx(source.metadata.dpi, abs=0.1)


def test_exif_that_is_too_long_for_a_jpeg_is_left_out_and_that_is_said():
    exif = Image.Exif()
    exif[ARTIST] = "x" * 70_000
    metadata = Metadata(exif=exif.tobytes())
    image = SourceImage(waves(), waves(), metadata).pillow
    assert len(exif_of(Image.open(io.BytesIO(encode_image(image, "PNG"))))[ARTIST]) == 70_000
    with pytest.warns(UserWarning, match="the EXIF is too large for a JPEG: it is left out"):
        assert exif_of(Image.open(io.BytesIO(encode_image(image, "JPEG")))) == {}


# ---------------------------------------------------------------- by a session


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_the_render_of_a_session_is_saved_with_all_that_its_source_carried(tiny, tmp_path, suffix):
    session = session_on(tiny)
    session.set_image(photo())
    for image in (session.render(), session.preview(), session.image):
        assert (image.size, image.mode) == ((64, 48), "RGBA")
        image.save(tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as written:
            assert written.info["icc_profile"] == srgb_profile()
            assert exif_of(written)[ARTIST] == "A. Nyone"
            assert np.array_equal(written.getchannel("A"), session.request.image.metadata.alpha)


def test_the_render_of_an_opaque_source_is_saved_as_a_jpeg_with_its_profile(tiny, tmp_path):
    session = session_on(tiny)
    session.set_image(photo("RGB"))
    session.render().save(tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as written:
        assert written.info["icc_profile"] == srgb_profile()
        assert written.info["dpi"] == (150, 300)
        assert exif_of(written)[ARTIST] == "A. Nyone"


def test_a_saved_session_carries_it_on(tiny, tmp_path):
    session = session_on(tiny)
    session.set_image(photo())
    session.save(tmp_path / "edit.drag")
    again = DragSession.load(tmp_path / "edit.drag", tiny).request.image.metadata
    before = session.request.image.metadata
    assert np.array_equal(again.alpha, before.alpha)
    assert (again.exif, again.dpi) == (before.exif, before.dpi)
    assert not again.alpha.flags.writeable


def test_pillows_own_ways_to_save_still_work(tmp_path):
    _, result = result_of(photo("RGB"))
    edited = EditedImage.of(result)
    file = io.BytesIO()
    edited.save(file, "PNG")
    assert Image.open(file).info["icc_profile"] == srgb_profile()
    edited.save(tmp_path / "small.jpg", quality=5)
    edited.save(tmp_path / "image.gif")
    edited.save(tmp_path / "no-ending", "PNG")
    assert (tmp_path / "no-ending").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "small.jpg").stat().st_size < 3000
    with pytest.raises(ValueError, match=r"out\.abc has no known image ending: name it like out"):
        edited.save(tmp_path / "out.abc")
    assert type(edited.copy()) is Image.Image


# ---------------------------------------------------------------- what is refused before the edit


@pytest.mark.parametrize(
    ("name", "size", "transparent", "says"),
    [
        ("out", (8, 8), False, r"out has no known image ending: name it like out\.png"),
        ("out.abc", (8, 8), False, "has no known image ending"),
        ("out.gif", (8, 8), False, "has no known image ending"),
        ("out.pdf", (8, 8), False, "has no known image ending"),
        ("out.jpg", (8, 8), True, r"JPEG cannot hold the transparency .* out\.png or out\.webp"),
        ("out.bmp", (8, 8), True, "BMP cannot hold the transparency"),
        ("out.webp", (16384, 8), False, "WEBP holds at most 16383 pixels a side, .* 16384 x 8"),
        ("out.JPEG", (8, 65501), False, "JPEG holds at most 65500 pixels a side"),
    ],
)
def test_a_format_that_cannot_take_the_result_is_refused(name, size, transparent, says):
    with pytest.raises(ValueError, match=says):
        output_format(Path(name), size, transparent=transparent)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_longest_side_that_is_said_to_fit_does(tmp_path, suffix):
    longest = min(_FORMATS[_BY_SUFFIX[suffix]].longest, 70_000)
    write_image(Image.new("RGB", (longest, 1)), tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as written:
        assert written.size == (longest, 1)


# ---------------------------------------------------------------- whole or not at all


def full(monkeypatch) -> None:
    """No file can be brought to the disk any more."""

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_full_disk_leaves_what_was_there_and_the_error_names_the_file(
    tmp_path, monkeypatch, before
):
    path = tmp_path / "out.png"
    if before:
        path.write_bytes(before)
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_image(Image.fromarray(waves()), path)
    assert error.value.filename == str(path)
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == ([path] if before else [])
    if before:
        assert path.read_bytes() == before


def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "there" / "out.png")
    write_image(Image.fromarray(waves()), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert read_image(tmp_path / "there" / "out.png").pixels.shape == (48, 64, 3)


def test_the_rights_of_a_file_stay(tmp_path):
    path = tmp_path / "out.png"
    path.touch(0o640)
    write_image(Image.fromarray(waves()), path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_device_is_not_replaced(tmp_path):
    pipe = tmp_path / "out.png"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a plain file"):
        write_image(Image.fromarray(waves()), pipe)
    with pytest.raises(OSError, match="is not a plain file: name another place"):
        files.check_writable(pipe)
    assert list(tmp_path.iterdir()) == [pipe]


def test_where_nothing_can_be_written_is_found_beforehand_and_nothing_is_left_there(
    tmp_path, monkeypatch
):
    files.check_writable(tmp_path / "out.png")
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        files.check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none to write out\.png in"):
        files.check_writable(tmp_path / "none" / "out.png")

    def touch(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(OSError, match=r"out\.png cannot be written \(Read-only file system\): na"):
        files.check_writable(tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(Image.fromarray(waves()), "~/out.png")
    EditedImage.of(Image.fromarray(waves())).save("~/saved.png")
    assert {path.name for path in tmp_path.iterdir()} == {"out.png", "saved.png"}


# ---------------------------------------------------------------- rounding


def test_decoded_values_are_rounded_to_the_nearest_level():
    levels = torch.arange(256, dtype=torch.float32)
    decoded = ((levels / 127.5 - 1) / 2 + 0.5).clamp(0, 1).reshape(1, 1, 1, 256)
    assert to_pixels(decoded.expand(1, 3, 1, 256))[0, :, 0].tolist() == list(range(256))
    between = torch.tensor([0.4, 0.6, 127.4, 127.6, 254.6]) / 255
    shown = to_pixels(between.reshape(1, 1, 1, 5).expand(1, 3, 1, 5))[0, :, 0]
    assert shown.tolist() == [0, 1, 127, 128, 255]
