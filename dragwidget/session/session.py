"""``DragSession``: one image being edited, with everything expensive kept.

    image -> LoRA -> inversion -> drag -> render

Each arrow is a stage that is made on demand, once, and kept with what made it (``making``).

Work that takes long comes in two forms: a plain verb runs it (``prepare``, ``render``), its -ing
form is a generator of ``Progress`` for whoever drives it step by step (``preparing``,
``rendering``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dragwidget.data.frames import XY
from dragwidget.data.image_reading import ImageSource
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.paths import absolute
from dragwidget.data.settings import DragSettings, Settings
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import GivenLoRA, LoRA, given_lora
from dragwidget.diffusion.model import DiffusionModel
from dragwidget.drag.loop import DragStep
from dragwidget.drag.method import Ended
from dragwidget.progress import Cancelled, Monitor, Progress, StageStatus
from dragwidget.session import session_file
from dragwidget.session.domain_check import domain_warning
from dragwidget.session.edit import Edit
from dragwidget.session.estimate import Estimate, estimate
from dragwidget.session.history import History
from dragwidget.session.snapshot import EditSnapshot, Snapshot
from dragwidget.session.source import Call, Generation, Inversion, Source, fitted, generating
from dragwidget.session.stages import Asked, Stages
from dragwidget.storage.cache import Store

__all__ = ["Cancelled", "DragSession"]

T = TypeVar("T")


class DragSession:
    """An edit of one image.

    A call that fails leaves the session as it was before, but for stages and steps that were done.

    Args:
        progress: called with how far the work has come.
        store: where stages are looked for, and kept for other sessions; ``None``: nowhere.

    Attributes:
        monitor: reports progress, and cancels.
        stages: what was made so far, and makes the rest.
        ended: why the last drag was over; ``None`` while it can go on.
    """

    def __init__(
        self,
        model: DiffusionModel,
        *,
        progress: Callable[[Progress], None] | None = None,
        store: Store | None = None,
    ) -> None:
        self.model = model
        self.monitor = Monitor(progress)
        self.stages = Stages(model, self.monitor.check, store)
        self.ended: Ended | None = None
        self._asked = Asked(model.recommended)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "critters",
        *,
        progress: Callable[[Progress], None] | None = None,
        store: Store | None = None,
        **options: Any,
    ) -> DragSession:
        """A session on a model; ``name`` and ``options`` are ``load_model``'s, with its errors.

        Options: ``vae``, ``device``, ``dtype``, ``revision``, ``variant``, ``cache_dir``,
        ``config``, ``prediction_type``, ``memory``.
        """
        return cls(load_model(name, **options), progress=progress, store=store)

    # What is edited, and how

    def set_image(
        self,
        image: ImageSource,
        prompt: str = "",
        *,
        max_side: int | None = None,
        multiple: int | None = None,
    ) -> None:
        """Choose the image; what was drawn on another one is put aside.

        Args:
            image: what ``read_image`` takes; results carry its alpha, EXIF and dpi.
            prompt: what it shows.
            max_side: longest side that the model works at, pixels; by default what it was
                trained on. Smaller images are stretched to it; results have their own size.
            multiple: both sides that the model works at are multiples of this, pixels; by default
                what every level of its network divides evenly.
        """
        path = absolute(image) if isinstance(image, str | os.PathLike) else None
        source = Source.of(fitted(self.model, image, max_side, multiple), prompt)
        self._choose(replace(source, call=Call(path, max_side, multiple)))

    def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        guidance_scale: float = 7.5,
        seed: int = 0,
        size: tuple[int, int] | None = None,
    ) -> Image.Image:
        """Make an image from text and choose it; it needs neither LoRA nor inversion.

        Args:
            guidance_scale: of classifier-free guidance; the drag and the render use it too.
            size: (width, height), pixels; by default what the model was trained on, square.
        """
        size = (self.model.image_side,) * 2 if size is None else size
        steps = self.settings.inversion.steps
        generation = Generation(prompt, negative_prompt, guidance_scale, seed, size, steps)
        self._choose(self._run(generating(self.model, generation)))
        return self.image

    def _choose(self, source: Source) -> None:
        self._asked = Asked(self.settings, source)
        self.ended = None
        for edit in self.edits:  # of the same image, chosen before: a new choice is a new start
            edit.history.go_to(0)

    @property
    def source(self) -> Source:
        """The image being edited, and where it comes from."""
        return self._asked.source

    @property
    def image(self) -> Image.Image:
        """The image as it was given, upright, sRGB, with its alpha (mode RGBA) if it has any."""
        return self.source.pillow

    @property
    def prompt(self) -> str:
        """What the image shows."""
        return self.source.prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self._asked = replace(self._asked, image=replace(self.source, prompt=prompt))

    @property
    def settings(self) -> Settings:
        """How every stage works; the model's recommendation until it is set."""
        return self._asked.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.model.check(settings)
        self._asked = replace(self._asked, settings=settings)

    @property
    def instructions(self) -> DragInstructions | None:
        """What the user drew. Setting it during a drag steers the next step."""
        return self._asked.instructions

    @instructions.setter
    def instructions(self, instructions: DragInstructions) -> None:
        self._asked = self._asked.drawn(instructions)

    def use_lora(self, lora: GivenLoRA, *, alpha: float | None = None) -> None:
        """Use a LoRA that was trained before, as weights or a file; ``None``: train one again.

        ``alpha`` is for a file that does not say its own; see ``load_lora``.
        """
        source, model = self.source, self.model
        given = given_lora(lora, model.unet, model.text_encoder, alpha)
        path = absolute(lora) if isinstance(lora, str | os.PathLike) else None
        call = replace(source.call, lora=path, alpha=alpha)
        self._asked = replace(self._asked, image=replace(source, lora=given, call=call))

    @property
    def mask_growth(self) -> int:
        """Latent cells that were made editable because the mask is thinner than one there."""
        return self._asked.mask_growth(self.model.vae_factor)

    # Stages

    @property
    def status(self) -> dict[str, StageStatus]:
        """For each stage, whether it can be used as it is, and if not, why."""
        return self.stages.status(self.source, self.settings)

    def estimate(self, *, timed: bool = True) -> Estimate:
        """How long the edit will take from nothing, and how much memory; ``print`` it.

        Args:
            timed: take a pass of the network, to know how quick the device is.
        """
        return estimate(self.model, self.source, self.settings, self.instructions, timed=timed)

    def domain_warning(self) -> str:
        """Return a warning where the model does not know images like this one; else nothing.

        It encodes and decodes the image, reduced to 256 pixels; see ``diffusion.domain``.
        """
        return domain_warning(self.model, self.source)

    def prepare(self) -> None:
        """Make LoRA and inversion now, where they are not fresh; otherwise on demand."""
        self.invert()

    def preparing(self) -> Generator[Progress, None, Inversion]:
        """Make LoRA and inversion where they are not fresh."""
        edit = yield from self.stages.preparing(self.source, self.settings)
        return edit.inversion

    def train_lora(self) -> LoRA | None:
        """Train the LoRA now, if it is wanted and not fresh; ``save_lora`` keeps it in a file."""
        return self._run(self.training_lora())

    def training_lora(self) -> Generator[Progress, None, LoRA | None]:
        """Train the LoRA, if it is wanted and not fresh."""
        return self.stages.training(self.source, self.settings)

    def invert(self) -> Inversion:
        """Invert the image now, with its LoRA, if that is not fresh."""
        return self._run(self.preparing())

    def _run(self, work: Generator[Progress, None, T]) -> T:
        self.monitor.start()
        return self.monitor.run(work)

    # The drag

    def drag(
        self,
        instructions: DragInstructions | None = None,
        settings: DragSettings | None = None,
        steps: int | None = None,
    ) -> Generator[DragStep, None, Ended]:
        """Go on from the current latent, step by step; what is not given stays as it was.

        A pair whose handle was drawn before goes on from where its handle is now; a new handle
        means the place in the image as it is now. Between two steps, instructions and drag
        settings may be set anew; another image, prompt, LoRA or inversion needs a new drag.

        Args:
            steps: at most so many; by default ``settings.steps``.

        Raises:
            RuntimeError: there is no image, nothing was drawn on it, or it is another by now.
            ValueError: instructions for an image of another size; no number of steps.
        """
        if steps is not None and (not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps must be a whole number from 1 up, got {steps!r}")
        before = asked = self._asked
        if instructions is not None:
            asked = asked.drawn(instructions)
        if settings is not None:
            asked = replace(asked, settings=replace(asked.settings, drag=settings))
            self.model.check(asked.settings)
        preparing = self.stages.preparing(asked.source, asked.settings)
        if asked.instructions is None:
            raise RuntimeError("nothing to drag: pass DragInstructions with at least one pair")
        self._asked = asked
        self.monitor.start()
        return self._drag(preparing, steps or asked.settings.drag.steps, asked, before)

    def _drag(
        self, preparing: Generator[Progress, None, Edit], total: int, asked: Asked, old: Asked
    ) -> Generator[DragStep, None, Ended]:
        """At most ``total`` steps; where not even one is taken, ``old`` is asked for again."""
        index = 0
        try:
            edit = self.monitor.run(preparing)
            while index < total:
                instructions, settings = self._wanted(edit)
                if ended := edit.ended(instructions, settings):
                    self.ended = ended
                    return ended
                step = edit.advance(instructions, settings)
                self.ended, index = None, index + 1
                self.monitor.report(Progress("drag", index, total, step.loss))
                yield step
            self.ended = edit.ended(*self._wanted(edit)) or Ended.STEP_LIMIT
            return self.ended
        except BaseException:
            if index == 0 and self._asked is asked:
                self._asked = old
            raise

    def _wanted(self, edit: Edit) -> tuple[DragInstructions, DragSettings]:
        """What the next step of a drag is to do; it may have been set anew since the last."""
        asked = self._asked
        if asked.instructions is None or self.stages.edit(asked.source, asked.settings) is not edit:
            raise RuntimeError(
                "this drag cannot go on: the image, its prompt, its LoRA or its inversion was "
                "changed meanwhile; drag() again"
            )
        return asked.instructions, asked.settings.drag

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
    def edits(self) -> list[Edit]:
        """All edits of this image: one for each prompt and settings it was inverted with."""
        digest = self.source.digest
        return [edit for edit in self.stages.edits if edit.inversion.source.digest == digest]

    @property
    def history(self) -> History:
        """The steps so far, and every branch; RuntimeError where nothing is inverted as asked."""
        edit = self.stages.edit(self.source, self.settings)
        if edit is None:
            raise RuntimeError("the image is not inverted yet: prepare() or drag() first")
        return edit.history

    def rewind(self, k: int) -> None:
        """Go back, or forth again, to step ``k`` of this branch; 0 is the start."""
        self.history.rewind(k)
        self.ended = None

    def reset(self) -> None:
        """Go back to the start; what was dragged stays in the history."""
        self.rewind(0)

    # Images

    def render(self, step: int | None = None) -> Image.Image:
        """The image as it is now, or at step ``step`` of this branch, at its own size: exact."""
        return self._run(self.rendering(step))

    def rendering(self, step: int | None = None) -> Generator[Progress, None, Image.Image]:
        """Denoise the latent beside the source image's own pass, which is made once."""
        return self.stages.rendering(self._asked, step)

    def preview(self, step: int | None = None, *, quick: bool = False) -> Image.Image:
        """The image as it is now, or at a step of this branch: soon and approximate.

        The source, changed by how the network's first guess at the clean latent has changed; that
        is one pass of the network, which a drag step with a mask has taken already.

        Args:
            quick: draw it by a linear map in place of the autoencoder: blurred where it changed.
        """
        return self._run(self.previewing(step, quick=quick))

    def previewing(
        self, step: int | None = None, *, quick: bool = False
    ) -> Generator[Progress, None, Image.Image]:
        """The same, stepwise; it does not forget that other work was cancelled."""
        return self.stages.previewing(self._asked, step, quick=quick)

    def similarity(self, xy: XY) -> dict[int, npt.NDArray[np.float32]]:
        """How alike the features under ``xy``, image pixels, and elsewhere are, as it is now.

        For every feature block from the mid block (0) up: the cosine, -1..1, of each grid cell.
        """
        return self.stages.similarity(self._asked, xy)

    # Running and keeping

    def snapshot(self) -> Snapshot:
        """A frozen copy of everything, also while a drag goes on in another thread."""
        asked = self._asked
        digest = asked.source.digest
        edits = [e for e in self.stages.edits if e.inversion.source.digest == digest]
        return Snapshot(
            model=self.model,
            source=asked.source,
            settings=asked.settings,
            instructions=asked.instructions,
            ended=self.ended,
            trained=tuple(t for t in self.stages.loras if t.source.digest == digest),
            edits=tuple(EditSnapshot.of(edit.inversion, edit.history) for edit in edits),
        )

    @classmethod
    def of(
        cls, snapshot: Snapshot, *, progress: Callable[[Progress], None] | None = None
    ) -> DragSession:
        """A session that goes on where a copy was taken."""
        session = cls(snapshot.model, progress=progress)
        session.settings = snapshot.settings
        for trained in snapshot.trained:
            session.stages.keep_lora(trained)
        for copy in snapshot.edits:
            session.stages.keep_edit(Edit.of(copy))
        session._asked = Asked(snapshot.settings, snapshot.source, snapshot.instructions)
        session.ended = snapshot.ended
        return session

    def cancel(self) -> None:
        """Stop what is running, from another thread: it raises ``Cancelled`` after this pass."""
        self.monitor.cancel()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file: image, instructions, settings, stages, history."""
        session_file.save(self.snapshot(), path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: DiffusionModel | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> DragSession:
        """Open a session that ``save`` wrote.

        The file never makes us fetch or open a model: it opens on ``model``, on the embedded model,
        or on one of the same weights that this process holds.

        Args:
            model: the one that it was made with.
            options: of the embedded model, as ``load_model`` takes them.

        Raises:
            ValueError: it is no session, damaged, or of a model that it names.
        """
        return cls.of(session_file.load(path, model, **options), progress=progress)
