"""A canvas in the browser: its pixels, and a mouse upon it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator

XY = tuple[float, float]


class CanvasOnPage:
    """A canvas element. Points are ``(x, y)`` in its own pixels, as ipycanvas' events have them.

    One such pixel may be more or less than a CSS pixel, and than one on the screen.
    """

    def __init__(self, element: Locator) -> None:
        self.element = element
        self.mouse = element.page.mouse

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in its own pixels."""
        width, height = self.element.evaluate("canvas => [canvas.width, canvas.height]")
        return int(width), int(height)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, width, height) on the page, CSS pixels."""
        left, top, width, height = self.element.evaluate(
            "canvas => { const r = canvas.getBoundingClientRect();"
            " return [r.left, r.top, r.width, r.height]; }"
        )
        return left, top, width, height

    # ---------------------------------------------------------------- pixels

    def pixel(self, x: float, y: float) -> tuple[int, int, int, int]:
        """What shows at one point: red, green, blue, alpha, 0 to 255."""
        values = self.element.evaluate(
            "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]",
            [int(x), int(y)],
        )
        red, green, blue, alpha = values
        return red, green, blue, alpha

    def around(self, point: XY, reach: int) -> npt.NDArray[np.uint8]:
        """The square of (2 reach + 1, 2 reach + 1, 4) pixels about a point, as ``pixels``."""
        side = 2 * reach + 1
        values = self.element.evaluate(
            "(canvas, [x, y, n]) => [...canvas.getContext('2d').getImageData(x, y, n, n).data]",
            [int(point[0]) - reach, int(point[1]) - reach, side],
        )
        return np.array(values, dtype=np.uint8).reshape(side, side, 4)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """All that it shows, (H, W, 4), red, green, blue, alpha."""
        url = self.element.evaluate("canvas => canvas.toDataURL('image/png')")
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            return np.asarray(image.convert("RGBA"))

    # ---------------------------------------------------------------- the mouse

    def on_page(self, point: XY) -> XY:
        """A point of the canvas -> of the page, in whole CSS pixels, as a mouse has them."""
        left, top, width, height = self.box
        columns, rows = self.size
        return round(left + point[0] * width / columns), round(top + point[1] * height / rows)

    def seen(self, point: XY) -> XY:
        """Where on the canvas a mouse sent to this point really is, for a whole CSS pixel."""
        left, top, width, height = self.box
        columns, rows = self.size
        x, y = CanvasOnPage.on_page(self, point)
        return (x - left) * columns / width, (y - top) * rows / height

    def press(self, point: XY) -> None:
        self.hover(point)
        self.mouse.down()

    def hover(self, point: XY) -> None:
        """Move the mouse there, in one step; a button that is down stays down."""
        self.mouse.move(*self.on_page(point))

    def release(self) -> None:
        self.mouse.up()

    def click(self, point: XY) -> None:
        self.drag([point])

    def drag(self, points: Sequence[XY]) -> list[XY]:
        """Press at the first point, pass through all, release at the last; where it really was."""
        self.element.scroll_into_view_if_needed()
        where = [self.seen(point) for point in points]
        self.press(points[0])
        for point in points[1:]:
            self.hover(point)
        self.release()
        return where


class ImageOnPage(CanvasOnPage):
    """A DragCanvas' canvas at zoom 1, with points in pixels of its image.

    image: (width, height) of the image, image pixels. It lies 24 CSS pixels inside the canvas,
    two canvas pixels each, whatever the page makes of their size.
    """

    PADDING = 48

    def __init__(self, element: Locator, image: tuple[int, int]) -> None:
        super().__init__(element)
        self.image = image

    @property
    def scale(self) -> float:
        """Canvas pixels to an image pixel."""
        return (self.size[0] - 2 * self.PADDING) / self.image[0]

    def on_canvas(self, point: XY) -> XY:
        x, y = point
        return self.PADDING + x * self.scale, self.PADDING + y * self.scale

    def on_page(self, point: XY) -> XY:
        return super().on_page(self.on_canvas(point))

    def seen(self, point: XY) -> XY:
        x, y = super().seen(self.on_canvas(point))
        return (x - self.PADDING) / self.scale, (y - self.PADDING) / self.scale

    def shows(self, point: XY) -> tuple[int, int, int, int]:
        """The colour at a point of the image: red, green, blue, alpha, 0 to 255."""
        return self.pixel(*self.on_canvas(point))
