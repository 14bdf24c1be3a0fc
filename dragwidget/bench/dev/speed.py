"""How long each part of an edit takes, beside the baseline, in one run.

A part is a few cases that take turns, round by round: the baseline, ours, the baseline, ours, ..
So whatever else the machine does falls on all of them alike. A case sets itself up every time,
which is not timed, and then measures one or more laps. The first round warms up and is dropped; of
the others the median counts.

The baseline is ``baseline``, in float32; its drag step on CUDA also in its authors' precision,
float16 where autocast finds it safe. Ours are the project's own classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dragwidget.bench.dev import baseline
from dragwidget.bench.dev.baseline import Baseline, BaselineDrag, BaselineTraining, learning
from dragwidget.bench.dev.networks import in_type
from dragwidget.bench.dev.rounds import BASELINE, Case, Compare, Part
from dragwidget.bench.memory import Meter
from dragwidget.data.image import SourceImage
from dragwidget.data.instructions import DragInstructions, on_grid
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import Settings
from dragwidget.diffusion.lora.training import noised_batches, train_lora
from dragwidget.diffusion.low_memory import Memory
from dragwidget.diffusion.sd import Conditioning, StableDiffusion
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.loop import protected_cells
from dragwidget.drag.method import Problem
from dragwidget.drag.methods import method_named
from dragwidget.drag.noise_path import invert
from dragwidget.drag.replay import WARM, Replays
from dragwidget.progress import Monitor
from dragwidget.session.edit import Edit
from dragwidget.session.rendering import referencing, rendering
from dragwidget.session.session import DragSession
from dragwidget.session.source import Inversion, inversion_from

PROMPT = "a fox in a field"
AUTOCAST = "baseline in float16 by autocast"


@dataclass(frozen=True, eq=False)
class Task:
    """What every part works on.

    Attributes:
        model: in float32, for the baseline.
        models: ours, by the type of their weights; ``step`` takes all, the other parts the first.
        side: of the image, pixels.
        settings: of every stage.
    """

    model: StableDiffusion
    models: Mapping[torch.dtype, StableDiffusion]
    side: int
    settings: Settings

    @classmethod
    def of(
        cls,
        model: StableDiffusion,
        dtypes: Sequence[torch.dtype],
        side: int,
        settings: Settings,
        memory: Memory = "normal",
    ) -> Task:
        """With the model's weights in each of ``dtypes``; those in its own are shared."""
        models = {dtype: in_type(model, dtype).with_parts(memory=memory) for dtype in dtypes}
        return cls(model, models, side, settings)

    @property
    def ours(self) -> StableDiffusion:
        """The model of all parts but ``step``."""
        return next(iter(self.models.values()))

    @property
    def baseline(self) -> Baseline:
        """Return the network of the baseline."""
        return Baseline(self.model, self.model.embed(PROMPT), self.settings)

    @property
    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """An image, (side, side, 3) uint8."""
        ramp = np.linspace(0, 255, self.side)
        across, down = np.meshgrid(ramp, ramp)
        return np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)

    def instructions(
        self, *, mask: bool = True, pairs: int = 1, reach: float = 0.25
    ) -> DragInstructions:
        """Pairs in the middle half of the image.

        Args:
            mask: whether there is one; the middle is editable.
            pairs: how many, in rows of at most 10.
            reach: length of every drag, in shares of the image.
        """
        side = self.side
        middle = np.zeros((side, side), dtype=bool)
        middle[side // 8 : side - side // 8, side // 8 : side - side // 8] = True
        columns = min(pairs, 10)
        rows = -(-pairs // columns)
        points = []
        for k in range(pairs):
            row, column = divmod(k, columns)
            x = side * (0.25 + 0.25 * column / columns)
            y = side * (0.25 + 0.5 * (row + 0.5) / rows)
            points.append(((x, y), (x + reach * side, y)))
        return DragInstructions.from_points(
            points, size=(side, side), mask=middle if mask else None, prompt=PROMPT
        )

    def latent(self, seed: int = 0) -> Tensor:
        """Noise in place of an image's latent, (1, c, h, w) float32."""
        cells = self.side // self.model.vae_factor
        shape = (1, self.model.latent_channels, cells, cells)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return noise.to(self.model.device)

    def inversion(self, model: StableDiffusion) -> Inversion:
        """Return the image's inversion as far as its cost goes: every latent is noise."""
        count = self.settings.inversion.count
        latents = tuple(self.latent(k) for k in range(count + 1))
        image = SourceImage(self.pixels, self.pixels)
        request = EditRequest(image, PROMPT, settings=self.settings)
        return inversion_from(latents, model, request, None)


# ---------------------------------------------------------------- parts


def our_step(
    meter: Meter,
    lap: str,
    task: Task,
    model: StableDiffusion,
    instructions: DragInstructions,
    *,
    replayed: bool = False,
) -> Tensor:
    """Measure one drag step in the middle of a drag; the latent (1, c, h, w) after it.

    Args:
        replayed: measure a step whose passes are CUDA graphs, recorded in the steps before it.
    """
    predictor = model.predictor(Conditioning(model.embed(PROMPT)))
    schedule, timestep, settings = (
        task.baseline.schedule,
        task.baseline.timesteps[0],
        task.settings.drag,
    )
    latent = task.latent()
    width, height = instructions.size
    grid = settings.grid(height, width)
    cells = on_grid(instructions, grid, (latent.shape[2], latent.shape[3]))
    replays = Replays(predictor) if replayed else None
    passes = Passes(predictor, schedule, grid, settings, replays=replays)
    start = passes.at(latent, timestep, previous=cells.mask is not None).detach()
    problem = Problem(
        targets=torch.from_numpy(cells.targets_rc),
        settings=settings,
        path=schedule,
        source=lambda _: start,
        anchors=lambda _: (),
        clean=torch.zeros_like(latent),
        protected=None if cells.mask is None else protected_cells(cells.mask, latent),
    )
    method = method_named(settings.method)
    state = method.begin(passes, latent, torch.from_numpy(cells.handles_rc), timestep)
    for _ in range(WARM + 1 if replayed else 0):
        state, _ = method.advance(passes, state, problem)
    if replays is not None and replays.refused:
        raise RuntimeError(f"passes cannot be replayed here: {replays.refused}")
    with meter.lap(lap):
        state, _ = method.advance(passes, state, problem)
    return state.latent


def _step(task: Task) -> Part:
    """A step with a mask beside the baseline's with one, and without beside the one without."""
    on_cuda = task.model.device.type == "cuda"
    masks = {", mask": task.instructions(), "": task.instructions(mask=False)}
    precisions = {BASELINE: None, **({AUTOCAST: torch.float16} if on_cuda else {})}

    def reference(
        meter: Meter, *, lap: str, drawn: DragInstructions, autocast: torch.dtype | None
    ) -> None:
        with learning(task.model.unet):
            drag = BaselineDrag(task.baseline, task.latent(), drawn, autocast=autocast)
            drag.step()  # so that the next one tracks, and finds the weights' gradients there
            with meter.lap(lap):
                drag.step()

    cases: list[Case] = []
    rows = []
    for mask, drawn in masks.items():
        for name, autocast in precisions.items():
            cases.append(partial(reference, lap=f"{name}{mask}", drawn=drawn, autocast=autocast))
        for dtype, model in task.models.items():
            for replayed in (False, True) if on_cuda else (False,):
                lap = f"{str(dtype).removeprefix('torch.')}{', replayed' * replayed}{mask}"
                cases.append(
                    partial(
                        our_step, lap=lap, task=task, model=model, instructions=drawn,
                        replayed=replayed,
                    )
                )  # fmt: skip
                rows += [
                    Compare(lap if name == BASELINE else f"{lap} / {name}", lap, f"{name}{mask}")
                    for name in precisions
                ]
    return Part("step", tuple(cases), tuple(rows))


def _invert(task: Task) -> Part:
    clean, model = task.latent(), task.ours
    count = task.settings.inversion.count

    def reference(meter: Meter) -> None:
        with learning(task.model.unet), meter.lap(BASELINE):
            task.baseline.invert(clean)

    def ours(meter: Meter) -> None:
        predictor = model.predictor(Conditioning(model.embed(PROMPT)))
        with meter.lap("all"):
            for _ in invert(predictor.predict, clean, task.baseline.schedule, count):
                pass

    return Part("invert", (reference, ours), (Compare("all", "all"),))


def _render(task: Task) -> Part:
    def reference(meter: Meter) -> None:
        with meter.lap(BASELINE):
            task.baseline.render(task.latent(0), task.latent(1))

    def ours(meter: Meter) -> None:
        inversion, settings = task.inversion(task.ours), task.settings.render
        edited, run = task.latent(1), Monitor().run
        with meter.lap("first"):
            branch = run(referencing(inversion, settings))
            run(rendering(inversion, edited, inversion.timestep, branch, settings, None))
        with meter.lap("cached"):
            run(rendering(inversion, edited, inversion.timestep, branch, settings, None))

    rows = (Compare("first", "first"), Compare("cached", "cached"))
    return Part("render", (reference, ours), rows)


def _lora(task: Task) -> Part:
    settings, model = task.settings.lora, task.ours

    def reference(meter: Meter, *, frozen: bool) -> None:
        with nullcontext() if frozen else learning(task.model.unet):
            training = BaselineTraining(task.model, task.pixels, PROMPT, settings)
            with meter.lap("frozen" if frozen else BASELINE):
                training.step()

    def ours(meter: Meter) -> None:
        batches = noised_batches(model, task.pixels, settings)
        first = next(batches)  # the image is encoded once for all steps
        steps = train_lora(
            model, Conditioning(model.embed(PROMPT)), chain([first], batches), settings
        )
        with meter.lap("step"):
            next(steps)

    return Part(
        "lora",
        (partial(reference, frozen=False), ours, partial(reference, frozen=True)),
        (Compare("step", "step"), Compare("step, baseline frozen too", "step", "frozen")),
    )


def _redrag(task: Task) -> Part:
    drawn, moved = task.instructions(), task.instructions(reach=0.3)

    def reference(meter: Meter) -> None:
        network = task.baseline
        with learning(task.model.unet), meter.lap(BASELINE):
            drag = BaselineDrag(network, network.invert(task.latent()), moved)
            with meter.lap("baseline step"):
                drag.step()

    def ours(meter: Meter) -> None:
        edit, settings = Edit(task.inversion(task.ours)), task.settings.drag
        edit.advance(drawn, settings)
        with meter.lap("one step"):
            edit.advance(drawn, settings)
        with meter.lap("moved"):
            edit.advance(moved, settings)

    row = Compare(
        "first new step after moving a point", "moved", BASELINE, "one step", "baseline step"
    )
    return Part("redrag", (reference, ours), (row,))


def our_session(task: Task) -> DragSession:
    """Return a session with the image."""
    session = DragSession(task.ours)
    session.settings = task.settings
    session.set_image(task.pixels, PROMPT, max_side=task.side)
    return session


def _edit(task: Task) -> Part:
    drawn, moved = task.instructions(), task.instructions(reach=0.3)
    settings = task.settings

    def reference(meter: Meter) -> None:
        with meter.lap("baseline cold"):
            lora = None
            if settings.lora.steps:
                training = BaselineTraining(task.model, task.pixels, PROMPT, settings.lora)
                with learning(task.model.unet):
                    for _ in range(settings.lora.steps):
                        training.step()
                lora = training.lora
            with meter.lap("baseline warm"):  # another target is another run
                baseline.run(task.model, task.pixels, moved, settings, lora)

    def ours(meter: Meter) -> None:
        session = our_session(task)
        with meter.lap("cold"):
            for _ in session.drag(drawn):
                pass
            session.render()
        with meter.lap("warm"):
            for _ in session.drag(moved):
                pass
            session.render()

    rows = (Compare("cold", "cold", "baseline cold"), Compare("warm", "warm", "baseline warm"))
    return Part("edit", (reference, ours), rows)


def _preview(task: Task) -> Part:
    short = replace(
        task, settings=replace(task.settings, lora=replace(task.settings.lora, steps=0))
    )

    def reference(meter: Meter) -> None:
        with meter.lap(BASELINE):  # the baseline sees an edit only by a render
            task.model.decode(task.baseline.render(task.latent(0), task.latent(1)))

    def ours(meter: Meter, *, mask: bool) -> None:
        session = our_session(short)
        session.instructions = short.instructions(mask=mask)
        session.step()
        session.preview(quick=True)  # the first one fits its map
        drawn = "mask" if mask else "no mask"
        for quick in (True, False):
            with meter.lap(f"{drawn}, step") if quick else nullcontext():
                session.step()
            with meter.lap(f"{drawn}, quick" if quick else drawn):
                session.preview(quick=quick)

    cases = (reference, partial(ours, mask=True), partial(ours, mask=False))
    laps = (f"{drawn}{quick}" for drawn in ("mask", "no mask") for quick in (", quick", ""))
    rows = (Compare(lap, lap, unit=f"{lap.split(', ')[0]}, step") for lap in laps)
    return Part("preview", cases, tuple(rows))


PARTS: dict[str, Callable[[Task], Part]] = {
    "step": _step,
    "invert": _invert,
    "render": _render,
    "lora": _lora,
    "redrag": _redrag,
    "edit": _edit,
    "preview": _preview,
}
WHOLE = ("lora", "edit", "preview")  # these need the autoencoder and the text encoder
