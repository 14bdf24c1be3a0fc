"""Makes the images of the widget from screenshots that the tests in a browser take.

    DRAGWIDGET_SCREENSHOTS=DIR pytest tests/browser
    python docs/images/make_states.py DIR

Writes ``widget.png`` (a run that is paused), ``narrow.png`` and ``states.png``, all states side by
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
    shapes = [screenshots[name].size for name in STATES]
    height = max(round(height * WIDTH / width) for width, height in shapes)
    rows = -(-len(STATES) // COLUMNS)
    width = GAP + COLUMNS * (WIDTH + GAP)
    page = Image.new("RGB", (width, GAP + rows * (LINE + height + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for k, (name, label) in enumerate(STATES.items()):
        left, top = GAP + k % COLUMNS * (WIDTH + GAP), GAP + k // COLUMNS * (LINE + height + GAP)
        pen.text((left, top), label, "#222222", font)
        image = screenshots[name]
        size = WIDTH, round(image.height * WIDTH / image.width)
        page.paste(image.resize(size, Image.Resampling.LANCZOS), (left, top + LINE))
    return page


def main(folder: Path) -> None:
    """Make all three."""
    screenshots = {
        name: Image.open(folder / "widget" / f"{name}.png").convert("RGB")
        for name in {*STATES, "narrow"}
    }
    made = {
        "widget": screenshots["paused"],
        "narrow": screenshots["narrow"],
        "states": states(screenshots).quantize(256),  # it is large, and its panels are small
    }
    for name, image in made.items():
        image.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
