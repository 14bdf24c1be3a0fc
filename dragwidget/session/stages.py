"""The stages of an edit, made: each on demand, once, and kept with what made it.

Whoever drives this may be asked for something else while a stage is being made, by another thread
or between two reports. So everything is told what to make a stage of, and reads it nowhere else:
what is kept was made by exactly its key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from dragwidget.data.frames import XY, lost_cells
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import RenderSettings, Settings
from dragwidget.diffusion.attention import ReferenceBranch
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.lora.training import FixedNoiseLoss, LoRAStep, noised_batches, train_lora
from dragwidget.diffusion.model import DiffusionModel
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.progress import Key, Progress, Shelf, StageStatus
from dragwidget.session.cached_stages import (
    find_inversion,
    find_lora,
    find_reference,
    find_training,
    keep_inversion,
    keep_lora,
    keep_reference,
    keep_training,
)
from dragwidget.session.edit import Edit
from dragwidget.session.history import Node
from dragwidget.session.rendering import referencing, rendering
from dragwidget.session.source import (
    Inversion,
    Source,
    TrainedLoRA,
    conditioning,
    inversion_from,
    inverting,
)
from dragwidget.storage.cache import Store

__all__ = ["Asked", "Stages"]

MEASURED_EVERY = 10  # steps of a LoRA training that may end early
CHECKPOINT_SECONDS = 20.0  # of LoRA training that a killed process may lose


@dataclass(frozen=True, eq=False)
class Asked:
    """What a session is asked for; replaced as a whole, so that no thread ever sees half of it."""

    settings: Settings
    image: Source | None = None
    instructions: DragInstructions | None = None

    @property
    def source(self) -> Source:
        """The image, which there must be."""
        if self.image is None:
            raise RuntimeError("there is no image yet: set_image() or generate() first")
        return self.image

    def drawn(self, instructions: DragInstructions) -> Asked:
        """The same with these instructions, and with their prompt if they have one."""
        self.source.check(instructions)
        prompt = instructions.prompt or self.source.prompt
        image = replace(self.source, prompt=prompt)
        return replace(self, image=image, instructions=instructions)

    def mask_growth(self, vae_factor: int) -> int:
        """Latent cells that are editable only because the mask is thinner than one there."""
        drawn = self.instructions
        if drawn is None or drawn.mask is None:
            return 0
        width, height = self.source.image.fitted_size
        cells = (height // vae_factor, width // vae_factor)
        return int(lost_cells(drawn.mask, self.settings.drag.grid(height, width), cells).sum())


class Stages:
    """The stages of a session's edits.

    Args:
        check: called between any two passes of the network that report no progress, such as those
            of one drag step; it may raise to stop the work.
        store: where stages are looked for, and kept for other sessions.

    Attributes:
        loras: the ones that were trained last.
        edits: inversions, with all that was dragged on them.
        references: the source image's own pass, of the last render.
    """

    def __init__(
        self, model: DiffusionModel, check: Callable[[], None], store: Store | None = None
    ) -> None:
        self.model = model
        self.store = store
        self.loras: Shelf[TrainedLoRA] = Shelf(4)
        # What was dragged is the user's own work, and small: an inversion and its history stay.
        self.edits: Shelf[Edit] = Shelf(1000)
        self.references: Shelf[ReferenceBranch] = Shelf(1)
        self._check = check
        # Fingerprints that the model has had while this was used, and which of them it has now.
        self._fingerprints: list[str] = []
        self._present = 0
        # The step after which a training was interrupted, and the key of its LoRA.
        self._trained: tuple[Key, LoRAStep] | None = None

    def _by(self, key: Key) -> Key:
        """A stage's key with the weights that it was made by."""
        return (*key, ("the model's weights", self._present))

    def _meet_weights(self) -> int:
        """Notice where the user has changed the model: what was made by others is outdated."""
        fingerprint = self.model.fingerprint
        if fingerprint not in self._fingerprints:
            self._fingerprints.append(fingerprint)
        self._present = self._fingerprints.index(fingerprint)
        return self._present

    def _check_weights(self, present: int) -> None:
        """Raise RuntimeError where the weights are not those that a stage was begun with."""
        if self._meet_weights() != present:
            raise RuntimeError(
                "the model's weights were changed while a stage was made with them, so it is "
                "neither of the old ones nor of the new: start it again"
            )

    def status(self, source: Source, settings: Settings) -> dict[str, StageStatus]:
        """For each stage, whether it can be used as it is, and if not, why."""
        lora = self.loras.status(self._by(source.lora_key(settings)))
        if off := source.why_no_lora(settings):
            lora = StageStatus("off", off)
        if source.lora is not None:
            lora = StageStatus("fresh", "the one that was given")
        reference = self.references.status(self._by(source.reference_key(settings)))
        if not settings.render.needs_reference:
            reference = StageStatus("off", "the render looks at nothing of the source")
        inversion = self.edits.status(self._by(source.inversion_key(settings)))
        return {"lora": lora, "inversion": inversion, "reference": reference}

    def edit(self, source: Source, settings: Settings) -> Edit | None:
        """The drag on this inversion, if it was made; an earlier one comes with its history."""
        return self.edits.get(self._by(source.inversion_key(settings)))

    def keep_edit(self, edit: Edit) -> Edit:
        """Put an edit where what made its inversion will find it."""
        inversion = edit.inversion
        return self.edits.put(self._by(inversion.source.inversion_key(inversion.settings)), edit)

    def keep_lora(self, trained: TrainedLoRA) -> TrainedLoRA:
        """Put a LoRA where what it was trained on and with will find it."""
        return self.loras.put(self._by(trained.source.lora_key(trained.settings)), trained)

    @in_plain_torch
    def training(
        self, source: Source, settings: Settings
    ) -> Generator[Progress, None, LoRA | None]:
        """Train the LoRA, if it is wanted and not there."""
        if source.lora is not None or source.why_no_lora(settings):
            return source.lora
        present = self._meet_weights()
        if made := self.loras.get(self._by(source.lora_key(settings))):
            return made.lora
        lora = find_lora(self.store, self.model, source, settings)
        if lora is None:
            lora = yield from self._training(source, settings)
            self._check_weights(present)
            keep_lora(self.store, self.model, source, settings, lora)
        self._trained = None
        return self.keep_lora(TrainedLoRA(lora, source, settings)).lora

    def _training(self, source: Source, settings: Settings) -> Generator[Progress, None, LoRA]:
        """Train the LoRA, from where this session or another was interrupted."""
        key, last = self._trained or (None, None)
        if last is None or key != self._by(source.lora_key(settings)):
            last = find_training(self.store, self.model, source, settings)
        random = None if last is None else last.random
        batches = noised_batches(self.model, source.image.pixels, settings.lora, random)
        text = conditioning(self.model, source.prompt).prompt
        stops = self._early_stop(source, settings, text)
        if last is not None and stops(last):
            return last.lora
        kept = time.monotonic()
        for step in train_lora(self.model, text, batches, settings.lora, after=last):
            last, self._trained = step, (self._by(source.lora_key(settings)), step)
            if time.monotonic() - kept >= CHECKPOINT_SECONDS:
                keep_training(self.store, self.model, source, settings, step)
                kept = time.monotonic()
            yield Progress("lora", step.index, settings.lora.steps, step.loss)
            if stops(step):
                break
        assert last is not None
        return last.lora

    def _early_stop(
        self, source: Source, settings: Settings, text: Tensor
    ) -> Callable[[LoRAStep], bool]:
        """Return whether a training ends after a step, as ``early_stop_ratio`` asks for."""
        ratio = settings.lora.early_stop_ratio
        if not ratio:
            return lambda _: False
        loss = FixedNoiseLoss(self.model, source.image.pixels, text)

        def stops(step: LoRAStep) -> bool:
            if step.index % MEASURED_EVERY:
                return False
            self._check()
            return loss.ratio(step.lora) <= ratio

        return stops

    @in_plain_torch
    def preparing(self, source: Source, settings: Settings) -> Generator[Progress, None, Edit]:
        """Make LoRA and inversion where they are not there."""
        self._meet_weights()
        edit = self.edit(source, settings)
        for other in self.edits:
            if other is not edit:
                other.release()
        if edit is None:
            lora = yield from self.training(source, settings)
            edit = self.keep_edit(Edit((yield from self._inverting(source, settings, lora))))
        edit.before_pass, edit.store = self._check, self.store
        return edit

    def _inverting(
        self, source: Source, settings: Settings, lora: LoRA | None
    ) -> Generator[Progress, None, Inversion]:
        """Invert the image, or find the inversion; a generated one's way is known."""
        store = self.store if source.generation is None else None
        if latents := find_inversion(store, self.model, source, settings, lora):
            return inversion_from(latents, self.model, source, settings, lora)
        present = self._meet_weights()
        inversion = yield from inverting(self.model, source, settings, lora)
        self._check_weights(present)
        keep_inversion(store, self.model, source, settings, lora, inversion.latents)
        return inversion

    @in_plain_torch
    def rendering(self, asked: Asked, step: int | None) -> Generator[Progress, None, Image.Image]:
        """Denoise a latent beside the source image's own pass, which is made once."""
        edit, node = yield from self._at(asked, step)
        render, protected = asked.settings.render, None
        if render.keep_protected and asked.instructions is not None:
            protected = edit.protected(asked.instructions, asked.settings.drag)
        branch = None
        if render.needs_reference:
            key = self._by(asked.source.reference_key(asked.settings))
            branch = yield from self._referencing(key, edit.inversion, render)
        latent = yield from rendering(
            edit.inversion, node.latent, node.timestep, branch, render, protected
        )
        return asked.source.image_of(self.model.decode(latent))

    def _referencing(
        self, key: Key, inversion: Inversion, render: RenderSettings
    ) -> Generator[Progress, None, ReferenceBranch]:
        """The source image's own pass, walked where it is not there."""
        if made := self.references.get(key):
            return made
        if found := find_reference(self.store, inversion, render):
            return self.references.put(key, found)
        branch = self.references.put(key, (yield from referencing(inversion, render)))
        keep_reference(self.store, inversion, render, branch)
        return branch

    @in_plain_torch
    def previewing(
        self, asked: Asked, step: int | None, *, quick: bool
    ) -> Generator[Progress, None, Image.Image]:
        """Change the image by how the network's first guess at the clean latent has changed."""
        edit, node = yield from self._at(asked, step)
        latent = edit.inversion.latents[0] + edit.change(node, asked.settings.drag)
        self._check()
        decode = edit.inversion.linear_decoder.decode if quick else self.model.decode
        return asked.source.image_of(decode(latent))

    @in_plain_torch
    def similarity(self, asked: Asked, xy: XY) -> dict[int, npt.NDArray[np.float32]]:
        """How like the features under a point are those elsewhere, for every block."""
        edit = self.edit(asked.source, asked.settings)
        if edit is None:
            raise RuntimeError("the image is not inverted yet: prepare() or drag() first")
        width, height = asked.source.image.size
        if not (0 <= xy[0] < width and 0 <= xy[1] < height):
            raise ValueError(f"the point {xy} is outside the image of {width} x {height}")
        blocks = tuple(range(self.model.feature_block_count))
        settings = replace(asked.settings.drag, feature_blocks=blocks)
        return dict(zip(blocks, edit.similarity(xy, settings), strict=True))

    def _at(self, asked: Asked, step: int | None) -> Generator[Progress, None, tuple[Edit, Node]]:
        """The edit, prepared, and where it is to be seen: at ``step``, or where it stands."""
        if step and self.edit(asked.source, asked.settings) is None:
            raise ValueError(f"there is no step {step}: nothing was dragged yet")
        edit = yield from self.preparing(asked.source, asked.settings)
        history = edit.history
        return edit, history.current if step is None else history.at(step)
