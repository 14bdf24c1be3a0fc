"""How long an edit will take and how much memory, before it is begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dragwidget.data.frames import Size
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import Settings
from dragwidget.diffusion.attention import record_reference
from dragwidget.diffusion.backbone import Backbone, Condition, SelfAttention
from dragwidget.diffusion.costs import META, Cost, cost_of
from dragwidget.diffusion.devices import free_memory
from dragwidget.diffusion.lora.training import LoRABatch, loss_of
from dragwidget.drag.correspondence import Correspondence, correspondence
from dragwidget.drag.evaluation import DragModel, ModelOutput, Passes
from dragwidget.drag.noise_path import Time
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session.source import styles_of, why_no_lora

_GB = 1e9
# Operators take room of their own over the tensors that they are given and give. Measured on a
# CPU at the shape of Stable Diffusion 1.5, 512 px, `bench speed`: 1.37 to 1.65 times those.
_ROOM = 1.6
_WARM = 1.0  # seconds; a pass that takes longer is timed once


@dataclass(frozen=True)
class PhaseEstimate:
    """What one phase of an edit takes.

    Attributes:
        seconds: of all its passes; ``None`` where the speed of the device was not measured.
        memory: bytes on the device at most, weights included.
    """

    name: str
    passes: int
    seconds: float | None
    memory: int


@dataclass(frozen=True)
class Estimate:
    """What an edit takes: arithmetic on the model's own shape, and one timed pass.

    ``print`` shows a table.

    Attributes:
        weights: bytes of what stays on the device.
        phases: in their order.
        free: bytes that can be had besides what is taken now; ``None`` where that is not known.
        advice: where it will not fit, what to lower, and what it takes then.
    """

    weights: int
    phases: tuple[PhaseEstimate, ...]
    free: int | None
    advice: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Of the whole edit, nothing of it made before."""
        each = [phase.seconds for phase in self.phases]
        return None if None in each else sum(s for s in each if s is not None)

    @property
    def memory(self) -> int:
        """Bytes on the device at most, weights included."""
        return max(phase.memory for phase in self.phases)

    @property
    def fits(self) -> bool | None:
        """Whether there is as much memory; ``None`` where that is not known."""
        return None if self.free is None else self.memory - self.weights <= self.free

    def __str__(self) -> str:
        rows = [f"{'':<12}{'passes':>8}{'seconds':>10}{'memory, GB':>12}"]
        for phase in self.phases:
            seconds = "-" if phase.seconds is None else f"{phase.seconds:.1f}"
            rows.append(
                f"{phase.name:<12}{phase.passes:>8}{seconds:>10}{phase.memory / _GB:>12.2f}"
            )
        total = "-" if self.seconds is None else f"{self.seconds:.1f}"
        rows.append(f"{'the edit':<20}{total:>10}{self.memory / _GB:>12.2f}")
        rows.append(f"weights {self.weights / _GB:.2f} GB")
        if self.free is not None:
            verdict = "it fits" if self.fits else "it does not fit"
            rows[-1] += f", {self.free / _GB:.1f} GB are free besides: {verdict}"
        return "\n".join((*rows, *self.advice))


@in_plain_torch
def estimate(model: Backbone, request: EditRequest, *, timed: bool = True) -> Estimate:
    """Of an edit, nothing of it made before.

    Args:
        request: with a mask a step sees the whole network, which takes more; so it is taken where
            nothing is drawn yet.
        timed: take a pass, to know how quick the device is.
    """
    settings, instructions = request.settings, request.instructions
    if why_no_lora(request) or request.lora is not None:
        settings = replace(settings, lora=replace(settings.lora, steps=0))
    mask = instructions is None or instructions.mask is not None
    model = model.with_styles(styles_of(request))
    costs = _Costs(model, request.image.fitted_size, settings, mask=mask)
    made = costs.estimate(costs.seconds_per_flop() if timed else None)
    return replace(made, advice=_advice(costs, made)) if made.fits is False else made


def _advice(costs: _Costs, made: Estimate) -> tuple[str, ...]:
    """What would help, least loss first, up to the first that is enough; each with all before."""
    advice, best = [], made.memory
    for words, less in _smaller(costs):
        other = less.estimate(None)
        if other.memory < best:
            best = other.memory
            advice.append(f"  {words}: {best / _GB:.2f} GB")
        if other.fits:
            break
    return tuple(advice)


def _smaller(costs: _Costs) -> Iterator[tuple[str, _Costs]]:
    model, settings, size = costs.model, costs.settings, costs.size
    if model.memory == "normal":
        model = model.with_memory("low")
        yield 'load_model(.., memory="low")', costs.like(model, size, settings)
    if settings.lora.steps and settings.lora.batch_size > 1:
        settings = replace(settings, lora=replace(settings.lora, batch_size=1))
        yield "and LoRASettings(batch_size=1)", costs.like(model, size, settings)
    multiple = model.image_multiple
    for share in (0.75, 0.5, 0.375, 0.25):
        width, height = (max(multiple, round(share * side / multiple) * multiple) for side in size)
        words = f"and set_image(.., max_side={max(width, height)})"
        yield words, costs.like(model, (width, height), settings)


class _Costs:
    """What each piece of an edit costs, on a meta copy of the model.

    Args:
        size: (width, height) that the model works at, pixels.
        mask: there is one.
    """

    def __init__(
        self,
        model: Backbone,
        size: Size,
        settings: Settings,
        *,
        mask: bool,
        like: _Costs | None = None,
    ) -> None:
        self.model, self.size, self.settings, self.mask = model, size, settings, mask
        self.meta_copy: Backbone = model.on_meta(None if like is None else like.meta_copy)
        # Of these networks at any size and settings, by all that each depends on.
        self._known: dict[Any, Cost] = {} if like is None else like._known
        width, height = size
        cells = (height // model.vae_factor, width // model.vae_factor)
        self.shape = (1, model.latent_channels, *cells)
        self.text: Condition = self.meta_copy.encode_text("", size)
        self.predictor = self.meta_copy.predictor(self.text)
        inversion = settings.inversion
        self.schedule = self.meta_copy.spaced(inversion.steps, inversion.spacing)
        self.timestep = self.schedule.last(settings.inversion.count)[0]

    def like(self, model: Backbone, size: Size, settings: Settings) -> _Costs:
        """The same of the same networks, otherwise placed, sized or trained."""
        return _Costs(model, size, settings, mask=self.mask, like=self)

    def _cost(self, name: str, work: Callable[[], object], *depends_on: object) -> Cost:
        key = (name, self.size, *depends_on)
        if key not in self._known:
            self._known[key] = cost_of(self.meta_copy.networks.values(), work)
        return self._known[key]

    def estimate(self, seconds_per_flop: float | None) -> Estimate:
        """Of the whole edit."""
        model, settings, speed = self.model, self.settings, seconds_per_flop
        count = settings.inversion.count
        weights, visiting = model.weight_bytes

        def phase(name: str, *work: tuple[int, Cost], more: float = 0) -> PhaseEstimate:
            flops = sum(passes * cost.flops for passes, cost in work)
            took = None if speed is None else flops * speed
            memory = weights + _ROOM * max(cost.peak for _, cost in work) + more
            return PhaseEstimate(name, sum(passes for passes, _ in work), took, int(memory))

        phases = [phase("encode", (1, self.encode()), more=visiting)]
        if settings.lora.steps:
            phases.append(phase("lora", (settings.lora.steps, self.lora())))
        needed = settings.render.needs_reference
        recorded = needed and settings.inversion.records_reference
        states = self.reference().left if needed else 0  # of one step
        # Elsewhere than on the device they wait all but the step's own.
        held = count * states if model.waiting_device == model.device else 0
        used, early = held or states, held if recorded else 0
        with_inversion = used if recorded else 0
        phases += [
            phase("inversion", (self.inversion_passes(), self.one_pass()), more=with_inversion),
            phase("drag", (self.drag_passes(), self.step()), more=early),
        ]
        if needed and not recorded:
            phases.append(phase("reference", (count, self.reference()), more=held))
        phases.append(phase("render", *self.render(), more=used))
        phases.append(phase("decode", (1, self.decode()), more=visiting + held))
        return Estimate(weights, tuple(phases), free_memory(model.device))

    def inversion_passes(self) -> int:
        settings = self.settings.inversion
        each = 1 + settings.iterations * (settings.method == "fixed_point")
        return settings.count * each + (settings.method == "lookahead")

    def drag_passes(self) -> int:
        drag = self.settings.drag
        return 1 + drag.steps * (drag.updates_per_track if drag.method == "progressive" else 1)

    def seconds_per_flop(self) -> float:
        """Of this device, in a pass like those of the edit."""
        model = self.model
        predictor = model.predictor(model.encode_text("", self.size))
        latent = torch.zeros(self.shape, device=model.device)

        def one_pass() -> float:
            start = time.perf_counter()
            with torch.no_grad():
                predictor.predict(latent, self.timestep).sum().item()
            return time.perf_counter() - start

        took = one_pass()
        if took < _WARM:
            took = min(took, one_pass(), one_pass())  # the first one may have warmed the device up
        return took / self.one_pass().flops

    def latent(self) -> Tensor:
        return torch.empty(self.shape, device=META)

    def one_pass(self) -> Cost:
        def work() -> Tensor:
            with torch.no_grad():
                return self.predictor.predict(self.latent(), self.timestep)

        return self._cost("pass", work)

    def render(self) -> list[tuple[int, Cost]]:
        """Passes by what they cost: those that attend by a map come first, and cost more."""
        render, count = self.settings.render, self.settings.inversion.count
        mapped = sum(render.gate(index, count) > 0 for index in range(render.start_step, count))
        layers = tuple(range(render.start_layer, self.model.self_attention_count))
        if not mapped or not layers:
            return [(count, self.one_pass())]

        def work() -> Tensor:
            attention = self._attention(layers, render.correspondence)
            with torch.no_grad():
                return self.predictor.predict(self.latent(), self.timestep, attention)

        cost = self._but_recording(self._cost("render", work, layers))
        return [(mapped, cost), *([(count - mapped, self.one_pass())] if mapped < count else [])]

    def _attention(self, layers: tuple[int, ...], gate: float) -> SelfAttention:
        """Attention to the source, whose pass is taken first; by a map where ``gate`` > 0."""
        with torch.no_grad():
            recording = SelfAttention(layers)
            states = self.predictor(self.latent(), self.timestep, attention=recording).states
        return SelfAttention(layers, states, self._moved if gate > 0 else None, gate)

    def _but_recording(self, cost: Cost) -> Cost:
        """Work without the pass of ``_attention``, which counts elsewhere or hardly."""
        return replace(cost, flops=cost.flops - self.one_pass().flops)

    @cached_property
    def _moved(self) -> Correspondence:
        """Some map: which cells it names costs nothing."""
        return correspondence((self.shape[2], self.shape[3]), torch.zeros(1, 2), torch.ones(1, 2))

    def _drag_model(self) -> DragModel:
        """The network of a drag, attending to the source where the settings say so."""
        drag = self.settings.drag
        if not drag.attends:
            return self.predictor
        attention = self._attention(self.meta_copy.decoder_attention, drag.correspondence)

        def attending(
            latent: Tensor, timestep: Time, *, blocks: Sequence[int] = (), predict: bool = True
        ) -> ModelOutput:
            return self.predictor(
                latent, timestep, blocks=blocks, predict=predict, attention=attention
            )

        return attending

    def step(self) -> Cost:
        drag = self.settings.drag
        width, height = self.size

        def work() -> object:
            model, grid = self._drag_model(), drag.grid(height, width)
            passes = Passes(model, self.schedule, grid, drag)
            evaluation = passes.take(self.latent(), self.timestep, previous=self.mask)
            with torch.enable_grad():
                seen = [block.float().sum() for block in evaluation.features.blocks]
                if evaluation.previous is not None:
                    seen.append(evaluation.previous.sum())
                return torch.autograd.grad(torch.stack(seen).sum(), evaluation.latent)

        cost = self._cost("step", work, self.model.memory, drag.attends, drag.correspondence > 0)
        return self._but_recording(cost) if drag.attends else cost

    def lora(self) -> Cost:
        settings, model = self.settings.lora, self.meta_copy.trainable
        assert model is not None  # or ``check`` had refused a LoRA

        def work() -> object:
            lora = model.initial_lora(settings.rank, torch.Generator())
            lora = lora.map(lambda m: torch.empty_like(m, device=META).requires_grad_())
            moments = [torch.empty_like(m) for m in (*lora.down.values(), *lora.up.values()) * 2]
            clean = self.latent().expand(settings.batch_size, -1, -1, -1)
            times = torch.zeros(settings.batch_size, dtype=torch.int64)
            with torch.enable_grad():
                batch = LoRABatch(clean, torch.empty_like(clean), times)
                loss = loss_of(model, self.text, batch, lora)
            return moments, torch.autograd.grad(loss, [*lora.down.values(), *lora.up.values()])

        return self._cost("lora", work, self.model.memory, settings)

    def reference(self) -> Cost:
        """One pass; what is left of it is what a render needs of it."""

        def work() -> object:
            with torch.no_grad():
                steps = record_reference(
                    self.predictor, self.latent(), self.schedule, 1, self.settings.render
                )
                return list(steps)[-1].states

        return self._cost("reference", work)

    def encode(self) -> Cost:
        pixels = np.zeros((*self.size[::-1], 3), np.uint8)
        return self._cost("encode", lambda: self.meta_copy.encode(pixels))

    def decode(self) -> Cost:
        return self._cost("decode", lambda: self.meta_copy.decode(self.latent()))
