"""Makes the image at the top of README: three edits by the embedded model, as it recommends.

    python docs/images/make_hero.py

Three kinds of tasks were chosen; their seeds are the first that were kept for tests.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from dragwidget import DragCanvas, DragSession
from dragwidget.bench.scenes import to_image
from dragwidget.demo.tasks import DragTask, sample_tasks

OUT = Path(__file__).with_name("hero.jpg")
FIRST_SEED = 950_000
KINDS = ("turn", "mouth", "sun")
PANEL, GAP = 270, 8  # pixels: side of a panel, between two


def panels(session: DragSession, task: DragTask) -> list[Image.Image]:
    """Return the source, what is asked of it, and the result."""
    source = to_image(task.source)
    canvas = DragCanvas(source, mask_opacity=0.4)
    canvas.instructions = task.instructions
    session.set_image(source, task.instructions.prompt)
    count = sum(1 for _ in session.drag(task.instructions))
    print(f"{task.kind} {task.seed}: {count} steps, {session.ended}", flush=True)
    return [source, canvas.snapshot(2 * PANEL), session.render()]


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Return the rows below each other."""
    step = PANEL + GAP
    page = Image.new("RGB", (step * len(rows[0]) - GAP, step * len(rows) - GAP), "white")
    for i, row in enumerate(rows):
        for k, image in enumerate(row):
            panel = image.convert("RGB").resize((PANEL, PANEL), Image.Resampling.LANCZOS)
            page.paste(panel, (k * step, i * step))
    return page


def main() -> None:
    """Make it."""
    torch.set_num_threads(1)
    session = DragSession.from_pretrained("critters", device="cpu")
    tasks = sample_tasks(FIRST_SEED, len(KINDS), KINDS)
    page = sheet([panels(session, task) for task in tasks])
    page.save(OUT, quality=92, subsampling=0)


if __name__ == "__main__":
    main()
