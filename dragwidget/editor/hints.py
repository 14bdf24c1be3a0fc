"""The hint for a newcomer: what to do next, in one sentence that depends on where the edit is."""

from __future__ import annotations

from dataclasses import dataclass

from dragwidget.editor.runner import State

BY_COLOURS = (
    "Selected by colours: the network is at work. For its features, select again after that."
)


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a hint depends on.

    Attributes:
        state: of the runner.
        pairs: how many are drawn.
        has_mask: whether a mask is drawn.
        is_prepared: whether LoRA and inversion are ready for a drag.
        index: the current step.
        is_rendered: whether the current step has its final render.
        may_draw: whether the canvas can be drawn on.
        by_colours: whether something was selected by colours because the network was at work.
    """

    state: State = "idle"
    pairs: int = 0
    has_mask: bool = False
    is_prepared: bool = False
    index: int = 0
    is_rendered: bool = False
    may_draw: bool = True
    by_colours: bool = False

    @property
    def may_drift(self) -> bool:
        """Whether a drag changes the whole image, and a mask of the part is to be offered."""
        return self.pairs > 0 and not self.has_mask and self.may_draw


def hint(situation: Situation) -> str:
    """Return what to do next."""
    if situation.by_colours:
        return BY_COLOURS
    match situation.state:
        case "running":
            return "You can draw while it runs: the next step takes it."
        case "stopping":
            return "The step in progress ends first."
        case "paused":
            return "Move a target or paint, then press Run to continue, or Step for one step."
    if not situation.pairs:
        return "Draw an arrow from what should move to where it should go."
    if situation.is_rendered:
        return "Move a target and press Run to drag on, or save the image under Export."
    if situation.index:
        return "Press Run to drag on, or Render for the final image."
    if situation.may_drift:
        return "Press Run. Without a mask the whole image may drift."
    if not situation.is_prepared:
        return "Press Run: it prepares the model for this image first, then it drags."
    return "Press Run to drag."
