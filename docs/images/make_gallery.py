"""Makes the gallery: one edit of each kind of task by the embedded model, as it recommends.

    python docs/images/make_gallery.py

The seeds are the first that were kept for tests; none was chosen by its result. Prints the table of
the page, with the completion that the evaluator of the domain finds.
"""

from __future__ import annotations

from pathlib import Path

import torch
from make_hero import FIRST_SEED, panels, sheet

from dragwidget import DragSession
from dragwidget.bench.scenes import score, to_image, to_tensor
from dragwidget.demo.tasks import TASK_KINDS, sample_tasks

OUT = Path(__file__).with_name("gallery.jpg")


def main() -> None:
    """Make it."""
    torch.set_num_threads(1)
    session = DragSession.from_pretrained("critters", device="cpu")
    rows, lines = [], []
    for task in sample_tasks(FIRST_SEED, len(TASK_KINDS), TASK_KINDS):
        row = panels(session, task)
        found = score(task, to_tensor(row[2]))[0]
        share = "no fit" if found.fit_failed else f"{found.completion:.2f}"
        steps = len(session.history.path()) - 1
        lines.append(f"| `{task.kind}` | {task.seed} | {len(task.points)} | {steps} | {share} |")
        rows.append([*row, to_image(task.target)])
    sheet(rows).save(OUT, quality=88, subsampling=0)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
