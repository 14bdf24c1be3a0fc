"""Makes the images of the widget from screenshots that the tests in a browser take.

    DRAGWIDGET_SCREENSHOTS=DIR pytest tests/browser
    python docs/images/make_states.py DIR

Writes ``widget.png`` (a run that is paused), ``narrow.png`` and ``states.jpg``, all states side by
side.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent
# Screenshot and what stands above it, in the order in which an edit goes.
STATES = {
    "empty": "empty",
    "drawn": "drawn",
    "preparing": "preparing",
    "running": "running",
    "paused": "paused",
    "rendered": "rendered",
    "error": "an error",
    "dark": "in the dark",
}
COLUMNS, WIDTH, GAP, LINE = 2, 424, 12, 20  # pixels: of a panel, between two, of the line above


def states(screenshots: dict[str, Image.Image]) -> Image.Image:
    """All states, small, side by side."""
    panels = []
    for name, label in STATES.items():
        image = screenshots[name]
        size = WIDTH, round(image.height * WIDTH / image.width)
        panels.append((label, image.resize(size, Image.Resampling.LANCZOS)))
    rows = [panels[k : k + COLUMNS] for k in range(0, len(panels), COLUMNS)]
    heights = [LINE + max(image.height for _, image in row) + GAP for row in rows]
    page = Image.new("RGB", (GAP + COLUMNS * (WIDTH + GAP), GAP + sum(heights)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for k, (label, image) in enumerate(row):
            left = GAP + k * (WIDTH + GAP)
            pen.text((left, top), label, "#222222", font)
            page.paste(image, (left, top + LINE))
        top += height
    return page


def main(folder: Path) -> None:
    """Make all three."""
    screenshots = {
        name: Image.open(folder / "widget" / f"{name}.png").convert("RGB")
        for name in {*STATES, "narrow"}
    }
    screenshots["paused"].save(FOLDER / "widget.png", optimize=True)
    screenshots["narrow"].save(FOLDER / "narrow.png", optimize=True)
    states(screenshots).save(FOLDER / "states.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
