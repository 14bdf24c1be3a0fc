"""The canvas frame, and the only arithmetic between it and the image frame.

**Convention**: canvas points are ``(x, y)`` in pixels of the canvas' drawing buffer, as its events
carry them; ``RATIO`` of these make one CSS pixel, so that lines stay sharp on dense screens. The
image lies ``PADDING`` inside the canvas, so that a release at its edge is still seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dragwidget.data.frames import XY, Size

RATIO = 2  # canvas pixels to a CSS pixel
PADDING = 24 * RATIO
FIT_SIDE = 512  # CSS pixels of the image's longest side where it is fitted
MAX_MAGNIFICATION = 8  # CSS pixels to an image pixel where a small image is fitted
TALLEST = 720  # CSS pixels of the whole canvas
MIN_AREA = 64 * RATIO  # canvas pixels of the area that an image is shown in
MAX_ZOOM = 32.0


def inside(size: Size, xy: XY) -> XY:
    """Clamp an image point to where a point of a pair may be, to a hundredth of a pixel."""
    x, y = (
        min(max(round(value, 2), 0.0), side - 0.01) for value, side in zip(xy, size, strict=True)
    )
    return x, y


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
        """Fit an image; ``width``: of the whole canvas, CSS pixels, unless that is too tall."""
        if width is None:
            fitted = min(FIT_SIDE / max(size), MAX_MAGNIFICATION) * RATIO
        else:
            room = (width, TALLEST)
            fitted = min((room[i] * RATIO - 2 * PADDING) / size[i] for i in (0, 1))
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
        """Return a canvas point in image pixels; perhaps outside the image."""
        x0, y0 = self.origin
        return (xy[0] - x0) / self.scale, (xy[1] - y0) / self.scale

    def to_canvas(self, xy: XY) -> XY:
        """Return an image point in canvas pixels."""
        x0, y0 = self.origin
        return x0 + xy[0] * self.scale, y0 + xy[1] * self.scale

    def inside(self, xy: XY) -> XY:
        """Clamp an image point to where a point of a pair may be, to a hundredth of a pixel."""
        return inside(self.size, xy)

    def clamped(self, xy: XY) -> XY:
        """Clamp a canvas point to the canvas."""
        x, y = (
            min(max(float(value), 0.0), float(side))
            for value, side in zip(xy, self.canvas, strict=True)
        )
        return x, y

    def zoomed(self, zoom: float, centre: XY | None = None) -> Viewport:
        """Return another zoom, clamped to 1 to 32, centered on an image point."""
        zoom = min(max(float(zoom), 1.0), MAX_ZOOM)
        return replace(self, zoom=zoom)._about(self.centre if centre is None else centre)

    def zoomed_at(self, zoom: float, fixed: XY) -> Viewport:
        """Return another zoom that keeps what is at a canvas point in place."""
        x, y = self.to_image(fixed)
        other = self.zoomed(zoom)
        middle_x, middle_y = self.canvas[0] / 2, self.canvas[1] / 2
        return other._about(
            (x + (middle_x - fixed[0]) / other.scale, y + (middle_y - fixed[1]) / other.scale)
        )

    def panned(self, dx: float, dy: float) -> Viewport:
        """Return the view moved by (dx, dy) canvas pixels, no further than the padding."""
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
