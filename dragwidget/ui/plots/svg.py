"""Pieces of SVG text in the fonts and colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dragwidget.ui.styles import FONT, TEXT, escape

# Round letters that lie over a line, in the colour of what is behind.
_HALO = "paint-order:stroke;stroke:var(--jp-layout-color1,#fff);stroke-width:3px;"


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    colour: str = TEXT,
    size: int = 11,
    weight: int = 400,
    halo: bool = False,
) -> str:
    """Return text at (x, y), its baseline, pixels; digits have one width."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" xml:space="preserve" '
        f'style="fill:{colour};font:{weight} {size}px {FONT};font-variant-numeric:tabular-nums;'
        f'{_HALO if halo else ""}">{escape(words)}</text>'
    )


def number(value: float, unit: str = "") -> str:
    """Return a number with about three digits."""
    size = abs(value)
    if value == 0:
        words = "0"
    elif size >= 100_000 or size < 0.001:
        digits, power = f"{value:.1e}".split("e")
        words = f"{digits.removesuffix('.0')}e{int(power)}"
    else:
        words = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
        words = words.rstrip("0").rstrip(".") if "." in words else words
    return f"{words} {unit}" if unit else words


def document(parts: Sequence[str], width: int, height: int, summary: str) -> str:
    """Return an SVG element; ``summary`` describes it for screen readers."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="dragwidget-plot" role="img" '
        f'aria-label="{escape(summary)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="max-width:100%">'
        f"<title>{escape(summary)}</title>{''.join(parts)}</svg>"
    )
