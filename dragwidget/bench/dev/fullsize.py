"""Runs a whole edit on a model's folder, and tells each phase's time and peak beside the estimate.

The model is loaded as a user loads it; a phase ends where a user would see something. What every
phase took is held against ``DragSession.estimate()``, which was asked before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragwidget.bench.memory import Meter, held_memory
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import InversionSettings, LoRASettings, Settings
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.low_memory import Memory
from dragwidget.session.estimate import Estimate
from dragwidget.session.session import DragSession
from dragwidget.ui.widget import DragWidget

PROMPT = "a fox in a field"
# Of the drag. So small that no handle arrives: every step that is asked for is taken and timed.
LEARNING_RATE = 1e-6

# Which phases of the estimate a phase of ours is made of; the others it does not know.
ESTIMATED = {
    "lora": ("encode", "lora"),
    "inversion": ("encode", "inversion"),
    "drag": ("drag",),
    "render": ("reference", "render", "decode"),
}
PHASES = ("load", *ESTIMATED, "preview", "save", "restore", "widget")


@dataclass(frozen=True)
class PhaseRow:
    """What a phase took, and what the estimate said before.

    Attributes:
        seconds: wall time.
        memory: bytes at most: what torch has allocated on CUDA, the resident memory of the process
            over what it had before the model was loaded elsewhere; ``None`` where the system does
            not say.
        estimated_seconds, estimated_memory: ``None`` where the estimate has no such phase.
    """

    phase: str
    seconds: float
    memory: int | None
    estimated_seconds: float | None = None
    estimated_memory: int | None = None

    @property
    def ratio(self) -> float | None:
        """Estimated memory over measured."""
        if not self.memory or self.estimated_memory is None:
            return None
        return self.estimated_memory / self.memory


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a folder is measured.

    Attributes:
        folder: of the model.
        device, dtype, memory: as ``load_model`` has them.
        side: of the image, pixels; ``None``: the model's own.
        steps: of LoRA training, inverted ones of 50, and of the drag.
        batch: of LoRA training.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype
    memory: Memory
    side: int | None
    steps: int
    batch: int

    def settings(self, model: Backbone) -> Settings:
        """Return the model's own settings with few steps."""
        own = model.recommended
        all_steps = InversionSettings().steps
        return replace(
            own,
            inversion=InversionSettings(strength=self.steps / all_steps),
            lora=LoRASettings(steps=self.steps, batch_size=self.batch),
            drag=replace(
                own.drag, steps=self.steps, learning_rate=LEARNING_RATE, stop_distance=1e-3
            ),
        )


def measure(
    run: Run, scratch: Path, begun: Callable[[str], None] = lambda _: None
) -> tuple[list[PhaseRow], Estimate]:
    """Run the whole path; return what each phase took, and the estimate.

    Args:
        scratch: a folder where the session is saved.
        begun: told the name of each phase that is begun.

    Raises:
        RuntimeError: a phase did not do all of its steps.
    """
    meter = Meter(run.device)

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        begun(name)
        held_memory(run.device)  # gives back what the phase before holds no more
        with meter.lap(name):
            yield

    with phase("load"):
        model = load_model(run.folder, device=run.device, dtype=run.dtype, memory=run.memory)
    session = _session(run, model)
    estimate = session.estimate()
    with phase("lora"):
        session.train_lora()
    with phase("inversion"):
        session.prepare()
    with phase("drag"):
        taken = sum(1 for _ in session.drag())
    with phase("render"):
        session.render()
    with phase("preview"):
        session.preview()
    saved = scratch / "session.dragwidget"
    with phase("save"):
        session.save(saved)
    del session
    with phase("restore"):
        session = DragSession.load(saved, model)
    with phase("widget"):
        widget = DragWidget(session, clock="thread", journal=False, render_when_done=False)
        try:
            widget.step()
            widget.wait()
            seen = widget.index
        finally:
            widget.close()
    if (taken, seen) != (run.steps, run.steps + 1):
        raise RuntimeError(
            f"the drag took {taken} steps, and {seen} with the widget's, where {run.steps} and "
            "one more were asked for"
        )
    return [_row(name, meter, estimate) for name in PHASES], estimate


def _session(run: Run, model: Backbone) -> DragSession:
    side = run.side or model.image_side
    session = DragSession(model)
    session.settings = run.settings(model)
    session.set_image(_pixels(side), PROMPT, max_side=side)
    editable = np.zeros((side, side), dtype=bool)
    editable[side // 8 : side - side // 8, side // 8 : side - side // 8] = True
    session.instructions = DragInstructions.from_points(
        ((side * 0.375, side * 0.5), (side * 0.625, side * 0.5)),
        size=(side, side),
        mask=editable,
        prompt=PROMPT,
    )
    return session


def _pixels(side: int) -> NDArray[np.uint8]:
    """An image, (side, side, 3)."""
    ramp = np.linspace(0, 255, side)
    across, down = np.meshgrid(ramp, ramp)
    return np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)


def _row(name: str, meter: Meter, estimate: Estimate) -> PhaseRow:
    lap = meter.laps[name]
    known = [phase for phase in estimate.phases if phase.name in ESTIMATED.get(name, ())]
    each: list[Any] = [phase.seconds for phase in known]
    return PhaseRow(
        name,
        lap.seconds,
        lap.peak,
        sum(each) if each and None not in each else None,
        max((phase.memory for phase in known), default=None),
    )
