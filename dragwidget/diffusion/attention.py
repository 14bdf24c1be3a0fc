"""Mutual self-attention control (Cao et al., MasaCtrl, arXiv 2304.08465; paper, section 3.4).

While the edited latent is denoised, its self-attention takes keys and values from the reference
branch of the source at the same step, so that it keeps the source's texture. The reference branch
does not depend on the edit: it is recorded once, as the inputs of the layers that it serves, and
used for every render of the same inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion.model import DiffusionModel, Predictor
from dragwidget.diffusion.switches import Around, Switch
from dragwidget.drag.noise_path import NoisePath, Predict, Time, denoise
from dragwidget.drag.torch_state import in_plain_torch

__all__ = [
    "ReferenceBranch",
    "attending",
    "attention_of",
    "layers_of",
    "record_reference",
    "recorded",
    "render_latents",
    "self_attention_layers",
]


def self_attention_layers(unet: Any) -> list[Any]:
    """Return all self-attention layers of a UNet in execution order: down, mid, up."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [layer for block in blocks if block is not None for layer in layers_of(block)]


def layers_of(block: nn.Module) -> list[Any]:
    """Return the self-attention layers of one block of a UNet, in execution order."""
    return [m for name, m in block.named_modules() if name.rsplit(".", 1)[-1] == "attn1"]


def attention_of(model: DiffusionModel) -> list[str]:
    """What computes attention in a model's networks: the user may have set other processors."""
    with model.lock:  # during a pass there may be ours
        names = {
            type(module.processor).__qualname__
            for network in (model.unet, model.vae)
            for module in network.modules()
            if hasattr(module, "processor")
        }
    return [*sorted(names), str(getattr(model.text_encoder.config, "_attn_implementation", ""))]


@dataclass(frozen=True, eq=False)
class ReferenceBranch:
    """What the source image's pass shows to the edited one, and the source as it comes back.

    Attributes:
        layers: which self-attention layers it covers, counted in execution order.
        states: for each denoising step, the input of each of these layers, (B, tokens, d).
        latents: the source's own latents, the inverted one first, each (1, c, h, w).
    """

    layers: tuple[int, ...]
    states: list[tuple[Tensor, ...]] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)


def recorded(unet: Any, layers: tuple[int, ...]) -> tuple[list[Switch], dict[int, Tensor]]:
    """What records the inputs of ``layers`` in a pass, which is as ever; and where, by layer."""
    seen: dict[int, Tensor] = {}

    def record(layer: int) -> Callable[..., Any]:
        def attend(forward: Callable[..., Any], states: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen[layer] = states.detach()
            return forward(states, *args, **kwargs)

        return attend

    modules = self_attention_layers(unet)
    return [Around(modules[layer], record(layer)) for layer in layers], seen


def attending(unet: Any, layers: tuple[int, ...], states: Sequence[Tensor]) -> list[Switch]:
    """What lets ``layers`` take keys and values from another pass's ``states``, one for each."""

    def mutual(reference: Tensor) -> Callable[..., Any]:
        def attend(
            forward: Callable[..., Any],
            own: Tensor,
            encoder_hidden_states: Tensor | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            assert encoder_hidden_states is None  # self-attention attends to nothing else
            return forward(own, reference, *args, **kwargs)

        return attend

    modules = self_attention_layers(unet)
    return [
        Around(modules[layer], mutual(reference))
        for layer, reference in zip(layers, states, strict=True)
    ]


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
    predictor.model.check_layers(settings)
    total = len(self_attention_layers(predictor.model.unet))
    layers = tuple(range(settings.start_layer, total)) if settings.mutual_self_attention else ()
    branch = ReferenceBranch(layers, latents=[inverted])
    for latent in denoise(_recording(predictor, branch), inverted, schedule, count):
        branch.latents.append(latent)
        yield branch


def _recording(predictor: Predictor, branch: ReferenceBranch) -> Predict:
    def predict(latent: Tensor, timestep: Time) -> Tensor:
        model = predictor.model
        switches, seen = recorded(model.unet, branch.layers)
        prediction = predictor.predict(latent, timestep, switches)
        branch.states.append(tuple(seen[k].to(model.waiting_device) for k in branch.layers))
        return prediction

    return predict


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
) -> Iterator[Tensor]:
    """Denoise an edited latent with the reference branch; yield it after each of ``count`` steps.

    Args:
        edited: (1, c, h, w), at the timestep of the inversion, or of step ``first``.
        branch: complete, of the same schedule and count; ``None`` where the settings need none.
        first: which of the ``count`` steps to begin with; the latent is at its timestep.
        protected: 1 where ``settings.keep_protected`` puts the source's own latent back, (h, w).
    """
    latent = edited
    for index, timestep in enumerate(schedule.last(count)):
        if index < first:
            continue
        layers: tuple[int, ...] = ()
        states: tuple[Tensor, ...] = ()
        if branch is not None and index >= settings.start_step:
            layers, states = branch.layers, branch.states[index]
        model = predictor.model
        with torch.no_grad():
            there = [state.to(model.device) for state in states]
            switches = attending(model.unet, layers, there)
            prediction = predictor.predict(latent, timestep, switches)
            latent, _ = schedule.step(latent, prediction, timestep)
            if settings.keep_protected and protected is not None:
                assert branch is not None
                latent = torch.where(protected > 0, branch.latents[index + 1], latent)
        yield latent
