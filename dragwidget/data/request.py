"""``EditRequest``: everything that is asked of one image, as one frozen value.

Notebook, command line and files make one; the session holds one; its stages derive from it what
they are made by; code, logs and journals of an edit are written from it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from dragwidget.data.frames import lost_cells
from dragwidget.data.image import SourceImage
from dragwidget.data.instructions import DragInstructions, check_prompt
from dragwidget.data.quoting import quoted
from dragwidget.data.settings import DragSettings, Settings


class LoRAWeights(Protocol):
    """What is known here of a LoRA's weights: two with one digest are the same."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        ...


Styles: TypeAlias = tuple[tuple[LoRAWeights, float], ...]
"""LoRAs that change the model, in this order, each with how strongly it is applied."""


@dataclass(frozen=True, eq=False)
class EditRequest:
    """Everything that an edit of one image depends on. Immutable; equal and hashed by content.

    The prompt of the instructions, which their files carry, is always the request's.

    Args:
        image: the image to edit, fitted to the model; ``DragSession.set_image`` and
            ``source_image`` make it.
        prompt: what the image shows; may be empty.
        lora: the weights of a LoRA to use; ``None``: one is trained as ``settings.lora`` says,
            which may be none.
        instructions: what to drag, in pixels of the image as it was given; ``None``: nothing yet.
        settings: the settings of every stage.
        styles: LoRAs that change the model itself, each with its weight, any finite number; what
            is trained or given as ``lora`` comes on top of them.

    Raises:
        TypeError: a value of the wrong kind.
        ValueError: a prompt that is not valid text, instructions for an image of another size.

    Examples:
        >>> import numpy as np
        >>> from dragwidget.data.image import source_image
        >>> request = EditRequest(source_image(np.zeros((64, 64, 3), np.uint8)), prompt="a fox")
        >>> request.replace(prompt="a red fox").prompt
        'a red fox'
    """

    image: SourceImage
    prompt: str = ""
    lora: LoRAWeights | None = None
    instructions: DragInstructions | None = None
    settings: Settings = field(default_factory=Settings)
    styles: Styles = ()

    def __post_init__(self) -> None:
        _check(self.image, SourceImage, "the image", "source_image() reads and fits one")
        check_prompt(self.prompt)
        if self.lora is not None:
            _check_weights(self.lora)
        object.__setattr__(self, "styles", tuple(map(_checked_style, self.styles)))
        _check(self.settings, Settings, "settings")
        drawn = self.instructions
        if drawn is not None:
            _check(drawn, DragInstructions, "instructions")
            if drawn.size != self.image.size:
                (width, height), size = drawn.size, self.image.size
                raise ValueError(
                    f"the instructions are for an image of {width} x {height}, this one is "
                    f"{size[0]} x {size[1]} (width x height): draw them on this image"
                )
            if drawn.prompt != self.prompt:
                object.__setattr__(self, "instructions", drawn.with_prompt(self.prompt))

    def replace(self, **changes: Any) -> EditRequest:
        """Return the same with the named fields changed, validated again; the prompt stays."""
        return dataclasses.replace(self, **changes)

    def drawn(self, instructions: DragInstructions) -> EditRequest:
        """Return the same with these instructions, and with their prompt if they have one."""
        _check(instructions, DragInstructions, "instructions")
        prompt = instructions.prompt or self.prompt
        return self.replace(instructions=instructions, prompt=prompt)

    def to_drag(
        self, instructions: DragInstructions | None, settings: DragSettings | None
    ) -> EditRequest:
        """Return the same with what is given; RuntimeError where there is nothing to drag."""
        request = self if instructions is None else self.drawn(instructions)
        if settings is not None:
            request = request.replace(settings=dataclasses.replace(request.settings, drag=settings))
        if request.instructions is None:
            raise RuntimeError("nothing to drag: pass DragInstructions with at least one pair")
        return request

    def steered(self, now: EditRequest) -> EditRequest:
        """Return the same with all of ``now`` that a drag under way can take.

        That is what is drawn on this very image, and the settings of drag and render.
        """
        if now.image is not self.image:  # one that is chosen again is a new start
            return self
        drag, render = now.settings.drag, now.settings.render
        return self.replace(
            instructions=now.instructions or self.instructions,
            settings=dataclasses.replace(self.settings, drag=drag, render=render),
        )

    def mask_growth(self, vae_factor: int) -> int:
        """Return how many latent cells are editable only because the mask is thinner than one.

        ``vae_factor``: pixels of the fitted image on the side of a cell.
        """
        mask = None if self.instructions is None else self.instructions.mask
        if mask is None:
            return 0
        width, height = self.image.fitted_size
        cells = (height // vae_factor, width // vae_factor)
        return int(lost_cells(mask, self.settings.drag.grid(height, width), cells).sum())

    @property
    def style_digests(self) -> tuple[tuple[str, float], ...]:
        """The digest and the weight of each of ``styles``."""
        return tuple((style.digest, weight) for style, weight in self.styles)

    def _content(self) -> tuple[Any, ...]:
        lora = None if self.lora is None else self.lora.digest
        made_by = self.image, self.prompt, lora, self.style_digests
        return *made_by, self.instructions, self.settings

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EditRequest):
            return NotImplemented
        return self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())


def _check_weights(lora: object) -> None:
    if not isinstance(getattr(lora, "digest", None), str):
        raise TypeError(
            f"the LoRA must be its weights, got {quoted(lora)}: load_lora() reads a file"
        )


def _checked_style(style: Any) -> tuple[LoRAWeights, float]:
    if not isinstance(style, (tuple, list)) or len(style) != 2:
        raise TypeError(f"styles must be pairs of a LoRA and its weight, got {quoted(style)}")
    lora, weight = style
    _check_weights(lora)
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not math.isfinite(weight):
        raise ValueError(
            f"the weight of a LoRA must be a number, 1 for its full strength, got {quoted(weight)}"
        )
    return lora, float(weight)


def _check(value: object, kind: type, name: str, advice: str = "") -> None:
    if not isinstance(value, kind):
        end = f": {advice}" if advice else ""
        raise TypeError(f"{name} must be {kind.__name__}, got {type(value).__name__}{end}")
