"""``dragwidget bench widget``: what the widget takes of a core, and of a drag."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import median

from tqdm import tqdm

from dragwidget.bench.options import add_json
from dragwidget.data.bad_input import bad_input, positive
from dragwidget.data.instructions import DragInstructions
from dragwidget.demo.tasks import drag_task
from dragwidget.diffusion.loading import load_model
from dragwidget.editor.work import PreviewRateLimiter, dragging
from dragwidget.session.session import DragSession
from dragwidget.storage.atomic import write_json
from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.widget import DragWidget


@dataclass(frozen=True)
class Share:
    """What a part of the widget takes.

    Attributes:
        share: of one core while a hand moves; of a drag alone, by which the drag takes longer.
    """

    what: str
    share: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="seconds of each pointer movement"
    )
    parser.add_argument("--rate", type=float, default=60.0, help="pointer moves per second")
    parser.add_argument(
        "--rounds", type=positive, default=5, help="drags with and without the widget"
    )
    parser.add_argument("--steps", type=positive, default=80, help="steps of each drag")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    with bad_input():
        for name in ("seconds", "rate"):
            if getattr(args, name) <= 0:
                raise ValueError(f"--{name} must be more than 0, got {getattr(args, name)}")
    task = drag_task("turn", 0)
    image, base = task.source.permute(1, 2, 0).numpy(), task.instructions
    shares = []
    for tool in ("points", "brush"):
        canvas = DragCanvas(image, tool=tool)
        shares.append(Share(f"hand, {tool}", _hand(canvas, args.seconds, args.rate)))
        canvas.close()
    session = DragSession(load_model("critters", device="cpu"))
    drag = replace(session.settings.drag, steps=args.steps, start="inverted", stop_distance=1e-3)
    session.settings = replace(session.settings, drag=drag)
    session.set_image(image, base.prompt)
    shares += _drags(session, base, args.rounds, args.steps)
    lines = [f"{one.what:<40}{one.share:8.1%}" for one in shares]
    sys.stdout.write("\n".join(lines) + "\n")
    about = {"rate": args.rate, "steps": args.steps, "shares": [asdict(one) for one in shares]}
    write_json(args.json, about)
    return 0


def _hand(canvas: DragCanvas, seconds: float, rate: float) -> float:
    """Return the share of one core, all threads, while a hand moves round without a page."""
    x, y = canvas.viewport.to_canvas((64.0, 64.0))
    canvas.on_mouse_down(x, y)
    started, cpu_started = time.perf_counter(), time.process_time()
    for number in range(round(seconds * rate)):
        angle = number / rate * math.tau
        canvas.on_mouse_move(x + 60 * math.cos(angle), y + 60 * math.sin(angle))
        time.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    canvas.on_mouse_up(x, y)
    return cpu / wall


def _drags(session: DragSession, base: DragInstructions, rounds: int, steps: int) -> list[Share]:
    """How much longer a drag takes with previews, and with all of the widget, round by round."""
    session.instructions = base
    session.prepare()
    widget = DragWidget(
        session, instructions=base, clock="thread", journal=False, render_when_done=False
    )
    without, with_previews = "without", "drag, previews"

    def drag(limiter: PreviewRateLimiter) -> None:
        for _ in dragging(session, steps, limiter=limiter):
            pass

    def never() -> PreviewRateLimiter:
        limiter = PreviewRateLimiter(interval=math.inf)
        limiter.took(0.0)
        return limiter

    def through_widget() -> None:
        widget.run(steps)
        widget.wait()

    ways: dict[str, Callable[[], None]] = {
        without: lambda: drag(never()),
        with_previews: lambda: drag(PreviewRateLimiter()),
        "drag, the whole widget": through_widget,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tqdm(total=(rounds + 1) * len(ways), disable=None) as bar:
        for number in range(rounds + 1):
            for name, way in ways.items():
                session.rewind(0)
                started = time.perf_counter()
                way()
                if number:  # the first one warms up
                    seconds[name].append(time.perf_counter() - started)
                bar.update()
    widget.close()
    alone = median(seconds.pop(without))
    return [Share(name, median(laps) / alone - 1) for name, laps in seconds.items()]
