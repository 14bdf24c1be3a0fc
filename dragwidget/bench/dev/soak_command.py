"""``dragwidget bench soak``: does memory grow while one edit goes on and on?"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial

from tqdm import tqdm

from dragwidget.bench.dev.soak import Reading, drawn, round_of_session, soak
from dragwidget.bench.memory import give_back_at_once
from dragwidget.bench.options import add_json
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.data.instructions import DragInstructions
from dragwidget.demo.tasks import drag_task
from dragwidget.diffusion.loading import load_model
from dragwidget.session.session import DragSession
from dragwidget.storage.atomic import write_json

MB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=positive, default=500, help="rounds of move, drag, render, rewind"
    )
    parser.add_argument("--every", type=positive, default=50, help="rounds between two readings")
    parser.add_argument("--steps", type=positive, default=2, help="drag steps of each round")
    parser.add_argument(
        "--inversion-steps", type=positive, default=8, help="DDIM steps of the inversion"
    )
    parser.add_argument("--widget", action="store_true", help="through DragWidget, without a page")
    parser.add_argument("--model", default="critters", help="which model")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ..")
    add_json(parser, "all readings")


def run(args: argparse.Namespace) -> int:
    """Soak, print a table, write the readings."""
    with bad_input():
        give_back_at_once()
        task = drag_task("turn", 0)
        session = DragSession(load_model(args.model, device=args.device))
        inversion = replace(session.settings.inversion, steps=args.inversion_steps)
        session.settings = replace(session.settings, inversion=inversion)
    base = task.instructions
    session.set_image(task.source.permute(1, 2, 0).numpy(), base.prompt)
    through_session = nullcontext(partial(round_of_session, session, base, args.steps))
    way = _through_widget(session, base, args.steps) if args.widget else through_session
    with way as one_round, tqdm(total=args.rounds, disable=None) as bar:
        device = session.model.device
        readings = list(soak(session, one_round, args.rounds, args.every, device, bar.update))
    sys.stdout.write(table(readings) + "\n")
    about = {
        "through": "DragWidget" if args.widget else "DragSession",
        "steps": args.steps,
        "inversion_steps": args.inversion_steps,
        "readings": [asdict(reading) for reading in readings],
    }
    write_json(args.json, about)
    return 0


def table(readings: Sequence[Reading]) -> str:
    """A line for each reading; the first is the end of the warm-up, with which all are compared."""
    lines = ["rounds    held, MB    of it history, MB    the rest against the first    seconds"]
    first = readings[0].held - readings[0].history
    for reading in readings:
        rest = (reading.held - reading.history) / first - 1
        lines.append(
            f"{reading.rounds:6} {reading.held / MB:11.1f} {reading.history / MB:20.1f} "
            f"{rest:+29.2%} {reading.seconds:10.0f}"
        )
    return "\n".join(lines)


@contextmanager
def _through_widget(
    session: DragSession, base: DragInstructions, steps: int
) -> Iterator[Callable[[int], None]]:
    """As in a kernel: a worker does the work, and every step is written down."""
    from dragwidget.ui.widget import DragWidget

    with tempfile.TemporaryDirectory() as folder:
        widget = DragWidget(session, instructions=base, clock="thread", journal=folder)

        def one_round(number: int) -> None:
            widget.instructions = drawn(base, number)
            widget.run(steps)  # and a render, when it is over
            widget.wait()
            widget.rewind(min(number % 3, len(session.history)))
            widget.wait()  # for its preview

        try:
            yield one_round
        finally:
            widget.close()
