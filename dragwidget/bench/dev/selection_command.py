"""``dragwidget bench selection``: select parts of scenes by clicks, against the ground truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from dragwidget.bench.options import add_json
from dragwidget.bench.rows import versions
from dragwidget.bench.scenes import to_image
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.data.frames import XY, BoolArray
from dragwidget.data.selection import select_by_colour
from dragwidget.demo.domain.parts import PARTS, part_masks
from dragwidget.demo.scenes import captions, render, sample_scenes
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.loading import load_model
from dragwidget.session.session import DragSession
from dragwidget.storage.atomic import write_json

Select = Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], BoolArray]

CLICKS = 3
LEAST_SHARE = 0.003  # of the image: what is hidden nearly all is no part that anyone would click
TOLERANCES = tuple(2.0 ** (k / 2) for k in range(-8, 9))  # of which a drag chooses


@dataclass(frozen=True)
class Selected:
    """One part of one scene, selected.

    Attributes:
        by: what told the part from the rest: "features" or "colours".
        dragged: whether each click was dragged to the tolerance that is best, or left at 1.
        overlaps: intersection over union with the ground truth after each click.
    """

    seed: int
    part: str
    by: str
    dragged: bool
    overlaps: tuple[float, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dragwidget bench selection``."""
    parser.add_argument("--model", default="critters", help="as for `edit`")
    parser.add_argument("--seed", type=int, default=970_000, help="seed of the first scene")
    parser.add_argument("--n", type=positive, default=60, help="number of scenes")
    add_json(parser, "write the overlap of every part here")


def run(args: argparse.Namespace) -> int:
    """Select the parts of scenes; print a table."""
    with bad_input():
        model = load_model(args.model)
    seeds = tqdm(range(args.seed, args.seed + args.n), disable=None)
    results = [result for seed in seeds for result in measure(model, seed)]
    sys.stdout.write(table(results) + "\n")
    plain = [asdict(result) for result in results]
    write_json(args.json, {"versions": versions(), "results": plain})
    return 0


def measure(model: Backbone, seed: int) -> Iterator[Selected]:
    """Select every part of a scene, by features and by colours."""
    scene = sample_scenes([seed])
    image = to_image(render(scene)[0])
    session = DragSession(model)
    session.set_image(image, captions(scene)[0])
    session.prepare()
    pixels = np.asarray(image)
    ways: dict[str, Select] = {
        "features": session.select,
        "colours": lambda *clicks: select_by_colour(pixels, *clicks),
    }
    for part, masks in part_masks(scene, image.width).items():
        wanted = masks[0].numpy()
        if np.count_nonzero(wanted) < LEAST_SHARE * wanted.size:
            continue
        for by, select in ways.items():
            for dragged in (False, True):
                tolerances = TOLERANCES if dragged else (1.0,)
                yield Selected(seed, part, by, dragged, clicked(select, wanted, tolerances))


def clicked(select: Select, wanted: BoolArray, tolerances: Sequence[float]) -> tuple[float, ...]:
    """Click where the selection is most wrong; return the overlap after each click.

    Every click takes the tolerance, of those given, whose selection is best.
    """
    points: list[XY] = []
    labels: list[bool] = []
    factors: list[float] = []
    found, overlaps = np.zeros_like(wanted), []
    for _ in range(CLICKS):
        if (found != wanted).any():
            xy, is_on = next_click(found, wanted)
            points.append(xy)
            labels.append(is_on)
            tried = [select(points, np.array(labels), [*factors, t]) for t in tolerances]
            best = int(np.argmax([_overlap(mask, wanted) for mask in tried]))
            found = tried[best]
            factors.append(tolerances[best])
        overlaps.append(_overlap(found, wanted))
    return tuple(overlaps)


def next_click(found: BoolArray, wanted: BoolArray) -> tuple[XY, bool]:
    """Return where one would click next, and whether that is on the thing.

    At first that is the middle of the thing; then the place farthest inside what is wrong.
    """
    if not found.any():
        rows, columns = np.nonzero(wanted)
        middle = (round(float(columns.mean())), round(float(rows.mean())))
        if wanted[middle[1], middle[0]]:
            return middle, True
    left, deep = np.pad(found != wanted, 1), np.zeros(np.add(wanted.shape, 2), dtype=int)
    while left.any():
        deep += left
        left = left & np.roll(left, 1, 0) & np.roll(left, -1, 0)
        left = left & np.roll(left, 1, 1) & np.roll(left, -1, 1)
    row, column = np.unravel_index(int(deep[1:-1, 1:-1].argmax()), wanted.shape)
    return (float(column), float(row)), bool(wanted[row, column])


def _overlap(found: BoolArray, wanted: BoolArray) -> float:
    return float(np.count_nonzero(found & wanted) / np.count_nonzero(found | wanted))


def table(results: Sequence[Selected]) -> str:
    """Return the mean overlaps after the first and the last click, for a terminal."""
    scenes = len({result.seed for result in results})
    lines = [f"intersection over union after 1 and {CLICKS} clicks, {scenes} scenes"]
    lines.append(" " * 30 + "".join(f"{part:>14}" for part in (*PARTS, "mean")))
    for by in ("features", "colours"):
        for dragged in (True, False):
            chosen = [r for r in results if (r.by, r.dragged) == (by, dragged)]
            groups = [[r.overlaps for r in chosen if r.part == part] for part in PARTS]
            means = [np.mean(group, axis=0) for group in groups if group]
            cells = "".join(f"{m[0]:8.2f}{m[-1]:6.2f}" for m in (*means, np.mean(means, axis=0)))
            how = "dragged to the best" if dragged else "tolerance 1"
            lines.append(f"{by + ', ' + how:<30}{cells}")
    return "\n".join(lines)
