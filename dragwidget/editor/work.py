"""The work behind the buttons, as generators of small ``Report``s that any ``Runner`` can drive.

The work may run on another thread than the page's. It uses the request as it was when the work
began, except for points, mask and drag settings, which each step reads.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from dragwidget.drag.method import Ended
from dragwidget.progress import Monitor, Progress

if TYPE_CHECKING:
    from PIL import Image

    from dragwidget.drag.loop import DragStep
    from dragwidget.session.node import Node
    from dragwidget.session.session import DragSession
    from dragwidget.session.switching import Switched

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Report:
    """How far the work has come, and what is new.

    Attributes:
        phase: ``lora``, ``inversion``, ``generation``, ``load``, ``drag``, ``reference``,
            ``render`` or ``preview``.
        index, total: of its steps, ``index`` are done; ``total`` is 0 where it has none.
        node: the node of the history that ``step`` or ``image`` belongs to.
        image: a preview, or the final render.
    """

    phase: str
    index: int
    total: int
    loss: float | None = None
    step: DragStep | None = None
    node: Node | None = None
    image: Image.Image | None = None

    @classmethod
    def of(cls, progress: Progress) -> Report:
        return cls(progress.phase, progress.index, progress.total, progress.loss)


@dataclass(frozen=True, eq=False)
class Rendered:
    """A final render, and the node of the history that it shows."""

    image: Image.Image
    node: Node


class PreviewRateLimiter:
    """Limits how often previews are made, and the share of the time that they take.

    Args:
        interval: minimum time between two previews, seconds.
        share: time of previews over time of drag steps, at most; infinite: no limit.

    Attributes:
        quick: whether previews use the linear decoder, as the autoencoder is too slow.
    """

    def __init__(self, interval: float = 0.5, share: float = 0.1) -> None:
        self.interval, self.share = interval, share
        self.quick = False
        self._due, self._is_asked = 0.0, False

    def ask(self) -> None:
        """Request a preview of the next step, which may be the last before a pause."""
        self._is_asked = True

    def due(self) -> bool:
        """Return whether the next step has a preview."""
        return self._is_asked or monotonic() >= self._due

    def took(self, seconds: float) -> None:
        """Record that a preview took ``seconds``."""
        self._is_asked = False
        self._due = monotonic() + max(self.interval, seconds / self.share)
        self.quick = self.quick or seconds > self.interval / 2


def generating(session: DragSession, prompt: str, seed: int) -> Generator[Report, None, None]:
    """Generate an image from text, and set it, as ``DragSession.generate`` does."""
    from dragwidget.data.request import EditRequest
    from dragwidget.session import source

    session.monitor.start()
    generation = source.asked_generation(session.model, session.settings, prompt, seed=seed)
    made = yield from _reported(source.generating(session.model, generation))
    session.change(lambda: EditRequest(made, prompt, settings=session.settings))


def loading(
    session: DragSession, name: str, max_side: int | None
) -> Generator[Report, None, Switched]:
    """Load a model like the one in use, on its device, and use it for the session's image.

    Args:
        session: the one to be changed, not a fork of it.
    """
    from dragwidget.diffusion.loading import load_model
    from dragwidget.session.switching import use_model

    session.monitor.start()
    yield Report("load", 0, 0)
    now = session.model
    folder = (now.loaded_with or {}).get("cache_dir")
    model = load_model(
        name, device=now.device, dtype=now.dtype, cache_dir=folder, memory=now.memory
    )
    session.monitor.check()
    return use_model(session, model, max_side=max_side)


def preparing(session: DragSession) -> Generator[Report, None, None]:
    """Make LoRA and inversion, where they are not up to date."""
    session.monitor.start()
    for progress in session.preparing():
        yield Report.of(progress)


def dragging(
    session: DragSession,
    steps: int | None = None,
    *,
    limiter: PreviewRateLimiter | None = None,
    render: bool = False,
) -> Generator[Report, None, Ended | Rendered]:
    """Prepare, drag on from the current node, and render the last one if ``render``.

    Args:
        steps: maximum number of steps.
        limiter: for previews; the last step always has one.
    """
    limiter = limiter or PreviewRateLimiter()
    session.monitor.start()
    for progress in session.preparing():
        yield Report.of(progress)
    total = steps or session.settings.drag.steps
    drag = session.drag(steps=steps)
    index, previewed = 0, True
    while True:
        try:
            step = next(drag)
        except StopIteration as over:
            ended: Ended = over.value
            if ended is Ended.REACHED and index:
                session.confidence()  # here, where a pass may take its time; the view shows it
            break
        index += 1
        node = session.history.current
        image = None
        previewed = limiter.due()
        if previewed:
            start, preview = monotonic(), session.previewing(quick=limiter.quick)
            while image is None:  # all is prepared, so it reports nothing
                try:
                    next(preview)
                except StopIteration as over:
                    image = over.value
            limiter.took(monotonic() - start)
        yield Report("drag", index, total, step.loss, step, node, image)
    if render:
        return (yield from rendering(session))
    if not previewed:
        yield from previewing(session)
    return ended


def previewing(
    session: DragSession, step: int | None = None, *, quick: bool = False
) -> Generator[Report, None, None]:
    """Make a preview of the current node, or of a step of its branch."""
    history = session.history
    node = history.current if step is None else history.at(step)
    image = Monitor().run(session.previewing(step, quick=quick))
    yield Report("preview", 1, 1, node=node, image=image)


def looking(session: DragSession, more: Sequence[int] = ()) -> Generator[Report, None, None]:
    """Make a preview of the current node, then quick ones of ``more`` steps of its branch."""
    session.monitor.start()
    yield from previewing(session)
    for step in more:
        yield from previewing(session, step, quick=True)


def rendering(session: DragSession, step: int | None = None) -> Generator[Report, None, Rendered]:
    """Make the final render of the current node, or of a step of its branch."""
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
        yield Report.of(progress)
