"""Makes the images of the settings page, with the embedded model.

    python docs/images/make_settings.py [NAME ...]

Without names all of them; some five minutes on one core. Every strip shows one edit: what was
drawn, the edit with each value of one setting, and the ground truth. All else is as the model
recommends for DragDiffusion, but for ``base``. Look at each: its sentence on the page must be true.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dragwidget import DragCanvas, DragSession, with_method
from dragwidget.bench.scenes import to_image
from dragwidget.cli.inputs import with_changes
from dragwidget.demo.tasks import DragTask, drag_task
from dragwidget.ui.controls.fields import shown

FOLDER = Path(__file__).parent / "settings"
PANEL, GAP, LINE = 160, 6, 24  # pixels: side of a panel, between two, of the line below
ROOM = 10  # shown around the mask, pixels of the image
GAIN = 6  # by which differences are multiplied

Changes = Mapping[str, Mapping[str, Any]]
PAPER_START: Changes = {"drag": {"learning_rate": 0.03}}
WARPED_START: Changes = {"drag": {"start": "warped"}}
ALL_DECODED = {"keep_source_pixels": False}  # or no difference is left outside the mask


@dataclass(frozen=True)
class Strip:
    """One edit with several values of a setting.

    Attributes:
        task: kind and seed.
        values: what stands below each panel, and the changes.
        base: changes that hold for all of them; by default ``PAPER_START``.
        show: the edit about the mask; all of it; or how far it is from the source.
    """

    task: tuple[str, int]
    values: Mapping[str, Changes]
    base: Changes | None = None
    show: Literal["mask", "all", "difference"] = "mask"


def of(stage: str, name: str, *values: Any) -> dict[str, Changes]:
    """Several values of one setting, by the words of the widget."""
    return {shown(value): {stage: {name: value}} for value in values}


TURN, MOUTH, MOUNTAIN = ("turn", 900_026), ("mouth", 900_100), ("mountain", 900_102)

STRIPS = {
    "strength": Strip(TURN, of("inversion", "strength", 0.2, 0.35, 0.5, 0.7), WARPED_START),
    "inversion_steps": Strip(TURN, of("inversion", "steps", 4, 10, 50), WARPED_START),
    "start": Strip(TURN, of("drag", "start", "inverted", "warped")),
    "drag_steps": Strip(MOUTH, of("drag", "steps", 5, 10, 20, 40)),
    "learning_rate": Strip(MOUTH, of("drag", "learning_rate", 0.003, 0.01, 0.03, 0.1)),
    "feature_blocks": Strip(
        MOUTH, {f"block {k}": {"drag": {"feature_blocks": (k,)}} for k in (0, 1, 2, 3)}
    ),
    "region_weight": Strip(
        MOUTH,
        of("drag", "region_weight", 0.0, 0.1, 1.0),
        {**PAPER_START, "render": {"keep_protected": False, **ALL_DECODED}},
        show="difference",
    ),
    "keep_protected": Strip(
        MOUTH,
        of("render", "keep_protected", False, True),
        {"drag": {**PAPER_START["drag"], "region_weight": 0.0}, "render": ALL_DECODED},
        show="difference",
    ),
    "mutual_self_attention": Strip(
        TURN,
        of("render", "mutual_self_attention", False, True),
        {
            "inversion": {"strength": 0.7},
            "render": {"keep_protected": False, **ALL_DECODED},
            **WARPED_START,
        },
        show="difference",
    ),
    "lora_steps": Strip(
        TURN,
        of("lora", "steps", 0, 80),
        {"inversion": {"strength": 0.7}, **WARPED_START},
    ),
}


def together(*changes: Changes) -> Changes:
    """Changes of the same stages, later ones last."""
    made: dict[str, dict[str, Any]] = {}
    for change in changes:
        for stage, values in change.items():
            made[stage] = {**made.get(stage, {}), **values}
    return made


def edits(session: DragSession, strip: Strip, task: DragTask) -> list[Image.Image]:
    """The task's image, dragged with each of the values."""
    source = to_image(task.source)
    recommended = session.model.recommended
    base = with_method(recommended, "dragdiffusion")
    base = replace(base, inversion=recommended.inversion)
    images = []
    for label, changes in strip.values.items():
        session.settings = with_changes(
            base, together(PAPER_START if strip.base is None else strip.base, changes)
        )
        session.set_image(source, task.instructions.prompt)
        count = sum(1 for _ in session.drag(task.instructions))
        images.append(session.render())
        print(f"  {label}: {count} steps, {session.ended}", flush=True)
    return images


def window(task: DragTask) -> tuple[int, int, int, int]:
    """A square about the mask: left, top, right, bottom."""
    mask = task.instructions.mask
    assert mask is not None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    side = min(max(np.ptp(rows), np.ptp(columns)) + 2 * ROOM, *mask.shape)
    left, top = (
        int(np.clip((line[0] + line[-1] - side) / 2, 0, length - side))
        for line, length in ((columns, mask.shape[1]), (rows, mask.shape[0]))
    )
    return left, top, left + int(side), top + int(side)


def difference(edit: Image.Image, source: Image.Image) -> Image.Image:
    """How far an edit is from the source, black where it is the same."""
    far = np.abs(np.asarray(edit).astype(int) - np.asarray(source)).max(-1)
    return Image.fromarray(np.clip(GAIN * far, 0, 255).astype(np.uint8)).convert("RGB")


def panels(strip: Strip, task: DragTask, edited: list[Image.Image]) -> list[Image.Image]:
    """What was drawn, the edits, and the ground truth, each of the same part."""
    source, truth = to_image(task.source), to_image(task.target)
    canvas = DragCanvas(source, mask_opacity=0.4)
    canvas.instructions = task.instructions
    drawn = canvas.snapshot(1024)
    if strip.show == "difference":
        edited = [difference(image, source) for image in edited]
        truth = difference(truth, source)
    box = window(task) if strip.show == "mask" else (0, 0, *source.size)
    scale = drawn.width / source.width
    left, top, right, bottom = (round(scale * place) for place in box)
    drawn = drawn.crop((left, top, right, bottom))
    parts = [drawn, *(image.crop(box) for image in (*edited, truth))]
    return [part.resize((PANEL, PANEL), Image.Resampling.LANCZOS) for part in parts]


def sheet(images: list[Image.Image], labels: list[str]) -> Image.Image:
    """Images in a row with a line of text below each."""
    width = len(images) * (PANEL + GAP) - GAP
    page = Image.new("RGB", (width, PANEL + LINE), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        left = k * (PANEL + GAP)
        page.paste(image, (left, 0))
        pen.text((left + PANEL / 2, PANEL + LINE / 2), label, "#222222", font, anchor="mm")
    return page


def main(names: list[str]) -> None:
    """Make the strips with these names; all, where there are none."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    session = DragSession.from_pretrained("critters", device="cpu")
    for name in names or STRIPS:
        print(name, flush=True)
        strip = STRIPS[name]
        task = drag_task(*strip.task)
        images = panels(strip, task, edits(session, strip, task))
        labels = ["drawn", *strip.values, "ground truth"]
        sheet(images, labels).save(FOLDER / f"{name}.jpg", quality=92, subsampling=0)


if __name__ == "__main__":
    main(sys.argv[1:])
