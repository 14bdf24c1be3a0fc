"""Files of images, opened but not decoded: which formats, which limits, whose fault an error is."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import IcoImagePlugin, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from dragwidget.data.colour import MAX_PROFILE
from dragwidget.data.paths import user_path

# Of all that Pillow can open: some of the others start programs (Ghostscript), or are for science.
FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000",
    "AVIF", "PCX", "SGI", "QOI",
)  # fmt: skip

_PNG, _ICO = b"\x89PNG\r\n\x1a\n", b"\0\0\1\0"


@contextmanager
def opened(source: Any, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Open a path, or the bytes of a file, as an image of one of our formats; decode nothing.

    Raises:
        FileNotFoundError, IsADirectoryError: no file at that path.
        TypeError: neither a path nor bytes.
        ValueError: not an image, a damaged or too large one; a URL.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        with _identified(io.BytesIO(source), called(source), max_pixels) as image:
            yield image
        return
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "an image must be a Pillow image, a path, the bytes of a file or a numpy array, "
            f"got {type(source).__name__}: convert it first"
        )
    path = user_path(source)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name one image in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no image at {path}")
    if not path.is_file():  # a pipe, say, in which nothing can be looked up twice
        raise ValueError(f"{path} is not a plain file: copy the image to one")
    with path.open("rb") as file, _identified(file, str(path), max_pixels) as image:
        yield image


def called(source: Any) -> str:
    """Return what to call a source in a message."""
    return str(source) if isinstance(source, str | Path) else "the image"


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise ValueError where an image of this (width, height) is not to be decoded."""
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"the image is empty: {width} x {height} pixels")
    if width * height > max_pixels:
        raise ValueError(
            f"the image has {width} x {height} pixels, and at most {max_pixels:,} are decoded: "
            "scale it down, or raise max_pixels"
        )


def damaged(name: str, error: Exception) -> Exception:
    """What to raise for an error of a decoder; Pillow's raise almost anything on damaged data."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        return error  # the machine's fault, not the file's
    return ValueError(f"{name} is damaged or truncated: {error}")


def is_lossy(image: ImageFile.ImageFile) -> bool:
    """Return whether the open file's pixels are only about what was saved."""
    if image.format == "WEBP":
        assert image.fp is not None
        image.fp.seek(0)
        return b"VP8 " in image.fp.read(4096)  # lossless: VP8L
    if image.format == "TIFF":
        return image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    return image.format in ("JPEG", "MPO", "JPEG2000", "AVIF")


def _identified(file: IO[bytes], name: str, max_pixels: int) -> ImageFile.ImageFile:
    Image.init()  # which of the formats this Pillow has
    formats = [form for form in FORMATS if form in Image.OPEN]
    try:
        file, profile = _as_pillow_takes_it(file, max_pixels)
        with warnings.catch_warnings():
            # It warns from one limit on and refuses from another; ours is checked on what is open.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        cure = "save it as PNG or JPEG"
        if name.endswith(".drag"):
            cure = "if it is a saved session, DragSession.load opens it"
        raise ValueError(f"{name} is not an image that can be read: {cure}") from error
    except (Image.DecompressionBombError, _TooLargeError) as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except Exception as error:
        raise damaged(name, error) from error
    if profile:
        image.info["icc_profile"] = profile
    return image


class _TooLargeError(ValueError):
    """The image inside of a file is."""


def _as_pillow_takes_it(file: IO[bytes], max_pixels: int) -> tuple[IO[bytes], bytes]:
    """The file, such that Pillow opens it without decoding; and a profile that it would refuse."""
    start = file.read(8)
    profile = b""
    if start.startswith(_ICO):
        file = _largest_of_icon(file, max_pixels)
        file.seek(0)
        start = file.read(8)
    if start == _PNG:
        spans, profile = _large_chunks(file)
        if spans:
            file.seek(0)
            data = file.read()
            ends = [0, *(end for _, end in spans)]
            starts = [*(start for start, _ in spans), len(data)]
            file = io.BytesIO(
                b"".join(data[end:start] for end, start in zip(ends, starts, strict=True))
            )
    file.seek(0)
    return file, profile


def _large_chunks(file: IO[bytes]) -> tuple[list[tuple[int, int]], bytes]:
    """Where the chunks of a PNG lie whose contents are beyond Pillow's limits, (start, end).

    That is text, which is of no use here; and the colour profile, returned if we would use it.
    """
    limit, memory = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    spans: list[tuple[int, int]] = []
    profile = b""
    at = len(_PNG)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return spans, profile
        (length,), kind = struct.unpack(">I", head[:4]), head[4:]
        start, at = at, at + 12 + length
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            size = len(_content(kind, file.read(length), limit + 1))
            if size > min(limit, memory):
                spans.append((start, at))
            else:
                memory -= size
        elif kind == b"iCCP":
            content = _content(kind, file.read(length), MAX_PROFILE + 1)
            if len(content) > limit:
                spans.append((start, at))
                profile = content


def _content(kind: bytes, data: bytes, most: int) -> bytes:
    """Return what a chunk of text, or of a profile, says, unpacked to ``most`` bytes."""
    _, _, data = data.partition(b"\0")  # after its keyword
    if kind == b"tEXt" or (kind == b"iTXt" and not data.startswith(b"\1")):
        return data
    data = data[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else data[1:]
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return b""  # Pillow takes no notice of it


def _largest_of_icon(file: IO[bytes], max_pixels: int) -> IO[bytes]:
    """The image in an icon that Pillow would decode as soon as it opens it, if that is a PNG.

    The size that the icon says it has is not to be trusted.
    """
    file.seek(0)
    entry = IcoImagePlugin.IcoFile(file).entry[0]
    file.seek(entry.offset)
    data = file.read(entry.size)
    if data.startswith(_PNG):
        return io.BytesIO(data)
    if len(data) >= 12:  # the header of a bitmap, whose height counts its transparency too
        width, height = struct.unpack("<ii", data[4:12])
        try:
            check_size((abs(width), max(abs(height) // 2, 1)), max_pixels)
        except ValueError as error:
            raise _TooLargeError(str(error)) from error
    return file
