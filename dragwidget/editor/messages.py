"""All sentences of the status line, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dragwidget.drag.method import Ended
from dragwidget.drag.tracking import low_confidence

if TYPE_CHECKING:
    from dragwidget.editor.work import Report

PHASES = {
    "lora": "Training the LoRA",
    "inversion": "Inverting the image",
    "generation": "Generating the image",
    "load": "Loading the model",
    "drag": "Dragging",
    "reference": "Recording the reference branch",
    "render": "Rendering",
    "preview": "Preview",
}

MESSAGES = {
    "start": "Ready.",
    "prepared": "LoRA and inversion are ready. Press Run to drag.",
    "generated": "The image is made. Draw an arrow on it.",
    "loaded": "Loaded {model}. Press Run to drag with it.",
    "loaded another": "Loaded {model}. Steps made with {before} are kept: load it to return.",
    "not loaded": "The model was not loaded; {model} stays in use.",
    "stepped": "Step {index} done. Press Step or Run to continue.",
    "rendered": "Final render of step {index}.",
    "ended": "{Reason}.",
    "doubtful": "Targets reached, but confidence is low at {handles}: content may be lost there.",
    "step limit": "{Reason}. Press Run to continue.",
    "not moving": "{Reason}. Move a target, or change the settings.",
    "denoised": "{Reason}. Go back to drag on, or render.",
    "pausing": "Pausing after the step in progress.",
    "paused": "Paused at step {index}. Press Run or Step to continue.",
    "paused within": "Paused: {work}, {done} of {total}. Press Run to continue.",
    "stopping": "Stopping.",
    "waiting": "Waiting for the step in progress to end; then: {then}.",
    "stopped": "Stopped at step {index}. All finished steps are kept.",
    "cancelled": "{name} cancelled. Everything finished before is kept.",
    "not finite": "{name} failed: a value is not finite (NaN). Everything finished before is kept.",
    "failed": "{name} failed. Everything finished before is kept.",
    "at": "At step {index}. Press Run to continue from here.",
    "at the start": "At the start. Press Run to drag.",
    "restored": "Restored at step {index}.",
}


def message(key: str, **values: object) -> str:
    """Return a sentence of the table, filled in."""
    return MESSAGES[key].format(**values)


def ended(why: Ended, reason: str, confidences: Sequence[float] = ()) -> str:
    """Return why a drag is over; ``reason`` as ``Ended.describe`` has it.

    Args:
        confidences: of the handles, where they were checked.
    """
    key = "ended" if why is Ended.REACHED else why.value
    low = low_confidence(confidences)
    if why is Ended.REACHED and low:
        key = "doubtful"
    return message(key, Reason=reason[0].upper() + reason[1:], handles=low)


def progress(report: Report) -> str:
    """Return how far a phase has come, as far as that is known."""
    phase = PHASES.get(report.phase, report.phase)
    return f"{phase}: {report.index} of {report.total}" if report.total else f"{phase}."
