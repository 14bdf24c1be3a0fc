"""Small plots as SVG text: quick to make, crisp, and in the colours of the page's theme.

What tells lines apart is a label at their end and a dash pattern, then colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from dragwidget.ui.plots.svg import document, number, text
from dragwidget.ui.styles import FAINT, TEXT

# Each has a contrast of 3 : 1 or more against white and against #111 (WCAG 2.1, 1.4.11).
COLOURS = ("#2f7fd1", "#d9573f", "#2a9364", "#a267c9", "#b57a12", "#5f7f8f")
DASHES = ("", "6 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2")
MAX_POINTS = 200  # of one line: more cannot be told apart

_TOP, _BOTTOM, _LEFT = 24, 18, 40  # pixels for title, steps, values
_LABEL_HEIGHT = 13
_HUGE = 1e300
_DIGITS = 7  # of a value, and what is between it and its name and unit
_CHARACTER = 6.2  # pixels, of the labels, at most on average


def decimate(values: Sequence[float], limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """Return (index, value) of at most ``limit`` points whose plot looks the same.

    The minimum and maximum of every segment are among them, so that no peak is lost, and both
    ends. Values that are not finite are left out.
    """
    points = [(i, float(v)) for i, v in enumerate(values) if math.isfinite(v)]
    if len(points) <= limit:
        return points
    pieces = limit // 2 - 1
    inner, kept = points[1:-1], [points[0]]
    for k in range(pieces):
        piece = inner[k * len(inner) // pieces : (k + 1) * len(inner) // pieces]
        ends = {min(piece, key=lambda p: p[1]), max(piece, key=lambda p: p[1])}
        kept.extend(sorted(ends))
    return [*kept, points[-1]]


def line_plot(
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    width: int = 320,
    height: int = 110,
    unit: str = "",
) -> str:
    """Return a line plot over steps, as SVG.

    Args:
        series: for each name one value per step; a value that is not finite is a gap.
        width, height: pixels; less on a narrower page.
        unit: unit of the values.
    """
    usable = {name: [_usable(v) for v in values] for name, values in series.items()}
    lines = {name: decimate(values) for name, values in usable.items()}
    lines = {name: points for name, points in lines.items() if points}
    steps = max((len(values) for values in series.values()), default=0)
    parts = [text(2, 13, title, size=12, weight=600)]
    if not lines:
        parts.append(text(_LEFT, (_TOP + height) / 2, "no steps yet", colour=FAINT))
        return document(parts, width, height, f"{title}: no steps yet")

    ends = {name: number(_last(usable[name]), unit) for name in lines}
    many = len(lines) > 1
    labels = {name: f"{name}  {end}" if many else end for name, end in ends.items()}
    # room for the longest value, so that nothing moves when digits come or go
    longest = max(max(map(len, labels.values())), max(map(len, lines)) * many + _DIGITS + len(unit))
    right = min(width * 0.45, 12 + _CHARACTER * longest)
    x0, x1, y0, y1 = _LEFT, width - right, height - _BOTTOM, _TOP
    values = [v for points in lines.values() for _, v in points]
    low, high, ticks = _scale(min(values), max(values))

    def x(i: int) -> float:
        return x0 + (x1 - x0) * (i / (steps - 1) if steps > 1 else 1)

    def y(value: float) -> float:
        return y0 + (y1 - y0) * (value - low) / (high - low)

    for tick in ticks:
        at = y(tick)
        parts.append(
            f'<path d="M{x0} {at:.1f}H{x1:.1f}" stroke="{TEXT}" stroke-opacity=".14" fill="none"/>'
        )
        parts.append(text(x0 - 5, at + 3.5, number(tick), anchor="end", colour=FAINT, size=10))
    low_right = str(steps) if steps > 1 else "step 1"
    parts.append(text(x1, height - 4, low_right, anchor="end", colour=FAINT, size=10))
    if steps > 1:
        parts.append(text(x0, height - 4, "step 1", colour=FAINT, size=10))

    wanted = {name: y(points[-1][1]) for name, points in lines.items()}
    places = _spread(wanted, y1 + 4, y0)
    numbers = {name: k for k, name in enumerate(series)}
    for name, points in lines.items():
        k = numbers[name]
        colour, dash = COLOURS[k % len(COLOURS)], DASHES[k % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash and many else ""
        parts.append(
            f'<path d="{_path(points, usable[name], x, y)}" stroke="{colour}" stroke-width="1.8" '
            f'stroke-linejoin="round" stroke-linecap="round" fill="none"{dashed}/>'
        )
        end_x, end_y = x(points[-1][0]), y(points[-1][1])
        parts.append(f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="2.6" fill="{colour}"/>')
        if abs(places[name] - end_y) > 3 or end_x < x1 - 2:  # lead from the line to its label
            parts.append(
                f'<path d="M{end_x + 3:.1f} {end_y:.1f}L{x1 + 7:.1f} {places[name]:.1f}" '
                f'stroke="{colour}" stroke-opacity=".5" fill="none"/>'
            )
        parts.append(text(x1 + 9, places[name] + 3.5, labels[name]))
    summary = "; ".join(f"{name} {end}" for name, end in ends.items())
    return document(parts, width, height, f"{title} after {steps} steps: {summary}")


def _usable(value: float) -> float:
    """Return the value, or nan for a gap; extreme floats would overflow the scale."""
    if not abs(value) <= _HUGE:
        return math.nan
    return float(value) if abs(value) >= 1 / _HUGE else 0.0


def _last(values: Sequence[float]) -> float:
    """Return the last value that is a number."""
    return next(v for v in reversed(values) if math.isfinite(v))


def _path(
    points: list[tuple[int, float]],
    values: Sequence[float],
    x: Callable[[int], float],
    y: Callable[[float], float],
) -> str:
    """Return the line through the points, with gaps where values are missing."""
    drawn, before = [], None
    for i, value in points:
        gap = before is None or any(math.isnan(v) for v in values[before + 1 : i])
        drawn.append(f"{'M' if gap else 'L'}{x(i):.1f} {y(value):.1f}")
        before = i
    return "".join(drawn)


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Return the ends of the axis and the ticks."""
    if high - low < 1e-9 * max(abs(high), abs(low), 1e-300):
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    if low > 0 and low < 0.6 * high:
        low = 0.0  # what shrinks towards nothing shows it
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [i * step for i in range(first, last + 1)]


def _spread(wanted: Mapping[str, float], top: float, bottom: float) -> dict[str, float]:
    """Return positions of the labels, without overlap, near the wanted ones."""
    order = sorted(wanted, key=lambda name: wanted[name])
    gap = min(_LABEL_HEIGHT, (bottom - top) / max(1, len(order) - 1))
    placed: dict[str, float] = {}
    for i, name in enumerate(order):
        above = placed[order[i - 1]] + gap if i else top
        placed[name] = max(wanted[name], above)
    below = bottom
    for name in reversed(order):
        placed[name] = min(placed[name], below)
        below = placed[name] - gap
    return placed
