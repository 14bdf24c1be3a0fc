"""Compute the stages of an edit, each on demand and once, and cache them by key.

Whoever drives this may be asked for something else while a stage is being made, by another thread
or between two reports. So every stage gets its request as arguments, and reads it nowhere else:
a cached stage was computed from exactly its key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from dragwidget.data.frames import XY, BoolArray
from dragwidget.data.image import SourceImage
from dragwidget.data.request import EditRequest
from dragwidget.data.selection import select_by_colour, select_regions
from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion.attention import ReferenceBranch
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.lora import LoRA, StyleLoRAs
from dragwidget.diffusion.lora.training import FixedNoiseLoss, LoRAStep, lora_steps, noised_batches
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.progress import Key, KeyedCache, Progress, StageStatus
from dragwidget.session import cached_stages, source
from dragwidget.session.edit import Edit
from dragwidget.session.node import Node
from dragwidget.session.rendering import referencing, rendering
from dragwidget.session.selecting import regions_of
from dragwidget.session.source import Inversion, TrainedLoRA
from dragwidget.storage.cache import Store

MEASURED_EVERY = 10  # steps of a LoRA training that may end early
CHECKPOINT_SECONDS = 20.0  # of LoRA training that a killed process may lose


class Stages:
    """The stages of a session's edits.

    Args:
        check: called between any two passes of the network that report no progress, such as those
            of one drag step; it may raise to stop the work.
        store: where stages are looked for, and kept for other sessions.

    Attributes:
        loras: the ones that were trained last.
        edits: inversions, with all that was dragged on them.
        references: the reference branch of the last render.
        others: those of models that were used before, see ``session.switching``.
        outdated: names of the stages that one of these has made.
    """

    def __init__(
        self, model: Backbone, check: Callable[[], None], store: Store | None = None
    ) -> None:
        self.model = model
        self.store = store
        self.loras: KeyedCache[TrainedLoRA] = KeyedCache(4)
        # What was dragged is the user's own work, and small: an inversion and its history stay.
        self.edits: KeyedCache[Edit] = KeyedCache(1000)
        self.references: KeyedCache[ReferenceBranch] = KeyedCache(1)
        self.others: dict[str, Stages] = {}
        self.outdated: frozenset[str] = frozenset()
        self._check = check
        # Fingerprints that the model has had while this was used, and which of them it has now.
        self._fingerprints: list[str] = []
        self._present = 0
        # The model with the LoRAs that were last put into it.
        self._styled: tuple[StyleLoRAs, Backbone] = (), model
        # The step after which a training was interrupted, and the key of its LoRA.
        self._trained: tuple[Key, LoRAStep] | None = None

    def model_of(self, request: EditRequest) -> Backbone:
        """The model with the LoRAs that a request puts into it."""
        styles = source.styles_of(request)
        last, model = self._styled
        if styles != last:
            model = self.model.with_styles(styles)
            self._styled = styles, model
        return model

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
                "the model's weights changed while a stage was computed with them: run it again"
            )

    def status(self, request: EditRequest) -> dict[str, StageStatus]:
        """For each stage, whether it can be used as it is, and if not, why."""
        lora = self.loras.status(self._by(source.lora_key(request)))
        if off := source.why_no_lora(request):
            lora = StageStatus("off", off)
        if request.lora is not None:
            lora = StageStatus("ready", "the one that was given")
        reference = self.references.status(self._by(source.reference_key(request)))
        if not request.settings.render.needs_reference:
            reference = StageStatus("off", "the render does not attend to the source")
        inversion = self.edits.status(self._by(source.inversion_key(request)))
        found = {"lora": lora, "inversion": inversion, "reference": reference}
        for name in self.outdated:
            if found[name].state == "missing":
                found[name] = StageStatus("outdated", "the model changed since it was made")
        return found

    @property
    def made(self) -> frozenset[str]:
        """The names of the stages that were made, with this model or one before it."""
        found = {"lora": [*self.loras], "inversion": [*self.edits], "reference": [*self.references]}
        return self.outdated.union(name for name, versions in found.items() if versions)

    def set_aside(self) -> None:
        """Free what can be made again; inversions and what was dragged on them stay."""
        self.references = KeyedCache(1)
        self._styled = (), self.model
        for edit in self.edits:
            edit.release()

    def edit(self, request: EditRequest) -> Edit | None:
        """The drag on this inversion, if it was made; an earlier one comes with its history."""
        return self.edits.get(self._by(source.inversion_key(request)))

    def edits_of(self, image: SourceImage) -> list[Edit]:
        """All edits of an image: one for each prompt, LoRA and settings it was inverted with."""
        return [e for e in self.edits if e.inversion.request.image.digest == image.digest]

    def keep_edit(self, edit: Edit) -> Edit:
        """Put an edit where what made its inversion will find it."""
        return self.edits.put(self._by(source.inversion_key(edit.inversion.request)), edit)

    def keep_lora(self, trained: TrainedLoRA) -> TrainedLoRA:
        """Put a LoRA where what it was trained on and with will find it."""
        return self.loras.put(self._by(source.lora_key(trained.request)), trained)

    @in_plain_torch
    def training(self, request: EditRequest) -> Generator[Progress, None, LoRA | None]:
        """Train the LoRA, if it is wanted and not there."""
        return (yield from self._find_or_train(request))

    def _find_or_train(self, request: EditRequest) -> Generator[Progress, None, LoRA | None]:
        if request.lora is not None or source.why_no_lora(request):
            return source.lora_of(request)
        present = self._meet_weights()
        if made := self.loras.get(self._by(source.lora_key(request))):
            return made.lora
        model = self.model_of(request)
        lora = cached_stages.find_lora(self.store, model, request)
        if lora is None:
            lora = yield from self._training(model, request)
            self._check_weights(present)
            cached_stages.keep_lora(self.store, model, request, lora)
        self._trained = None
        return self.keep_lora(TrainedLoRA(lora, request)).lora

    def _training(self, model: Backbone, request: EditRequest) -> Generator[Progress, None, LoRA]:
        """Train the LoRA, from where this session or another was interrupted."""
        key, last = self._trained or (None, None)
        if last is None or key != self._by(source.lora_key(request)):
            last = cached_stages.find_training(self.store, model, request)
        random, trainable = None if last is None else last.random, model.trainable
        if trainable is None:
            raise ValueError(f"{model.name} trains no LoRA: set LoRASettings.steps to 0")
        image, settings = request.image, request.settings.lora
        batches = noised_batches(trainable, image.pixels, settings, random)
        text = source.conditioning(model, request.prompt, image.fitted_size)
        ratio, loss = settings.early_stop_ratio, None
        if ratio:
            loss = FixedNoiseLoss(trainable, image.pixels, text)
        kept = time.monotonic()
        steps = lora_steps(trainable, text, batches, settings, after=last)
        while True:
            if last is not None and loss is not None and last.index % MEASURED_EVERY == 0:
                self._check()
                if loss.ratio(last.lora) <= ratio:
                    break
            step = next(steps, None)
            if step is None:
                break
            last, self._trained = step, (self._by(source.lora_key(request)), step)
            if time.monotonic() - kept >= CHECKPOINT_SECONDS:
                cached_stages.keep_training(self.store, model, request, step)
                kept = time.monotonic()
            yield Progress("lora", step.index, settings.steps, step.loss)
        assert last is not None
        return last.lora

    @in_plain_torch
    def preparing(self, request: EditRequest) -> Generator[Progress, None, Edit]:
        """Make LoRA and inversion where they are not there."""
        self._meet_weights()
        edit = self.edit(request)
        for other in self.edits:
            if other is not edit:
                other.release()
        if edit is None:
            lora, model = (yield from self._find_or_train(request)), self.model_of(request)
            # Of a generated image the latents are known.
            store = self.store if source.generation_of(request) is None else None
            if found := cached_stages.find_inversion(store, model, request, lora):
                inversion = source.inversion_from(found[0], model, request, lora, found[1])
            else:
                present = self._meet_weights()
                inversion, branch = yield from source.inverting(model, request, lora)
                self._check_weights(present)
                cached_stages.keep_inversion(
                    store, model, request, lora, inversion.latents, inversion.noises
                )
                if branch is not None:
                    self.references.put(self._by(source.reference_key(request)), branch)
                    cached_stages.keep_reference(store, inversion, request.settings.render, branch)
            edit = self.keep_edit(Edit(inversion))
        edit.before_pass, edit.store = self._check, self.store
        return edit

    @in_plain_torch
    def rendering(
        self, request: EditRequest, step: int | None
    ) -> Generator[Progress, None, Image.Image]:
        """Denoise a latent with the reference branch, which is computed once."""
        edit, node = yield from self._at(request, step)
        edit.release(graph_only=True)  # as large as a render; a drag that goes on makes it again
        render, protected = request.settings.render, None
        if render.keep_protected and request.instructions is not None:
            protected = edit.protected(request.instructions, request.settings.drag)
        branch = None
        if render.needs_reference:
            key = self._by(source.reference_key(request))
            branch = yield from self._referencing(key, edit.inversion, render)
        latent = yield from rendering(
            edit.inversion,
            node.latent,
            node.timestep,
            branch,
            render,
            protected,
            plain_steps=node.plain_steps,
            moved=edit.correspondence(node) if render.correspondence > 0 else None,
        )
        return source.image_of(request, self.model.decode(latent), self.model.vae_factor)

    def _referencing(
        self, key: Key, inversion: Inversion, render: RenderSettings
    ) -> Generator[Progress, None, ReferenceBranch]:
        """Return the reference branch; record it if it is not cached."""
        if made := self.references.get(key):
            return made
        if found := cached_stages.find_reference(self.store, inversion, render):
            return self.references.put(key, found)
        branch = self.references.put(key, (yield from referencing(inversion, render)))
        cached_stages.keep_reference(self.store, inversion, render, branch)
        return branch

    @in_plain_torch
    def previewing(
        self, request: EditRequest, step: int | None, *, quick: bool
    ) -> Generator[Progress, None, Image.Image]:
        """Change the image by how the network's first guess at the clean latent has changed."""
        edit, node = yield from self._at(request, step)
        latent = edit.inversion.latents[0] + edit.change(node, request.settings.drag)
        self._check()
        image = self.model.decode_quickly(latent)
        if image is None:
            decode = edit.inversion.linear_decoder.decode if quick else self.model.decode
            image = decode(latent)
        return source.image_of(request, image, self.model.vae_factor)

    @in_plain_torch
    def similarity(self, request: EditRequest, xy: XY) -> dict[int, npt.NDArray[np.float32]]:
        """How like the features under a point are those elsewhere, for every block."""
        edit = self.edit(request)
        if edit is None:
            raise RuntimeError("the image is not inverted yet: prepare() or drag() first")
        width, height = request.image.size
        if not (0 <= xy[0] < width and 0 <= xy[1] < height):
            raise ValueError(
                f"the point {xy} is outside the image: x must be in [0, {width}) and y in "
                f"[0, {height})"
            )
        blocks = tuple(range(self.model.feature_block_count))
        settings = replace(request.settings.drag, feature_blocks=blocks)
        return dict(zip(blocks, edit.similarity(xy, settings), strict=True))

    def select(
        self,
        request: EditRequest,
        points: npt.ArrayLike,
        labels: npt.ArrayLike | None,
        tolerance: npt.ArrayLike,
    ) -> BoolArray:
        """Return the mask (H, W) of the thing that is clicked in the source image.

        Once the image is inverted its parts are told by the features of the network, which takes
        one forward pass, once; before, the colours that touch the clicked place decide.

        Args:
            request: whose image it is.
            points: the clicks, (N, 2), ``(x, y)`` in image pixels.
            labels: (N,) bool: True on the thing, False off it; ``None``: all are on it.
            tolerance: how much more or less of the image to select, as a factor, 1/16 to 16; or one
                a click, (N,).

        Raises:
            ValueError: these are no clicks on this image.
        """
        pixels, edit = request.image.original, self.edit(request)
        if edit is None:
            return select_by_colour(pixels, points, labels, tolerance)
        if edit.regions is None:
            self._check()
            edit.regions = regions_of(edit.inversion)
        return select_regions(pixels, edit.regions, points, labels, tolerance)

    def confidence(self, request: EditRequest) -> npt.NDArray[np.float64]:
        """Return how surely each handle is still on what it was drawn on, (N,), 0 to 1.

        The features under every handle of the current node are compared with those where it was
        drawn, and tracked back: see ``drag.tracking.confidence``. That takes a forward pass, once
        for a node. Below ``LOW_CONFIDENCE`` the content is probably lost. It does not tell how far
        the handle is from its target.

        Raises:
            RuntimeError: nothing is inverted as asked, or there are no instructions.
        """
        edit, instructions = self.edit(request), request.instructions
        if edit is None or instructions is None:
            raise RuntimeError("there are no handles to check yet: drag() first")
        return edit.confidence(instructions, request.settings.drag)

    def _at(
        self, request: EditRequest, step: int | None
    ) -> Generator[Progress, None, tuple[Edit, Node]]:
        """The edit, prepared, and where it is to be seen: at ``step``, or where it stands."""
        if step and self.edit(request) is None:
            raise ValueError(f"there is no step {step}: nothing was dragged yet")
        edit = yield from self.preparing(request)
        history = edit.history
        return edit, history.current if step is None else history.at(step)
