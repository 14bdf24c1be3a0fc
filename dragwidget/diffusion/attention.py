"""Mutual self-attention control (Cao et al., MasaCtrl, arXiv 2304.08465; paper, section 3.4).

While the edited latent is denoised, its self-attention takes keys and values from the reference
branch of the source at the same step, so that it keeps the source's texture. The reference branch
does not depend on the edit: it is recorded once, as the inputs of the layers that it serves, and
used for every render of the same inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dragwidget.data.settings import InversionSettings, RenderSettings
from dragwidget.diffusion.backbone import Predictor, SelfAttention
from dragwidget.drag.correspondence import Correspondence
from dragwidget.drag.cycle_sde import inversion_steps
from dragwidget.drag.evaluation import ModelOutput
from dragwidget.drag.noise_path import NoisePath, Predict, Time, denoise
from dragwidget.drag.torch_state import in_plain_torch

__all__ = [
    "AttendingToSource",
    "ReferenceBranch",
    "record_inversion",
    "record_reference",
    "render_latents",
]


@dataclass(frozen=True, eq=False)
class ReferenceBranch:
    """What the source image's pass shows to the edited one, and the source as it comes back.

    Attributes:
        layers: which self-attention layers it covers, counted in execution order.
        states: for each denoising step, the input of each of these layers, (B, tokens, d).
        latents: the source's own latents, the inverted one first, each (1, c, h, w).
        noises: noise of each denoising step, where the inversion that recorded it kept one.
    """

    layers: tuple[int, ...]
    states: list[tuple[Tensor, ...]] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    noises: list[Tensor] = field(default_factory=list)


class AttendingToSource:
    """A ``DragModel`` whose decoder attends to the source: reference attention in the drag.

    EasyDrag (Hou et al., CVPR 2024) runs the source beside the dragged latent in every pass. Its
    keys and values do not depend on the drag, so here one pass a timestep records what they are
    made of: the pass at the source itself, where the drag takes that first.

    Attributes:
        moved: where the content of the next pass's latent came from; ``None``: nothing has moved.

    Args:
        predictor: the network with its text and LoRA.
        source: returns the source's latent at a timestep, (1, c, h, w).
        gate: see ``SelfAttention``.
    """

    def __init__(
        self, predictor: Predictor, source: Callable[[Time], Tensor], gate: float = 0.0
    ) -> None:
        self._predictor, self._source, self._gate = predictor, source, gate
        self.moved: Correspondence | None = None
        self._layers = predictor.model.decoder_attention
        self._recorded: tuple[Time, tuple[Tensor, ...]] | None = None

    def __call__(
        self, latent: Tensor, timestep: Time, *, blocks: Sequence[int] = (), predict: bool = True
    ) -> ModelOutput:
        """Run the network once; see ``DragModel``. The first pass of a timestep may take two."""
        if self._recorded is None or self._recorded[0] != timestep:
            source = self._source(timestep)
            if torch.equal(latent, source):  # its keys and values are the source's own
                # To the end: layers behind the last feature block are recorded, too.
                output = self._predictor(
                    latent, timestep, blocks=blocks, attention=SelfAttention(self._layers)
                )
                self._recorded = timestep, output.states
                return replace(output, prediction=output.prediction if predict else None)
            with torch.no_grad():
                states = self._predictor(
                    source, timestep, attention=SelfAttention(self._layers)
                ).states
            self._recorded = timestep, states
        attention = SelfAttention(self._layers, self._recorded[1], self.moved, self._gate)
        return self._predictor(
            latent, timestep, blocks=blocks, predict=predict, attention=attention
        )


@in_plain_torch
def record_reference(
    predictor: Predictor,
    inverted: Tensor,
    schedule: NoisePath,
    count: int,
    settings: RenderSettings,
) -> Iterator[ReferenceBranch]:
    """Denoise the inverted source latent; yield the growing branch after each of ``count`` steps.

    The branch is complete when the iterator ends.

    Raises:
        ValueError: ``settings.start_layer`` is past the last layer of this model.
    """
    branch = ReferenceBranch(_layers(predictor, settings), latents=[inverted])
    for latent in denoise(_recording(predictor, branch), inverted, schedule, count):
        branch.latents.append(latent)
        yield branch


@in_plain_torch
def record_inversion(
    predictor: Predictor,
    clean: Tensor,
    schedule: NoisePath,
    count: int,
    inversion: InversionSettings,
    render: RenderSettings,
) -> Iterator[ReferenceBranch]:
    """Invert a clean latent; yield the growing reference branch after each of ``count`` steps.

    An inversion that evaluates the network near the latent where a step ends has seen what the
    reference branch would see there, so that no pass of its own is needed. The branch is complete
    when the iterator ends; its latents are then those of the inversion, the edited one first.

    Raises:
        ValueError: ``render.start_layer`` is past the last layer of this model.
    """
    layers = _layers(predictor, render)
    last: tuple[Tensor, ...] = ()

    def predict(latent: Tensor, timestep: Time) -> Tensor:
        nonlocal last
        prediction, last = _recorded(predictor, latent, timestep, layers)
        return prediction

    branch = ReferenceBranch(layers, latents=[clean])
    for latent, noise in inversion_steps(predict, clean, schedule, count, inversion):
        branch.latents.insert(0, latent)
        if noise is not None:
            branch.noises.insert(0, noise)
        branch.states.insert(0, last)
        yield branch


def _layers(predictor: Predictor, settings: RenderSettings) -> tuple[int, ...]:
    """Return the self-attention layers that a reference branch covers."""
    predictor.model.check_layers(settings)
    total = predictor.model.self_attention_count
    return tuple(range(settings.start_layer, total)) if settings.attends else ()


def _recording(predictor: Predictor, branch: ReferenceBranch) -> Predict:
    def predict(latent: Tensor, timestep: Time) -> Tensor:
        prediction, states = _recorded(predictor, latent, timestep, branch.layers)
        branch.states.append(states)
        return prediction

    return predict


def _recorded(
    predictor: Predictor, latent: Tensor, timestep: Time, layers: tuple[int, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the prediction of a pass, and the inputs of its layers, where large tensors wait."""
    output = predictor(latent, timestep, attention=SelfAttention(layers) if layers else None)
    assert output.prediction is not None
    waits = predictor.model.waiting_device
    return output.prediction, tuple(states.to(waits) for states in output.states)


@in_plain_torch
def render_latents(
    predictor: Predictor,
    edited: Tensor,
    schedule: NoisePath,
    count: int,
    branch: ReferenceBranch | None,
    settings: RenderSettings,
    protected: Tensor | None = None,
    *,
    first: int = 0,
    plain_steps: int = 0,
    moved: Correspondence | None = None,
) -> Iterator[Tensor]:
    """Denoise an edited latent with the reference branch; yield it after each of ``count`` steps.

    Args:
        edited: (1, c, h, w), at the timestep of the inversion, or of step ``first``.
        branch: complete, of the same schedule and count; ``None`` where the settings need none.
        first: which of the ``count`` steps to begin with; the latent is at its timestep.
        plain_steps: so many steps from there on are taken without mutual self-attention.
        moved: what the drag moved from where, for ``settings.correspondence``; ``None``: nothing.
        protected: 1 where ``settings.keep_protected`` puts the source's own latent back, (h, w).
    """
    latent = edited
    for index, timestep in enumerate(schedule.last(count)):
        if index < first:
            continue
        with torch.no_grad():
            attention = None
            if (
                branch is not None
                and branch.layers
                and index >= max(settings.start_step, first + plain_steps)
            ):
                there = tuple(state.to(predictor.model.device) for state in branch.states[index])
                gate = 0.0 if moved is None else settings.gate(index, count)
                if gate > 0:
                    attention = SelfAttention(branch.layers, there, moved, gate)
                elif settings.mutual_self_attention:
                    attention = SelfAttention(branch.layers, there)
            prediction = predictor.predict(latent, timestep, attention)
            latent, _ = schedule.step(latent, prediction, timestep)
            if settings.keep_protected and protected is not None:
                assert branch is not None
                latent = torch.where(protected > 0, branch.latents[index + 1], latent)
        yield latent
