"""How pairs, tracked handles and half-made shapes look: as plain shapes, painted by anyone.

``paint_with_pillow`` paints them on an image; ``scene`` on a canvas. A length in a shape is in the
pixels that its points are in; ``unit`` is how many of those make one CSS pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from dragwidget.data.frames import XY, Size
from dragwidget.data.instructions import PointPair

HANDLE = "#e5383b"
TARGET = "#2563eb"
WHITE = "#ffffff"
SHADE = "#16161ab0"  # the thin outline that keeps every mark readable on every image

HANDLE_RADIUS = 8.0  # CSS pixels, as all below
TARGET_RADIUS = 6.5
TRACKED_RADIUS = 4.0


@dataclass(frozen=True)
class Disc:
    centre: XY
    radius: float
    fill: str


@dataclass(frozen=True)
class Ring:
    centre: XY
    radius: float
    colour: str
    width: float


@dataclass(frozen=True)
class Line:
    points: tuple[XY, ...]
    colour: str
    width: float
    dash: float = 0.0


@dataclass(frozen=True)
class Polygon:
    points: tuple[XY, ...]
    fill: str


@dataclass(frozen=True)
class Text:
    text: str
    centre: XY
    colour: str
    pixels: float


Shape: TypeAlias = Disc | Ring | Line | Polygon | Text
ToFrame: TypeAlias = Callable[[XY], XY]


@dataclass(frozen=True)
class Marks:
    """The marks on an image, in image pixels.

    hidden: index of a pair that is not shown, as it is being dragged. pending: a handle that has
    no target yet. tracked, trails: where the handles are by now, and how they came there. notes:
    what stands beside each of them, or nothing.
    """

    pairs: tuple[PointPair, ...] = ()
    selected: int | None = None
    hidden: int | None = None
    pending: XY | None = None
    tracked: tuple[XY, ...] = ()
    trails: tuple[tuple[XY, ...], ...] = field(default=())
    notes: tuple[str, ...] = ()

    def shapes(self, to_frame: ToFrame, unit: float, frame: Size | None = None) -> list[Shape]:
        """Return the shapes to paint, the last on top.

        frame: (width, height) of what is seen; pairs that lie outside of it are left out.
        """
        shown = [(i, pair) for i, pair in enumerate(self.pairs) if i != self.hidden]
        ends = [(i, to_frame(pair.handle), to_frame(pair.target)) for i, pair in shown]
        if frame is not None:
            ends = [end for end in ends if _is_seen(end[1], end[2], frame, 20 * unit)]
        shapes: list[Shape] = []
        for i, handle, target in ends:
            shapes += arrow(handle, target, unit)
        for i, handle, target in ends:
            shapes += target_mark(target, unit, i == self.selected)
            shapes += handle_mark(handle, str(i + 1), unit, i == self.selected)
        if self.pending is not None:
            number = str(len(self.pairs) + 1)
            shapes += handle_mark(to_frame(self.pending), number, unit, selected=True)
        for trail in self.trails:
            if len(trail) > 1:
                points = tuple(to_frame(xy) for xy in trail)
                shapes += [Line(points, SHADE, 3.5 * unit), Line(points, "#ffb4b4", 1.75 * unit)]
        for xy in self.tracked:
            shapes += tracked_mark(to_frame(xy), unit)
        for xy, note in zip(self.tracked, self.notes, strict=False):
            shapes += note_mark(to_frame(xy), note, unit)
        return shapes


def _is_seen(a: XY, b: XY, frame: Size, margin: float) -> bool:
    """Return whether the box around two points, plus ``margin``, meets the frame."""
    return all(min(a[i], b[i]) - margin < frame[i] and max(a[i], b[i]) + margin > 0 for i in (0, 1))


def pair_marks(handle: XY, target: XY, number: int, unit: float) -> list[Shape]:
    """Return the marks of one pair while it is dragged."""
    return [
        *arrow(handle, target, unit),
        *target_mark(target, unit, selected=True),
        *handle_mark(handle, str(number), unit, selected=True),
    ]


def handle_mark(centre: XY, label: str, unit: float, selected: bool = False) -> list[Shape]:
    """Return a red disc with a number; with a wide halo if it is selected."""
    radius = HANDLE_RADIUS * unit
    return [
        *_halo(centre, radius, unit, selected),
        Disc(centre, radius + 1.5 * unit, WHITE),
        Disc(centre, radius, HANDLE),
        Text(label, centre, WHITE, (11 if len(label) < 3 else 8.5) * unit),
    ]


def target_mark(centre: XY, unit: float, selected: bool = False) -> list[Shape]:
    """Return a blue ring."""
    radius = TARGET_RADIUS * unit
    return [
        *_halo(centre, radius, unit, selected),
        Ring(centre, radius, WHITE, 5 * unit),
        Ring(centre, radius, TARGET, 2.75 * unit),
    ]


def tracked_mark(centre: XY, unit: float) -> list[Shape]:
    """Return a small hollow red dot."""
    radius = TRACKED_RADIUS * unit
    return [
        Ring(centre, radius, SHADE, 5 * unit),
        Ring(centre, radius, WHITE, 3.75 * unit),
        Ring(centre, radius, HANDLE, 2 * unit),
    ]


def note_mark(centre: XY, text: str, unit: float) -> list[Shape]:
    """Return a few words below a point, on a dark label; nothing for an empty text."""
    if not text:
        return []
    x, y = centre[0], centre[1] + 22 * unit
    half = 3 * len(text) * unit
    label = Line(((x - half, y), (x + half, y)), "#16161acc", 17 * unit)
    return [label, Text(text, (x, y), WHITE, 11 * unit)]


def _halo(centre: XY, radius: float, unit: float, selected: bool) -> list[Shape]:
    if not selected:
        return (
            [Disc(centre, radius + 2.5 * unit, SHADE)]
            if radius > 7 * unit
            else [Ring(centre, radius, SHADE, 7 * unit)]
        )
    return [
        Ring(centre, radius + 5 * unit, SHADE, 4 * unit),
        Ring(centre, radius + 5 * unit, WHITE, 2 * unit),
    ]


def arrow(start: XY, end: XY, unit: float) -> list[Shape]:
    """Return a white arrow that ends at the target's ring; none where handle and target touch."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    gap = (TARGET_RADIUS + 2.5) * unit
    if length <= gap + HANDLE_RADIUS * unit:
        return []
    ux, uy = dx / length, dy / length
    tip = (end[0] - ux * gap, end[1] - uy * gap)
    room = length - gap - HANDLE_RADIUS * unit
    head = min(10 * unit, room)
    neck = (tip[0] - ux * head, tip[1] - uy * head)
    half = head * 0.5
    triangle = (
        tip,
        (neck[0] - uy * half, neck[1] + ux * half),
        (neck[0] + uy * half, neck[1] - ux * half),
    )
    shaft = (start, (neck[0] + ux * unit, neck[1] + uy * unit))
    return [
        Line(shaft, SHADE, 4.5 * unit),
        Line((*triangle, tip), SHADE, 2.5 * unit),
        Line(shaft, WHITE, 2.5 * unit),
        Polygon(triangle, WHITE),
    ]


def outline(points: Sequence[XY], unit: float, vertices: bool = False) -> list[Shape]:
    """Return a dashed outline, visible on light and on dark, of a shape being drawn."""
    shapes: list[Shape] = []
    if len(points) > 1:
        line = tuple(points)
        shapes += [Line(line, "#16161acc", 2 * unit), Line(line, WHITE, 2 * unit, dash=5 * unit)]
    if vertices:
        for i, xy in enumerate(points):
            radius = (5 if i == 0 else 3) * unit
            shapes += [Disc(xy, radius + 1.5 * unit, "#16161acc"), Disc(xy, radius, WHITE)]
    return shapes


_SUPERSAMPLING = 4


def paint_with_pillow(image: Image.Image, shapes: Sequence[Shape]) -> Image.Image:
    """Return a new RGB image with antialiased shapes, whose points are in its pixels."""
    result = image.convert("RGB")
    for shape in shapes:
        box = _box(shape, image.size)
        if box is None:
            continue
        size = (box[2] - box[0], box[3] - box[1])
        k = _SUPERSAMPLING
        # The shape's coverage, large and made small: Pillow itself draws hard edges.
        coverage = Image.new("L", (size[0] * k, size[1] * k), 0)
        _draw(ImageDraw.Draw(coverage), shape, box[:2], k)
        colour, alpha = _rgba(_colour(shape))
        coverage = coverage.resize(size, Image.Resampling.BOX).point(lambda v, a=alpha: v * a / 255)
        result.paste(colour, box, coverage)
    return result


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, origin: XY, k: int) -> None:
    def at(xy: XY) -> XY:
        return (xy[0] - origin[0]) * k, (xy[1] - origin[1]) * k

    def disc(centre: XY, radius: float, value: int) -> None:
        x, y = at(centre)
        draw.ellipse((x - radius * k, y - radius * k, x + radius * k, y + radius * k), fill=value)

    match shape:
        case Disc(centre, radius):
            disc(centre, radius, 255)
        case Ring(centre, radius, _, width):
            disc(centre, radius + width / 2, 255)
            disc(centre, max(radius - width / 2, 0), 0)
        case Line(points, _, width):
            draw.line([at(xy) for xy in points], fill=255, width=max(round(width * k), 1))
            for xy in points:
                disc(xy, width / 2, 255)
        case Polygon(points):
            draw.polygon([at(xy) for xy in points], fill=255)
        case Text(text, centre, _, pixels):
            font = _font(pixels * k)
            draw.text(at(centre), text, fill=255, font=font, anchor="mm")


def _font(pixels: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size=pixels)
    except (TypeError, OSError):  # Pillow before 10.1, or built without FreeType
        return ImageFont.load_default()


def _box(shape: Shape, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the box of pixels that a shape may touch, or None."""
    match shape:
        case Disc(centre, radius):
            points, reach = [centre], radius
        case Ring(centre, radius, _, width):
            points, reach = [centre], radius + width / 2
        case Line(line, _, width):
            points, reach = list(line), width / 2
        case Polygon(corners):
            points, reach = list(corners), 0.0
        case Text(text, centre, _, pixels):
            points, reach = [centre], pixels * max(len(text), 1)
    x0, y0 = (max(math.floor(min(p[i] for p in points) - reach) - 1, 0) for i in (0, 1))
    x1, y1 = (min(math.ceil(max(p[i] for p in points) + reach) + 1, size[i]) for i in (0, 1))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _colour(shape: Shape) -> str:
    return shape.fill if isinstance(shape, Disc | Polygon) else shape.colour


def _rgba(colour: str) -> tuple[tuple[int, int, int], int]:
    """#rrggbb or #rrggbbaa -> (red, green, blue), alpha."""
    r, g, b, a = bytes.fromhex(f"{colour[1:]}ff"[:8])
    return (r, g, b), a
