"""Make the files of an edit, and the links to download them."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from mimetypes import guess_type

from PIL import Image

from dragwidget.data.image_reading import flattened
from dragwidget.editor.images import data_uri, evenly

MAX_FRAMES = 40


def animation(frames: Sequence[Image.Image], *, milliseconds: int = 120) -> bytes:
    """Return a GIF that plays the frames and rests on the last.

    Args:
        frames: all of one size; more than 40 are thinned out evenly, the last one stays.
        milliseconds: duration of each frame.
    """
    if not frames:
        raise ValueError("an animation needs at least one image, got none")
    chosen = [frames[k] for k in evenly(len(frames), MAX_FRAMES)]
    palette = [flattened(frame).quantize(128, Image.Quantize.MEDIANCUT) for frame in chosen]
    times = [milliseconds] * (len(palette) - 1) + [10 * milliseconds]
    file = io.BytesIO()
    palette[0].save(file, "GIF", save_all=True, append_images=palette[1:], duration=times, loop=0)
    return file.getvalue()


def side_by_side(left: Image.Image, right: Image.Image, *, gap: int = 4) -> Image.Image:
    """Return two images of one size side by side."""
    both = Image.new("RGB", (left.width + gap + right.width, left.height), "white")
    both.paste(flattened(left), (0, 0))
    both.paste(flattened(right), (left.width + gap, 0))
    return both


def before_after(left: Image.Image, right: Image.Image, share: float) -> Image.Image:
    """Return the left part of one image and the right part of another, with a line between.

    Args:
        share: share of the width that shows ``left``, 0 to 1.
    """
    if left.size != right.size:
        raise ValueError(f"the images are {left.size} and {right.size}: both must be of one size")
    at = round(min(1.0, max(0.0, share)) * right.width)
    both = flattened(right).copy()
    both.paste(flattened(left).crop((0, 0, at, left.height)), (0, 0))
    line = max(1, right.width // 256)
    if 0 < at < right.width:
        both.paste(
            (255, 255, 255), (max(0, at - line), 0, min(right.width, at + line), both.height)
        )
    return both


def link(name: str, data: bytes) -> str:
    """Return an HTML link that saves ``data`` as ``name``; its suffix gives the media type."""
    address = data_uri(data, guess_type(name)[0] or "application/octet-stream")
    shown = html.escape(name, quote=True)
    size = f"{len(data) / 1024:.0f} KiB"
    return f'<a download="{shown}" href="{address}">{shown}</a> <small>({size})</small>'
