"""Compose a canvas as one image: for notebooks without a kernel, for papers and for tests."""

from __future__ import annotations

from PIL import Image

from dragwidget.data.frames import BoolArray, Size
from dragwidget.ui.canvas.marks import Marks, paint_with_pillow
from dragwidget.ui.canvas.overlay import Overlay
from dragwidget.ui.canvas.scene import MaskLook

LEAST_SIDE, MOST_SIDE = 384, 1024  # longest side of a snapshot, pixels


def snapshot_size(size: Size, side: int | None = None) -> Size:
    """Return (width, height) of the snapshot of an image of ``size``."""
    longest = max(size)
    wanted = min(max(longest, LEAST_SIDE), MOST_SIDE) if side is None else side
    width, height = (max(1, round(length * wanted / longest)) for length in size)
    return width, height


def compose(
    image: Image.Image,
    size: Size,
    mask: BoolArray | None,
    look: MaskLook,
    marks: Marks,
    side: int | None = None,
) -> Image.Image:
    """Return image, mask and marks as one RGB image.

    size: (width, height) of the image in the pixels that marks are in. side: of the longest side
    of the result, pixels.
    """
    result_size = snapshot_size(size, side)
    is_smaller = image.width < result_size[0]
    # Pixels of a small image stay pixels, as on the canvas.
    way = Image.Resampling.NEAREST if is_smaller else Image.Resampling.LANCZOS
    result = image.convert("RGB").resize(result_size, way)
    if mask is not None and look.style != "hidden":
        overlay = Overlay(mask, look.style, look.tint, look.opacity, max(result_size)).rgba()
        overlay = overlay.resize(result_size, Image.Resampling.BOX)
        result.paste(overlay.convert("RGB"), (0, 0), overlay.getchannel("A"))
    scale_x, scale_y = result_size[0] / size[0], result_size[1] / size[1]
    unit = max(result_size) / 512
    shapes = marks.shapes(lambda xy: (xy[0] * scale_x, xy[1] * scale_y), max(unit, 0.5))
    return paint_with_pillow(result, shapes)
