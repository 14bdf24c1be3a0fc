"""Mutual self-attention control (Cao et al., MasaCtrl, arXiv 2304.08465; paper, section 3.4).

While the edited latent is denoised, its self-attention takes keys and values from the source
image's own pass at the same step, so that it is painted with the source's material. That
reference branch does not depend on the edit: it is recorded once, as the inputs of the layers it
serves, and used for every render of the same inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion.model import Predictor
from dragwidget.drag.noise_path import Predict, Schedule, denoise

__all__ = [
    "ReferenceBranch",
    "layers_of",
    "looking_at",
    "record_reference",
    "render_latents",
    "self_attention_layers",
    "watching",
]


def self_attention_layers(unet: Any) -> list[Any]:
    """All self-attention layers of a UNet in execution order: down, mid, up."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [layer for block in blocks if block is not None for layer in layers_of(block)]


def layers_of(block: nn.Module) -> list[Any]:
    """The self-attention layers of one block of a UNet, in execution order."""
    return [m for name, m in block.named_modules() if name.rsplit(".", 1)[-1] == "attn1"]


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


class _Record:
    """An attention processor that remembers its layer's input and changes nothing."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seen: Tensor | None = None

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen = hidden_states.detach()
        return self.inner(attn, hidden_states, *args, **kwargs)


class _LookAt:
    """An attention processor whose keys and values come from another pass."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.reference: Tensor | None = None  # set for each step

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        assert encoder_hidden_states is None  # self-attention: nothing else to look at
        return self.inner(attn, hidden_states, self.reference, *args, **kwargs)


@contextmanager
def _processors(unet: Any, layers: tuple[int, ...], kind: type[Any]) -> Iterator[list[Any]]:
    """Wrap the processors of ``layers`` while the context lasts."""
    modules = self_attention_layers(unet)
    originals = [modules[layer].processor for layer in layers]
    wrapped = [kind(original) for original in originals]
    try:
        for layer, processor in zip(layers, wrapped, strict=True):
            modules[layer].set_processor(processor)
        yield wrapped
    finally:
        for layer, original in zip(layers, originals, strict=True):
            modules[layer].set_processor(original)


@contextmanager
def watching(unet: Any, layers: tuple[int, ...]) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
    """A pass inside is as ever; what is given then returns the inputs of ``layers`` in it."""
    with _processors(unet, layers, _Record) as processors:
        yield lambda: tuple(each.seen for each in processors)


@contextmanager
def looking_at(unet: Any, layers: tuple[int, ...], states: Sequence[Tensor]) -> Iterator[None]:
    """In a pass inside, ``layers`` take keys and values from another pass's ``states``."""
    with _processors(unet, layers, _LookAt) as processors:
        for processor, state in zip(processors, states, strict=True):
            processor.reference = state
        yield


def record_reference(
    predictor: Predictor, inverted: Tensor, schedule: Schedule, count: int, settings: RenderSettings
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
    def predict(latent: Tensor, timestep: int) -> Tensor:
        model = predictor.model
        with model.lock, watching(model.unet, branch.layers) as seen:
            prediction = predictor.predict(latent, timestep)
        branch.states.append(tuple(state.to(model.waiting_device) for state in seen()))
        return prediction

    return predict


def render_latents(
    predictor: Predictor,
    edited: Tensor,
    schedule: Schedule,
    count: int,
    branch: ReferenceBranch | None,
    settings: RenderSettings,
    protected: Tensor | None = None,
) -> Iterator[Tensor]:
    """Denoise an edited latent with the reference branch; yield it after each of ``count`` steps.

    Args:
        edited: (1, c, h, w), at the timestep of the inversion.
        branch: complete, of the same schedule and count; ``None`` where the settings need none.
        protected: 1 where ``settings.keep_protected`` puts the source's own latent back, (h, w).
    """
    latent = edited
    for index, timestep in enumerate(schedule.timesteps[schedule.steps - count :]):
        layers: tuple[int, ...] = ()
        states: tuple[Tensor, ...] = ()
        if branch is not None and index >= settings.start_step:
            layers, states = branch.layers, branch.states[index]
        model = predictor.model
        with torch.no_grad():
            there = [state.to(model.device) for state in states]
            with model.lock, looking_at(model.unet, layers, there):
                prediction = predictor.predict(latent, timestep)
            latent, _ = schedule.step(latent, prediction, timestep)
            if settings.keep_protected and protected is not None:
                assert branch is not None
                latent = torch.where(protected > 0, branch.latents[index + 1], latent)
        yield latent
