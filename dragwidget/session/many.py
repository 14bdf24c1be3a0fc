"""``run_many``: many edits, on any executor, one row each."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from dragwidget.data.frames import XY
from dragwidget.data.paths import user_path
from dragwidget.data.request import EditRequest
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.loading import LoadOptions
from dragwidget.session.executors import Outcome, check_executor, completed, describe, opened
from dragwidget.session.session import DragSession
from dragwidget.session.workers import ModelName, passes, shared_model
from dragwidget.storage.image_files import write_image

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Made = tuple["EditRow", Image.Image | None]
_worker = threading.local()


@dataclass(frozen=True)
class EditRow:
    """What became of one request; plain data, ``dataclasses.asdict`` of it is JSON.

    Attributes:
        index: the request's place among the requests, from 0.
        error: why it failed, in one line; empty where it did not. Then what follows is empty too.
        image: path of the edited image; empty where none was asked for.
        ended: why the drag ended: ``"reached"``, ``"step limit"``, ``"not moving"``,
            ``"denoised"``.
        steps: drag steps.
        handles_xy: where each handle is by the tracker, image pixels.
        distance: mean distance of these from their targets, image pixels.
        passes: forward passes of the network; a batch is one.
        seconds: wall time by phase: prepare (LoRA and inversion), drag, render.
        attempts: how often it was begun; more than 1 where a worker was lost.
    """

    index: int
    error: str = ""
    image: str = ""
    ended: str = ""
    steps: int = 0
    handles_xy: tuple[XY, ...] = ()
    distance: float | None = None
    passes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    attempts: int = 1


@dataclass(frozen=True, eq=False)
class EditResult:
    """An edit from its start to its render.

    Attributes:
        image: the final render, at the source's size.
        handles_xy: (N, 2), where each handle is by the tracker, image pixels.
        ended: why the drag ended; ``steps``, ``passes``, ``seconds``: as in ``EditRow``.
    """

    image: Image.Image
    handles_xy: npt.NDArray[np.float64]
    ended: str
    steps: int
    passes: int
    seconds: dict[str, float]


def run_edit(session: DragSession) -> EditResult:
    """Do from its start all that a session is asked for: LoRA, inversion, drag, render.

    Raises:
        RuntimeError: there is no image, or nothing to drag.
    """
    seconds, before, started = {}, passes(), time.perf_counter()

    def lap(phase: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[phase], started = now - started, now

    session.prepare()
    session.reset()  # an earlier edit on the same inversion has its own history
    lap("prepare")
    last = None
    for last in session.drag():
        pass
    lap("drag")
    image = session.render()
    lap("render")
    drawn = session.instructions
    assert drawn is not None  # or there had been nothing to drag
    return EditResult(
        image=image,
        handles_xy=drawn.handles_xy if last is None else last.handles_xy,
        ended=str(session.ended),
        steps=len(session.history),
        passes=passes() - before,
        seconds=seconds,
    )


def run_many(
    requests: Iterable[EditRequest],
    executor: Executor | str | None = None,
    *,
    model: str | os.PathLike[str] | Backbone = "critters",
    folder: str | os.PathLike[str] | None = None,
    retries: int = 2,
    **options: Unpack[LoadOptions],
) -> Iterator[EditRow]:
    """Do many edits; yield a row for each as soon as it is there, which is in any order.

    A request that fails is a row with its error. A worker that dies costs what it was doing a
    retry, or a row with an error. Each worker has one session, so that requests in a row for the
    same image share its LoRA and inversion.

    Args:
        requests: each with instructions; an iterator is drawn from as workers get free.
        executor: ``None``: in this thread, one after the other. ``"threads:N"``,
            ``"processes:N"``, ``"dask://host:port"``; or any executor of the form of
            ``concurrent.futures``. A script that uses processes needs ``if __name__ ==
            "__main__":``, as Python says.
        model: what ``load_model`` takes; each process loads it once. A loaded model is shared with
            threads; other processes load the same by its name.
        folder: where to write edited images, ``0000.png`` and so on by index; made if need be.
        retries: how often a request is run again whose worker was lost.
        options: options of ``load_model``, where ``model`` is a name.

    Returns:
        An iterator over the rows.

    Raises:
        ImportError: a package that the executor's address needs is missing.
        TypeError: ``executor`` is not an executor.
        ValueError: no address of an executor; the model was not loaded by name.

    Examples:
        >>> list(run_many([]))
        []
    """
    check_executor(executor)
    if isinstance(model, str | os.PathLike):
        name = ModelName(os.fspath(model), tuple(sorted(options.items())))
    elif options:
        raise ValueError(f"the model is loaded, so it takes no {', '.join(options)}")
    else:
        name = ModelName.of(model)
    place = None if folder is None else user_path(folder)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    work = partial(_edit, model=name, run=uuid.uuid4().hex, wants_image=place is not None)
    return _rows(work, requests, executor, retries, place)


def _rows(
    work: Callable[[EditRequest], _Made],
    requests: Iterable[EditRequest],
    executor: Executor | str | None,
    retries: int,
    folder: Path | None,
) -> Iterator[EditRow]:
    with opened(executor) as pool:
        for outcome in completed(work, requests, pool, retries=retries):
            yield _row(outcome, folder)
    vars(_worker).clear()  # where this thread was the worker


def _row(outcome: Outcome[EditRequest, _Made], folder: Path | None) -> EditRow:
    """Return the row of an outcome, its image written."""
    if outcome.result is None:
        return EditRow(outcome.index, outcome.error, attempts=outcome.attempts)
    row, image = outcome.result
    row = replace(row, index=outcome.index, attempts=outcome.attempts)
    if folder is None or image is None:
        return row
    path = folder / f"{outcome.index:04}.png"
    try:
        write_image(image, path)
    except (OSError, ValueError) as error:
        return EditRow(outcome.index, describe(error), attempts=outcome.attempts)
    return replace(row, image=str(path))


def _edit(request: EditRequest, *, model: ModelName, run: str, wants_image: bool) -> _Made:
    """Do one edit, in a worker."""
    if not isinstance(request, EditRequest):
        raise TypeError(f"a request must be EditRequest, got {type(request).__name__}")
    if request.instructions is None:
        raise ValueError("the request has no instructions: EditRequest(image, instructions=..)")
    made = run_edit(_session(request, model, run))
    far = np.linalg.norm(made.handles_xy - request.instructions.targets_xy, axis=1)
    row = EditRow(
        index=0,  # not known here
        ended=made.ended,
        steps=made.steps,
        handles_xy=tuple((float(x), float(y)) for x, y in made.handles_xy),
        distance=float(far.mean()),
        passes=made.passes,
        seconds=made.seconds,
    )
    return row, made.image if wants_image else None


def _session(request: EditRequest, name: ModelName, run: str) -> DragSession:
    """Return this worker's session with the request; another image starts another session."""
    model = shared_model(name)
    last, session = getattr(_worker, "session", ("", None))
    if (
        session is None
        or last != run
        or session.model is not model
        or session.request.image.digest != request.image.digest
    ):
        session = DragSession(model)
        _worker.session = run, session
    session.request = request
    return session
