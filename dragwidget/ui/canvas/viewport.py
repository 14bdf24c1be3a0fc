"""The canvas frame, and the only arithmetic between it and the image frame.

**Convention**: canvas points are ``(x, y)`` in pixels of the canvas' drawing buffer, as its events
carry them; ``RATIO`` of these make one CSS pixel, so that lines stay sharp on dense screens. The
image lies ``PADDING`` inside the canvas, so that a hand that lets go at its edge is still seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dragwidget.data.frames import XY, Size

RATIO = 2  # canvas pixels to a CSS pixel
PADDING = 24 * RATIO
FIT_SIDE = 512  # CSS pixels of the image's longest side where it is fitted
MAX_MAGNIFICATION = 8  # CSS pixels to an image pixel where a small image is fitted
MIN_AREA = 64 * RATIO  # canvas pixels of the area that an image is shown in
MAX_ZOOM = 32.0


@dataclass(frozen=True)
class Viewport:
    """How an image of ``size`` is shown.

    size: (width, height), image pixels. canvas: (width, height), canvas pixels. fitted: canvas
    pixels to an image pixel at zoom 1. zoom: 1 to 32. centre: the image point in the middle.
    """

    size: Size
    canvas: Size
    fitted: float
    zoom: float
    centre: XY

    @classmethod
    def of(cls, size: Size, width: int | None = None) -> Viewport:
        """The image fitted; ``width``: of the whole canvas, CSS pixels."""
        if width is None:
            fitted = min(FIT_SIDE / max(size), MAX_MAGNIFICATION) * RATIO
        else:
            fitted = (width * RATIO - 2 * PADDING) / size[0]
        area_width, area_height = (max(round(side * fitted), MIN_AREA) for side in size)
        canvas = (area_width + 2 * PADDING, area_height + 2 * PADDING)
        return cls(size, canvas, fitted, 1.0, (size[0] / 2, size[1] / 2))

    @property
    def scale(self) -> float:
        """Canvas pixels to an image pixel."""
        return self.fitted * self.zoom

    @property
    def origin(self) -> XY:
        """Where the image's top left corner is, in canvas pixels; perhaps outside the canvas."""
        return (
            self.canvas[0] / 2 - self.centre[0] * self.scale,
            self.canvas[1] / 2 - self.centre[1] * self.scale,
        )

    def to_image(self, xy: XY) -> XY:
        """A canvas point in image pixels; perhaps outside the image."""
        x0, y0 = self.origin
        return (xy[0] - x0) / self.scale, (xy[1] - y0) / self.scale

    def to_canvas(self, xy: XY) -> XY:
        """An image point in canvas pixels."""
        x0, y0 = self.origin
        return x0 + xy[0] * self.scale, y0 + xy[1] * self.scale

    def inside(self, xy: XY) -> XY:
        """The nearest image point that a point of a pair may have, to a hundredth of a pixel."""
        x, y = (
            min(max(round(value, 2), 0.0), side - 0.01)
            for value, side in zip(xy, self.size, strict=True)
        )
        return x, y

    def clamped(self, xy: XY) -> XY:
        """The nearest canvas point on the canvas."""
        x, y = (
            min(max(float(value), 0.0), float(side))
            for value, side in zip(xy, self.canvas, strict=True)
        )
        return x, y

    def zoomed(self, zoom: float, centre: XY | None = None) -> Viewport:
        """Another zoom, kept within 1 to 32, with an image point in the middle."""
        zoom = min(max(float(zoom), 1.0), MAX_ZOOM)
        return replace(self, zoom=zoom)._about(self.centre if centre is None else centre)

    def zoomed_at(self, zoom: float, fixed: XY) -> Viewport:
        """Another zoom, with what is at a canvas point staying there."""
        x, y = self.to_image(fixed)
        other = self.zoomed(zoom)
        middle_x, middle_y = self.canvas[0] / 2, self.canvas[1] / 2
        return other._about(
            (x + (middle_x - fixed[0]) / other.scale, y + (middle_y - fixed[1]) / other.scale)
        )

    def panned(self, dx: float, dy: float) -> Viewport:
        """Moved by so many canvas pixels, no further than to the image's padding."""
        return self._about((self.centre[0] - dx / self.scale, self.centre[1] - dy / self.scale))

    def _about(self, centre: XY) -> Viewport:
        kept = []
        for middle, side, canvas in zip(centre, self.size, self.canvas, strict=True):
            half = (canvas / 2 - PADDING) / self.scale  # of what is seen inside the padding
            low, high = half, side - half
            # Less than a canvas pixel to move by comes of rounding the canvas' size.
            is_whole = (high - low) * self.scale < 1
            kept.append(side / 2 if is_whole else min(max(float(middle), low), high))
        return replace(self, centre=(kept[0], kept[1]))
