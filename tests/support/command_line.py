"""What the tests of the command line share."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

QUICK = {
    "inversion": {"steps": 4, "strength": 0.5},
    "lora": {"steps": 2, "rank": 1, "batch_size": 1},
    "drag": {"steps": 3, "feature_blocks": [2], "tracking_radius": 0},  # so nothing ever arrives
}
PAIR = ("--pair", "20,20:40,24")


def write_inputs(folder: Path) -> Path:
    """An image (64 x 48), a mask and quick settings."""
    rows, columns = np.mgrid[0:48, 0:64]
    image = np.stack([rows * 5, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    Image.fromarray(image).save(folder / "fox.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[8:40, 8:56] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "quick.json").write_text(json.dumps(QUICK))
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def told(stderr: str) -> list[str]:
    """The lines on stderr, without the warning that a tiny model's autoencoder is poor."""
    poor = re.compile(r"dragwidget: The autoencoder of .* reproduces this image poorly")
    return [line for line in stderr.splitlines() if not poor.match(line)]
