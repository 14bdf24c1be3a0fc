"""``DragSession``: one picture being edited, with everything expensive kept.

    picture -> LoRA -> inversion -> drag -> render

Each arrow is a stage that is made on demand, once, and kept with what made it (``stages``). Moving
a point costs one pass of the network; another prompt makes LoRA and inversion stale.

Work that takes long comes in two forms: a plain verb runs it (``prepare``, ``render``), its -ing
form is a generator of ``Progress`` for whoever drives it step by step (``preparing``,
``rendering``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt
from PIL import Image

from dragwidget.diffusion.attention import ReferenceBranch
from dragwidget.diffusion.finetuning import noised_batches, train_lora
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import LoRA, load_lora
from dragwidget.diffusion.model import DiffusionModel
from dragwidget.drag.loop import DragStep, Ended
from dragwidget.dragging import Dragging
from dragwidget.history import History, Node
from dragwidget.instructions import DragInstructions
from dragwidget.picture import read_picture
from dragwidget.rendering import referencing, rendering
from dragwidget.settings import DragSettings, Settings
from dragwidget.source import Generation, Inversion, Source, generating, inverting
from dragwidget.stages import Cancelled, Monitor, Progress, Shelf, StageStatus

__all__ = ["Cancelled", "DragSession"]


class DragSession:
    """An edit of one picture.

    Attributes:
        monitor: reports progress after every pass of the network, and cancels.
        ended: why the last drag was over, or ``None`` while it can go on.
    """

    def __init__(
        self, model: DiffusionModel, *, progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.model = model
        self.monitor = Monitor(progress)
        self.ended: Ended | None = None
        self._settings = model.recommended
        self._source: Source | None = None
        self._instructions: DragInstructions | None = None
        self._loras: Shelf[LoRA] = Shelf(4)
        # What was dragged is the user's own work, and small: an inversion and its history stay.
        self._edits: Shelf[Dragging] = Shelf(1000)
        self._references: Shelf[ReferenceBranch] = Shelf(1)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "critters",
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> DragSession:
        """A session on a model by name, folder, hub id or checkpoint; options as ``load_model``."""
        return cls(load_model(name, **options), progress=progress)

    # What is edited, and how

    def set_image(
        self,
        image: Image.Image | str | os.PathLike[str] | npt.NDArray[Any],
        prompt: str = "",
        *,
        max_side: int | None = None,
        multiple: int | None = None,
    ) -> None:
        """Choose the picture; what was drawn on another one is put aside.

        Args:
            image: a Pillow image, a path, or an array (H, W, 3), uint8 or floats in 0..1.
            prompt: what it shows.
            max_side: longest side that the model works at, pixels; by default what it was
                trained on, and smaller pictures are stretched to that too. Results come back at
                the picture's own size.
            multiple: both sides that the model works at are multiples of this, pixels; by default
                what every level of its network divides evenly.
        """
        picture = read_picture(
            image,
            multiple=multiple or self.model.picture_multiple,
            max_side=max_side or self.model.picture_side,
            min_side=self.model.picture_side,
        )
        self._source = Source.of(picture, prompt)
        self._instructions = None
        self.ended = None

    def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        guidance_scale: float = 7.5,
        seed: int = 0,
        size: tuple[int, int] | None = None,
    ) -> Image.Image:
        """Make a picture from text and choose it; it needs neither LoRA nor inversion.

        Args:
            guidance_scale: of classifier-free guidance; the drag and the render use it too.
            size: (width, height), pixels; by default what the model was trained on, square.
        """
        self.monitor.start()
        side = self.model.picture_side
        generation = Generation(
            prompt,
            negative_prompt,
            guidance_scale,
            seed,
            size or (side, side),
            self.settings.inversion.steps,
        )
        source = self.monitor.run(generating(self.model, generation))
        self._source, self._instructions, self.ended = source, None, None
        return self.image

    @property
    def source(self) -> Source:
        """The picture being edited, and where it comes from."""
        if self._source is None:
            raise RuntimeError("there is no picture yet: set_image() or generate() first")
        return self._source

    @property
    def image(self) -> Image.Image:
        """The picture as it was given."""
        return Image.fromarray(self.source.picture.original)

    @property
    def prompt(self) -> str:
        """What the picture shows."""
        return self.source.prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self._source = replace(self.source, prompt=prompt)

    @property
    def settings(self) -> Settings:
        """How every stage works; the model's recommendation until it is set."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.model.check(settings)
        self._settings = settings

    @property
    def instructions(self) -> DragInstructions | None:
        """What the user drew. Setting it during a drag steers the next step."""
        return self._instructions

    @instructions.setter
    def instructions(self, instructions: DragInstructions) -> None:
        self.source.check(instructions)
        if instructions.prompt and instructions.prompt != self.prompt:
            self.prompt = instructions.prompt
        self._instructions = instructions

    def use_lora(self, lora: LoRA | str | os.PathLike[str] | None) -> None:
        """Use a LoRA that was trained before, as weights or a file; ``None``: train one again."""
        if lora is not None and not isinstance(lora, LoRA):
            lora = load_lora(lora, self.model.unet)
        self._source = replace(self.source, lora=lora)

    # Stages

    @property
    def status(self) -> dict[str, StageStatus]:
        """For each stage, whether it can be used as it is, and if not, why."""
        source, settings = self.source, self.settings
        off = source.why_no_lora(settings)
        lora = StageStatus("off", off) if off else self._loras.status(source.lora_key(settings))
        return {
            "lora": lora if source.lora is None else StageStatus("fresh", "the one that was given"),
            "inversion": self._edits.status(source.inversion_key(settings)),
            "reference": self._references.status(source.reference_key(settings)),
        }

    def prepare(self) -> None:
        """Make LoRA and inversion now, where they are not fresh; otherwise on demand."""
        self.monitor.start()
        self.monitor.run(self.preparing())

    def preparing(self) -> Generator[Progress, None, Inversion]:
        """Make LoRA and inversion where they are not fresh."""
        lora = yield from self.training_lora()
        source, settings = self.source, self.settings
        key = source.inversion_key(settings)
        edit = self._edits.get(key)
        if edit is None:
            inversion = yield from inverting(self.model, source, settings, lora)
            edit = self._edits.put(key, Dragging(inversion))
        return edit.inversion

    def train_lora(self) -> LoRA | None:
        """Train the LoRA now, if it is wanted and not fresh; ``save_lora`` keeps it in a file."""
        self.monitor.start()
        return self.monitor.run(self.training_lora())

    def training_lora(self) -> Generator[Progress, None, LoRA | None]:
        """Train the LoRA, if it is wanted and not fresh."""
        if self.source.lora is not None or self.source.why_no_lora(self.settings):
            return self.source.lora
        key, settings = self.source.lora_key(self.settings), self.settings.lora
        if (made := self._loras.get(key)) is not None:
            return made
        batches = noised_batches(self.model, self.source.picture.pixels, settings)
        embeddings = self.model.embed(self.prompt)
        lora = None
        for step in train_lora(self.model, embeddings, batches, settings):
            lora = step.lora
            yield Progress("lora", step.index, settings.steps, step.loss)
        assert lora is not None
        return self._loras.put(key, lora)

    def invert(self) -> Inversion:
        """Invert the picture now, with its LoRA, if that is not fresh."""
        self.monitor.start()
        return self.monitor.run(self.preparing())

    # The drag

    def drag(
        self,
        instructions: DragInstructions | None = None,
        settings: DragSettings | None = None,
        steps: int | None = None,
    ) -> Generator[DragStep, None, Ended]:
        """Go on from the current latent, step by step; what is not given stays as it was.

        A pair whose handle was drawn before goes on from where its handle is now; a new handle
        means the place in the picture as it is now. Between two steps ``instructions`` may be set
        anew.

        Args:
            steps: at most so many; by default ``settings.steps``.

        Raises:
            RuntimeError: there is no picture, or nothing was drawn on it.
            ValueError: instructions for a picture of another size.
        """
        if instructions is not None:
            self.instructions = instructions
        if self._instructions is None:
            raise RuntimeError("nothing to drag: pass DragInstructions with at least one pair")
        if settings is not None:
            self.settings = replace(self.settings, drag=settings)
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.monitor.start()
        return self._drag(steps)

    def _drag(self, steps: int | None) -> Generator[DragStep, None, Ended]:
        self.monitor.run(self.preparing())
        edit = self._edit()
        total = steps or self.settings.drag.steps
        self.ended = None
        for index in range(1, total + 1):
            assert self._instructions is not None
            self.ended = edit.ended(self._instructions, self.settings.drag)
            if self.ended:
                return self.ended
            step = edit.advance(self._instructions, self.settings.drag)
            self.monitor.report(Progress("drag", index, total, step.loss))
            yield step
        assert self._instructions is not None
        self.ended = edit.ended(self._instructions, self.settings.drag) or "step limit"
        return self.ended

    def step(self, n: int = 1) -> DragStep | None:
        """Drag ``n`` steps on; return the last, or ``None`` where there was nothing left to do."""
        return self.run(steps=n)

    def run(self, steps: int | None = None) -> DragStep | None:
        """Drag on to the end, or ``steps`` at most; return the last step."""
        last = None
        for last in self.drag(steps=steps):
            pass
        return last

    @property
    def edits(self) -> list[Dragging]:
        """All edits of this picture: one for each prompt and settings it was inverted with."""
        return [edit for edit in self._edits if edit.inversion.source.digest == self.source.digest]

    @property
    def history(self) -> History:
        """The steps so far, and every branch; empty before the picture was inverted."""
        return self._edit().history

    def rewind(self, k: int) -> None:
        """Go back (or forth) to step ``k`` of this branch; 0 is the start."""
        self.history.rewind(k)
        self.ended = None

    def reset(self) -> None:
        """Go back to the start; what was dragged stays in the history."""
        self.history.go_to(0)
        self.ended = None

    # Pictures

    def render(self, step: int | None = None) -> Image.Image:
        """The picture as it is now, or at step ``step`` of this branch, at its own size: exact."""
        self.monitor.start()
        return self.monitor.run(self.rendering(step))

    def rendering(self, step: int | None = None) -> Generator[Progress, None, Image.Image]:
        """Denoise the latent beside the source picture's own pass, which is made once."""
        inversion = yield from self.preparing()
        node, settings = self._node(step), self.settings
        key = self.source.reference_key(settings)
        branch = self._references.get(key)
        if branch is None:
            branch = self._references.put(key, (yield from referencing(inversion, settings.render)))
        frozen = None
        if settings.render.keep_frozen and self._instructions is not None:
            frozen = self._edit().frozen(self._instructions, settings.drag)
        latent = yield from rendering(inversion, node.latent, branch, settings.render, frozen)
        return self.source.picture_of(self.model.decode(latent))

    def preview(self, step: int | None = None) -> Image.Image:
        """The picture as it is now, or at a step of this branch: quick and approximate.

        The source, changed by how the network's first guess at the clean latent has changed: at
        most one pass of the network in place of one for each denoising step.
        """
        self.monitor.start()
        inversion = self.monitor.run(self.preparing())
        change = self._edit().change(self._node(step), self.settings.drag)
        return self.source.picture_of(self.model.decode(inversion.latents[0] + change))

    # Running and keeping

    def restore(
        self, source: Source, edits: Sequence[Dragging], instructions: DragInstructions | None
    ) -> None:
        """Take over a picture with its edits, such as an archive holds."""
        self._source, self._instructions, self.ended = source, instructions, None
        for edit in edits:
            made = edit.inversion
            self._edits.put(made.source.inversion_key(made.settings), edit)
            if made.lora is not None and made.source.lora is None:
                self._loras.put(made.source.lora_key(made.settings), made.lora)

    def cancel(self) -> None:
        """Stop what is running, from another thread: it raises ``Cancelled`` after this pass."""
        self.monitor.cancel()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file: picture, instructions, settings, stages, history."""
        from dragwidget import archive

        archive.save(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: DiffusionModel | None = None, **options: Any
    ) -> DragSession:
        """A session from what ``save`` wrote, on the model named there or on ``model``."""
        from dragwidget import archive

        return archive.load(path, model, **options)

    def _edit(self) -> Dragging:
        """The drag on the present inversion; an earlier one comes back with its history."""
        edit = self._edits.get(self.source.inversion_key(self.settings))
        if edit is None:
            raise RuntimeError("the picture is not inverted yet: prepare() or drag() first")
        for other in self._edits:
            if other is not edit:
                other.release()
        return edit

    def _node(self, step: int | None) -> Node:
        history = self.history
        return history.current if step is None else history.at(step)
