"""Find the samples of a drag benchmark in a folder, in two forms.

DragBench's, at any depth; see ``dragbench``::

    category/sample/original_image.png, meta_data.pkl

and pairs with ground truth, a later frame of the same scene, in a folder each or named alike::

    sample/input.png, gt.png, mask.png, points.json
    sample.input.png, sample.gt.png, sample.mask.png, sample.points.json

``points.json`` is ``{"points": [[x, y], ...]}``, handle and target by turns, in image pixels; a
prompt may stand beside them as ``"prompt"``. Ground truth and mask may be missing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragwidget.data.dragbench import read_dragbench
from dragwidget.data.image_reading import ReadImage, read_image, read_mask
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.paths import user_path

MAX_BYTES = 2**20  # of points.json
_METADATA, _POINTS = "meta_data.pkl", "points.json"


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample that was read.

    image: to be edited. instructions: in its pixels. truth: the ground truth, of the same size;
    ``None``: there is none.
    """

    image: ReadImage
    instructions: DragInstructions
    truth: ReadImage | None = None


@dataclass(frozen=True)
class SampleFiles:
    """Where a sample lies.

    name: its path below the folder. file: its ``meta_data.pkl`` or ``points.json``.
    """

    name: str
    file: Path

    def read(self) -> Sample:
        """Read the sample.

        Raises:
            FileNotFoundError: a file that it must have is missing.
            ValueError: a file is damaged, or they do not fit one another.
        """
        if self.file.name == _METADATA:
            found = read_dragbench(self.file.parent)
            return Sample(read_image(found.image), found.instructions)
        stem = self.file.name.removesuffix(_POINTS)
        image, mask, truth = (
            self.file.with_name(f"{stem}{part}.png") for part in ("input", "mask", "gt")
        )
        read = read_image(image)
        height, width = read.pixels.shape[:2]
        fields = _fields(self.file)
        try:
            instructions = DragInstructions.from_points(
                fields["points"],
                size=(width, height),
                mask=read_mask(mask) if mask.exists() else None,
                prompt=fields.get("prompt", ""),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.file} does not fit its image: {error}") from error
        answer = read_image(truth) if truth.exists() else None
        if answer is not None and answer.pixels.shape != read.pixels.shape:
            raise ValueError(f"{truth} has another size than {image.name}")
        return Sample(read, instructions, answer)


def find_samples(folder: str | os.PathLike[str]) -> list[SampleFiles]:
    """Return the samples in a folder and below it, by name; nothing of them is read yet.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no sample is in it.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found = {}
    for file in (*folder.rglob(_METADATA), *folder.rglob(f"*{_POINTS}")):
        place = file.relative_to(folder)
        stem = place.name.removesuffix(_POINTS).removesuffix(_METADATA).removesuffix(".")
        name = (place.parent / stem).as_posix() if stem else place.parent.as_posix()
        found[name] = SampleFiles(name, file)
    if not found:
        raise ValueError(
            f"{folder} holds no sample: neither {_METADATA} beside original_image.png "
            f"(DragBench), nor {_POINTS} beside input.png"
        )
    return [found[name] for name in sorted(found)]


def _fields(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(fields, dict) or "points" not in fields:
        raise ValueError(f'{path} must hold {{"points": [[x, y], ...]}}')
    return fields
