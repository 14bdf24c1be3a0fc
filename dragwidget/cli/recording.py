"""Report an edit on the command line: bars, timings, the log; and handle Ctrl-C."""

from __future__ import annotations

import json
import platform
import signal
import threading
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from dragwidget import __version__
from dragwidget.cli.bars import Bars
from dragwidget.cli.inputs import Files
from dragwidget.progress import Progress
from dragwidget.storage.atomic import write_json

if TYPE_CHECKING:
    from dragwidget.drag.loop import DragStep
    from dragwidget.session.session import DragSession

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow")


class Interruption:
    """Ctrl-C, kept until ``check``: between two passes of the network it breaks nothing.

    A second one that comes before that is raised at once.
    """

    def __init__(self) -> None:
        self._wanted = False
        self._previous: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._wanted:
            raise KeyboardInterrupt
        self._wanted = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._wanted:
            self._wanted = False
            raise KeyboardInterrupt


class Recorder:
    """Shows and times the progress of a session, and raises KeyboardInterrupt after Ctrl-C.

    Attributes:
        seconds: spent in each phase.
        lora_losses: of every LoRA step.
    """

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.interruption = Interruption()
        self.seconds: dict[str, float] = {}
        self.lora_losses: list[float] = []
        self._since = perf_counter()

    def __call__(self, progress: Progress) -> None:
        self.lap(progress.phase)
        if progress.phase == "lora" and progress.loss is not None:
            self.lora_losses.append(progress.loss)
        self.bars(progress)
        self.interruption.check()

    def lap(self, phase: str) -> None:
        """Add the time since the last call to a phase."""
        now = perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


def write_log(
    path: Path, session: DragSession, recorder: Recorder, ended: str, files: Files
) -> None:
    """Write what was done in an edit, as JSON; ``ended`` is why the drag was over."""
    from dragwidget.session.source import styles_of

    model, request = session.model, session.request
    content = {
        "format": "dragwidget.log",
        "version": 1,
        "versions": {
            "dragwidget": __version__,
            "python": platform.python_version(),
            **_versions(),
        },
        "system": platform.platform(),
        "image": str(files.source),
        "edited": str(files.image),
        "model": {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "conversions": list(request.image.metadata.conversions),
        "size": request.image.size,
        "fitted_size": request.image.fitted_size,
        "instructions": request.instructions and json.loads(request.instructions.to_json()),
        "settings": request.settings.to_dict(),
        "lora": session.lora and session.lora.summary,
        "styles": [
            {"lora": style.summary, "weight": weight} for style, weight in styles_of(request)
        ],
        "seconds": {phase: round(spent, 3) for phase, spent in recorder.seconds.items()},
        "lora_losses": recorder.lora_losses,
        "steps": [_as_data(step) for step in dragged(session)],
        "ended": ended,
    }
    write_json(path, content)


def _versions() -> dict[str, str]:
    """The versions of the LIBRARIES that are here: an edit does not need peft."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def dragged(session: DragSession) -> list[DragStep]:
    """The steps of a session so far; none where its image is not inverted yet."""
    return [] if session.edit is None else list(session.edit.history)


def _as_data(step: DragStep) -> dict[str, Any]:
    return {
        "index": step.index,
        "loss": step.loss,
        "loss_terms": dict(step.loss_terms),
        "handles_xy": step.handles_xy.tolist(),
        "distances": step.distances.tolist(),
        "reached": step.reached.tolist(),
    }
