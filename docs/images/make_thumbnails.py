"""Makes README's thumbnails of the tutorials, each from a figure that its notebook holds.

python docs/images/make_thumbnails.py
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "tutorials"
WIDTH, SHAPE = 220, 1.8  # pixels; width over height at least: what is below is cut off
# Which figure of the notebook, counted from 0; -1 is the last.
FIGURES = {
    "01_quickstart": 2,
    "02_how_it_works": 0,
    "03_edit_your_image": 1,
    "04_ablations": 0,
    "05_toolkit": 0,
}


def figures(notebook: Path) -> list[bytes]:
    """Return the images that a notebook's cells have put out, as files, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        base64.b64decode("".join(data))
        for cell in cells
        for output in cell.get("outputs", [])
        for kind, data in output.get("data", {}).items()
        if kind in ("image/png", "image/jpeg")
    ]


def thumbnail(figure: bytes) -> Image.Image:
    """Return the upper part of a figure, reduced."""
    with Image.open(io.BytesIO(figure)) as opened:
        image = opened.convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, round(image.width / SHAPE))))
    size = WIDTH, round(image.height * WIDTH / image.width)
    return image.resize(size, Image.Resampling.LANCZOS)


def main() -> None:
    """Make all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, number in FIGURES.items():
        image = thumbnail(figures(ROOT / "notebooks" / f"{name}.ipynb")[number])
        image.save(FOLDER / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
