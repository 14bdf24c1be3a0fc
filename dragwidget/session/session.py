"""``DragSession``: edit one image, with a cache of every expensive stage.

    image -> LoRA -> inversion -> drag -> render

Each arrow is a stage, computed on demand and cached by key (``stages``).

Long work comes in two forms: a verb runs it (``prepare``, ``render``), its -ing form is a generator
of ``Progress`` for a caller that drives it step by step (``preparing``, ``rendering``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dragwidget.data.frames import XY, BoolArray
from dragwidget.data.image_reading import ImageSource
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import DragSettings, Settings
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.loading import LoadOptions, load_model
from dragwidget.diffusion.lora import LoRA
from dragwidget.drag.loop import DragStep
from dragwidget.drag.method import Ended
from dragwidget.drag.torch_state import PlainTorch
from dragwidget.progress import Monitor, Progress, StageStatus
from dragwidget.session import session_file, source
from dragwidget.session.domain_check import domain_warning
from dragwidget.session.edit import Edit
from dragwidget.session.estimate import Estimate, estimate
from dragwidget.session.history import History
from dragwidget.session.snapshot import EditSnapshot, Snapshot
from dragwidget.session.source import Inversion
from dragwidget.session.stages import Stages
from dragwidget.storage.cache import Store
from dragwidget.storage.image_files import EditedImage

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class DragSession:
    """Session that edits one image.

    A call that fails leaves the session unchanged, except for finished stages and steps.

    Args:
        progress: called with every ``Progress`` of the work.
        store: disk cache of stages, shared with other sessions; ``None``: no disk cache.

    Attributes:
        monitor: reports progress, and cancels.
        stages: what was made so far, and makes the rest.
        watchers: called, without arguments, after ``request`` has changed.
    """

    def __init__(
        self,
        model: Backbone,
        *,
        progress: Callable[[Progress], None] | None = None,
        store: Store | None = None,
    ) -> None:
        self.model = model
        self.monitor = Monitor(progress)
        self.stages = Stages(model, self.monitor.check, store)
        self.watchers: list[Callable[[], object]] = []
        self._settings = model.numbered(model.recommended)  # until there is an image
        self._request: EditRequest | None = None
        # Jupyter serves widgets and cells on threads of their own: no change may undo another.
        self._changing = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "critters",
        *,
        progress: Callable[[Progress], None] | None = None,
        store: Store | None = None,
        **options: Unpack[LoadOptions],
    ) -> DragSession:
        """Load a model and start a session; ``name`` and ``options`` are ``load_model``'s."""
        return cls(load_model(name, **options), progress=progress, store=store)

    # The request

    def set_image(
        self,
        image: ImageSource,
        prompt: str = "",
        *,
        max_side: int | None = None,
        multiple: int | None = None,
    ) -> None:
        """Set the image; the request on another image is dropped.

        Args:
            image: anything ``read_image`` accepts; results carry its alpha, EXIF and dpi.
            prompt: description of the image.
            max_side: longest side of the image that the model edits, pixels; by default the one
                it was trained on. Smaller images are enlarged; results have the original size.
            multiple: both of its sides are multiples of this, pixels; by default what every level
                of the network divides evenly.
        """
        chosen = source.fitted(self.model, image, max_side, multiple)
        self.change(lambda: source.asked_of(chosen, prompt, self.settings, self._request))

    def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        seed: int = 0,
        size: tuple[int, int] | None = None,
    ) -> Image.Image:
        """Generate an image from text and set it; it needs neither LoRA nor inversion.

        Args:
            guidance_scale: scale of classifier-free guidance, also for drag and render; by default
                7.5, and 1 for a model of a few steps that does not read the scale.
            size: (width, height), pixels; by default the square the model was trained on.
        """
        asked = negative_prompt, guidance_scale, seed, size
        generation = source.asked_generation(self.model, self.settings, prompt, *asked)
        made = self._run(source.generating(self.model, generation))
        self.change(lambda: EditRequest(made, prompt, settings=self.settings))
        return self.image

    @property
    def request(self) -> EditRequest:
        """Everything that the edit depends on. Set it to change all of it at once.

        Raises RuntimeError where there is no image yet, ValueError where the model cannot do it.
        """
        if self._request is None:
            raise RuntimeError("there is no image yet: set_image() or generate() first")
        return self._request

    @request.setter
    def request(self, request: EditRequest) -> None:
        self.change(lambda: request)

    def update_request(self, **changes: Any) -> None:
        """Replace these fields of ``request``; what another thread changes meanwhile stays."""
        self.change(lambda: self.request.replace(**changes))

    def change(self, make: Callable[[], EditRequest]) -> tuple[EditRequest | None, EditRequest]:
        """Set the request that ``make`` returns, under the session's lock; return old and new."""
        with self._changing:
            before, asked = self._request, make()  # which may put another model here, too
            self._request = request = source.check_request(self.model, asked, before)
        if request is before:
            return before, request
        if before is None or request.image is not before.image:
            for edit in self.stages.edits_of(request.image):  # edited before: a new start
                edit.restart()
        for watcher in list(self.watchers):
            watcher()
        return before, request

    @property
    def image(self) -> Image.Image:
        """The image as it was given, upright, sRGB, with its alpha (mode RGBA) if it has any."""
        return EditedImage.of(self.request.image.pillow)

    @property
    def prompt(self) -> str:
        """What the image shows."""
        return self.request.prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.update_request(prompt=prompt)

    @property
    def settings(self) -> Settings:
        """Settings of all stages; by default the model's recommendation."""
        return self._settings if self._request is None else self._request.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        if self._request is None:
            self._settings = self.model.check(settings)
        else:
            self.update_request(settings=settings)

    @property
    def instructions(self) -> DragInstructions | None:
        """What the user drew, with the prompt. Setting it during a drag steers the next step.

        Its prompt becomes the session's, if it has one.
        """
        return None if self._request is None else self._request.instructions

    @instructions.setter
    def instructions(self, instructions: DragInstructions) -> None:
        self.change(lambda: self.request.drawn(instructions))

    @property
    def lora(self) -> LoRA | None:
        """The LoRA that was given; ``None``: one is trained, as the settings say."""
        return source.lora_of(self.request)

    def use_lora(self, lora: source.GivenLoRAs, *, alpha: float | None = None) -> None:
        """Use a LoRA, weights or a file (``alpha``: see ``load_lora``); ``None``: train one.

        Pairs ``[("style.safetensors", 0.8), ..]`` change the model instead: each is added to it
        with its weight, and the LoRA of this image is trained on top; ``[]``: no such.
        """
        self.update_request(**source.read_loras(self.model, lora, alpha))

    @property
    def mask_growth(self) -> int:
        """Latent cells that were made editable because the mask is thinner than one there."""
        return self.request.mask_growth(self.model.vae_factor)

    def fork(self) -> DragSession:
        """Return a session that shares the stages and has a request of its own from now on."""
        other = copy(self)
        other.watchers, other._changing = [], threading.RLock()
        return other

    @property
    def status(self) -> dict[str, StageStatus]:
        """For each stage, whether it can be used as it is, and if not, why."""
        return self.stages.status(self.request)

    def estimate(self, *, timed: bool = True) -> Estimate:
        """Estimate time and memory of the whole edit, nothing cached; ``print`` the result.

        Args:
            timed: run a forward pass to measure the speed of the device.
        """
        return estimate(self.model, self.request, timed=timed)

    def domain_warning(self) -> str:
        """Return a warning if the model does not know images like this one; else ``""``.

        It encodes and decodes the image, reduced to 256 pixels; see ``diffusion.domain``.
        """
        return domain_warning(self.model, self.request)

    def prepare(self) -> None:
        """Make LoRA and inversion now, where they are not up to date."""
        self.invert()

    def preparing(self) -> Generator[Progress, None, Edit]:
        """Compute LoRA and inversion where they are not up to date."""
        return self.stages.preparing(self.request)

    def train_lora(self) -> LoRA | None:
        """Train the LoRA, unless it is off or up to date; ``save_lora`` writes it to a file."""
        return self._run(self.training_lora())

    def training_lora(self) -> Generator[Progress, None, LoRA | None]:
        """Train the LoRA, if the settings ask for one and it is not up to date."""
        return self.stages.training(self.request)

    def invert(self) -> Inversion:
        """Invert the image with its LoRA, unless the inversion is up to date."""
        return self._run(self.preparing()).inversion

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
        """Drag on from the current latent, step by step; omitted arguments stay unchanged.

        A known pair continues from the current position of its handle; a new handle is a point of
        the current image. Between two steps, instructions and drag settings can change; another
        image, prompt, LoRA or inversion needs a new drag.

        Args:
            steps: maximum number of steps; by default ``settings.steps``.

        Raises:
            RuntimeError: there is no image, there are no instructions, or the image was changed.
            ValueError: the instructions are for an image of another size; ``steps`` < 1.
        """
        if steps is not None and (not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps must be a whole number of 1 or more, got {steps!r}")
        before, request = self.change(lambda: self.request.to_drag(instructions, settings))
        self.monitor.start()
        return self._drag(steps or request.settings.drag.steps, request, before)

    def _drag(
        self, total: int, request: EditRequest, before: EditRequest | None
    ) -> Generator[DragStep, None, Ended]:
        """At most ``total`` steps; where not even one is taken, ``before`` is asked for again."""
        index = 0
        try:
            edit = self.monitor.run(self.stages.preparing(request))
            while index < total:
                instructions, settings = self._next(edit)
                if ended := edit.ended(instructions, settings):
                    self.ended = ended
                    return ended
                plain = PlainTorch()  # here and not around all of this, which yields
                try:
                    with plain:
                        step = edit.advance(instructions, settings)
                except BaseException:
                    plain.end()
                    raise
                index += 1
                self.monitor.report(Progress("drag", index, total, step.loss))
                yield step
            self.ended = ended = edit.ended(*self._next(edit)) or Ended.STEP_LIMIT
            return ended
        except BaseException:
            if index == 0 and before is not None:
                self.change(lambda: before if self._request is request else self.request)
            raise

    def _next(self, edit: Edit) -> tuple[DragInstructions, DragSettings]:
        """What the next step of a drag is to do; it may have changed since the last."""
        request = self.request
        if request.instructions is None or self.edit is not edit:
            raise RuntimeError(
                "this drag cannot continue: the image, its prompt, its LoRA or its inversion was "
                "changed meanwhile; call drag() again"
            )
        return request.instructions, request.settings.drag

    def step(self, n: int = 1) -> DragStep | None:
        """Drag ``n`` more steps; return the last, or ``None`` if nothing was left to do."""
        return self.run(steps=n)

    def run(self, steps: int | None = None) -> DragStep | None:
        """Drag to the end, ``steps`` at most; return the last step."""
        last = None
        for last in self.drag(steps=steps):
            pass
        return last

    @property
    def edits(self) -> list[Edit]:
        """All edits of this image: one for each prompt and settings that inverted it."""
        return self.stages.edits_of(self.request.image)

    @property
    def edit(self) -> Edit | None:
        """The requested edit, with its history; ``None`` before its inversion."""
        return self.stages.edit(self.request)

    @property
    def history(self) -> History:
        """The steps so far, and every branch; RuntimeError before the inversion."""
        edit = self.edit
        if edit is None:
            raise RuntimeError("the image is not inverted yet: prepare() or drag() first")
        return edit.history

    @property
    def ended(self) -> Ended | None:
        """Why the last drag ended; ``None`` while it can go on from the current node."""
        edit = None if self._request is None else self.edit
        if edit is None or edit.ending[0] != edit.history.current.number:
            return None
        return edit.ending[1]

    @ended.setter
    def ended(self, ended: Ended | None) -> None:
        if (edit := self.edit) is not None:
            edit.ending = (edit.history.current.number, ended)

    def rewind(self, k: int) -> None:
        """Go to step ``k`` of the current branch; 0 is the start."""
        self.history.rewind(k)

    def reset(self) -> None:
        """Go back to the start; all steps stay in the history."""
        self.rewind(0)

    def render(self, step: int | None = None) -> Image.Image:
        """Make the final render of the current node, or of ``step``, at the source's size."""
        return self._run(self.rendering(step))

    def rendering(self, step: int | None = None) -> Generator[Progress, None, Image.Image]:
        """Denoise the latent with the reference branch, which is computed once."""
        return self.stages.rendering(self.request, step)

    def preview(self, step: int | None = None, *, quick: bool = False) -> Image.Image:
        """Make a preview of the current node, or of ``step``: fast and approximate.

        It adds the change of the predicted clean latent to the source; that is one forward pass,
        which a drag step with a mask has already run.

        Args:
            quick: decode by a linear map, which blurs, where the model has no ``preview_vae``.
        """
        return self._run(self.previewing(step, quick=quick))

    def previewing(
        self, step: int | None = None, *, quick: bool = False
    ) -> Generator[Progress, None, Image.Image]:
        """Make a preview stepwise; a request to cancel other work stays in force."""
        return self.stages.previewing(self.request, step, quick=quick)

    def similarity(self, xy: XY) -> dict[int, npt.NDArray[np.float32]]:
        """Return the similarity of the current features to those at ``xy``, image pixels.

        For every feature block from the mid block (0) on: the cosine, -1..1, of each grid cell.
        """
        return self.stages.similarity(self.request, xy)

    def select(self, points: Any, labels: Any = None, tolerance: Any = 1.0) -> BoolArray:
        """Return the mask (H, W) bool of the thing that is clicked in the source image.

        Args:
            points: the clicks, (N, 2), ``(x, y)`` in image pixels.
            labels: (N,) bool: True on the thing, False off it; ``None``: all are on it.
            tolerance: how much more or less of the image to select, as a factor, 1/16 to 16.

        Raises:
            ValueError: these are no clicks on this image.
        """
        return self.stages.select(self.request, points, labels, tolerance)

    def confidence(self) -> npt.NDArray[np.float64]:
        """Return how surely each handle is still on its content, (N,), 0 to 1; see ``Stages``."""
        return self.stages.confidence(self.request)

    def snapshot(self) -> Snapshot:
        """Return a frozen copy of everything, also while a drag goes on in another thread."""
        request = self.request
        image = request.image
        return Snapshot(
            model=self.model,
            request=request,
            ended=self.ended,
            trained=tuple(t for t in self.stages.loras if t.request.image.digest == image.digest),
            edits=tuple(
                EditSnapshot.of(e.inversion, e.history) for e in self.stages.edits_of(image)
            ),
        )

    @classmethod
    def of(
        cls, snapshot: Snapshot, *, progress: Callable[[Progress], None] | None = None
    ) -> DragSession:
        """Return a session that continues from a snapshot."""
        session = cls(snapshot.model, progress=progress)
        request = source.check_request(snapshot.model, snapshot.request)
        for trained in snapshot.trained:
            session.stages.keep_lora(trained)
        for edit in snapshot.edits:
            session.stages.keep_edit(Edit.of(edit))
        session._request = request
        session.ended = snapshot.ended
        return session

    def cancel(self) -> None:
        """Cancel running work from another thread: it raises ``Cancelled`` after this pass."""
        self.monitor.cancel()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save everything to one file: image, instructions, settings, stages, history."""
        session_file.save(self.snapshot(), path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Backbone | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> DragSession:
        """Open a session file that ``save`` wrote.

        The file never makes us fetch or open a model: it opens on ``model``, on the embedded model,
        or on one of the same weights that this process holds.

        Args:
            model: the model that made the session.
            options: options of the embedded model, as ``load_model`` takes them.

        Raises:
            ValueError: the file is no session, is damaged, or needs the model that it names.
        """
        return cls.of(session_file.load(path, model, **options), progress=progress)
