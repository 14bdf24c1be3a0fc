"""The work behind the buttons, as generators of small ``Report``s that any ``Runner`` can drive.

All of it may run on another thread than the page. A session is asked for nothing here that it was
not asked for when the work was begun, but for points, mask and drag settings, which the next step
takes as they are then.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from PIL import Image

    from dragwidget.drag.loop import DragStep
    from dragwidget.drag.method import Ended
    from dragwidget.progress import Progress
    from dragwidget.session.history import Node
    from dragwidget.session.session import DragSession

__all__ = [
    "Pace", "Rendered", "Report", "dragging", "looking", "preparing", "previewing", "rendering",
]  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Report:
    """How far the work has come, and what is new.

    Attributes:
        phase: ``lora``, ``inversion``, ``generation``, ``drag``, ``reference``, ``render`` or
            ``preview``.
        index, total: of its steps, ``index`` are done.
        node: the node of the history that ``step`` or ``image`` belongs to.
        image: a preview, or the exact image at the end of a render.
    """

    phase: str
    index: int
    total: int
    loss: float | None = None
    step: DragStep | None = None
    node: Node | None = None
    image: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class Rendered:
    """An exact image, and the place in the history that it shows."""

    image: Image.Image
    node: Node


class Pace:
    """When the next preview is due: often enough to see, and never much of the time.

    Args:
        interval: seconds from one to the next, at least.
        share: of the drag's own time that previews may add; infinite: whatever they take.

    Attributes:
        quick: the autoencoder was too slow for this, so they are drawn without it.
    """

    def __init__(self, interval: float = 0.5, share: float = 0.1) -> None:
        self.interval, self.share = interval, share
        self.quick = False
        self._due = 0.0

    def due(self) -> bool:
        return monotonic() >= self._due

    def took(self, seconds: float) -> None:
        self._due = monotonic() + max(self.interval, seconds / self.share)
        self.quick = self.quick or seconds > self.interval / 2


def preparing(session: DragSession) -> Generator[Report, None, None]:
    """LoRA and inversion, where they are not fresh."""
    session.monitor.start()
    yield from _reported(session.preparing())


def dragging(
    session: DragSession,
    steps: int | None = None,
    *,
    pace: Pace | None = None,
    render: bool = False,
) -> Generator[Report, None, Ended | Rendered]:
    """Prepare, drag on from where the edit stands, and, if asked for, render the end.

    Args:
        steps: at most so many.
        pace: of previews; the last step has one in any case.
    """
    pace = pace or Pace()
    yield from preparing(session)
    total = steps or session.settings.drag.steps
    drag = session.drag(steps=steps)
    index, previewed = 0, True
    while True:
        try:
            step = next(drag)
        except StopIteration as over:
            ended: Ended = over.value
            break
        index += 1
        node = session.history.current
        image = None
        previewed = pace.due()
        if previewed:
            image = _timed_preview(session, pace)
        yield Report("drag", index, total, step.loss, step, node, image)
    if render:
        return (yield from rendering(session))
    if not previewed:
        yield from previewing(session)
    return ended


def _timed_preview(session: DragSession, pace: Pace) -> Image.Image:
    start = monotonic()
    image = _finished(session.previewing(quick=pace.quick))
    pace.took(monotonic() - start)
    return image


def previewing(
    session: DragSession, step: int | None = None, *, quick: bool = False
) -> Generator[Report, None, None]:
    """An approximate image of the place where the edit stands, or of a step of its branch."""
    history = session.history
    node = history.current if step is None else history.at(step)
    image = _finished(session.previewing(step, quick=quick))
    yield Report("preview", 1, 1, node=node, image=image)


def looking(session: DragSession, more: Sequence[int] = ()) -> Generator[Report, None, None]:
    """Make a preview of where the edit stands, then quick ones of ``more`` steps of its branch."""
    session.monitor.start()
    yield from previewing(session)
    for step in more:
        yield from previewing(session, step, quick=True)


def rendering(session: DragSession, step: int | None = None) -> Generator[Report, None, Rendered]:
    """The exact image of the place where the edit stands, or of a step of its branch."""
    session.monitor.start()
    work = session.rendering(step)
    image: Image.Image = yield from _reported(work)
    history = session.history
    node = history.current if step is None else history.at(step)
    yield Report("render", 1, 1, node=node, image=image)
    return Rendered(image, node)


def _reported(work: Generator[Progress, None, T]) -> Generator[Report, None, T]:
    while True:
        try:
            progress = next(work)
        except StopIteration as over:
            result: T = over.value
            return result
        yield Report(progress.phase, progress.index, progress.total, progress.loss)


def _finished(work: Generator[Progress, None, T]) -> T:
    while True:
        try:
            next(work)
        except StopIteration as over:
            result: T = over.value
            return result
