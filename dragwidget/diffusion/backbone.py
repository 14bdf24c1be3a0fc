"""``Backbone``: all that an edit knows of a generative network.

A backbone turns an image into a latent and back, a text into a ``Condition``, and a latent into a
prediction and features. Everything else, from the drag to the widget, calls these and no network.
Stable Diffusion (``sd``) and Stable Diffusion XL (``sdxl``) are two; another family is another file
with another class.

House letters: ``z`` latent (B, c, h, w) float32, ``t`` a place on the backbone's noise path;
(H, W) image pixels, whose sides are ``vae_factor`` times (h, w).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dragwidget.data.frames import Size
from dragwidget.data.settings import RenderSettings, Settings
from dragwidget.diffusion.domain import Domain
from dragwidget.diffusion.lora import GivenLoRA, LoRA, StyleLoRAs
from dragwidget.diffusion.low_memory import Memory
from dragwidget.drag.correspondence import Correspondence
from dragwidget.drag.cycle_sde import checked
from dragwidget.drag.evaluation import ModelOutput
from dragwidget.drag.noise_path import NoisePath, Spacing, Time
from dragwidget.drag.torch_state import in_plain_torch, ordinary

__all__ = [
    "Backbone", "Condition", "Posterior", "Predictor", "SelfAttention", "Trainable",
    "loaded_models",
]  # fmt: skip

LOADED: weakref.WeakSet[Backbone] = weakref.WeakSet()


def loaded_models() -> list[Backbone]:
    """Return the models that this process holds."""
    return list(LOADED)


class Condition:
    """What a text asks of a network; only the backbone that made it looks inside.

    With classifier-free guidance, the negative prompt and the scale are in it.
    """


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """What one pass does in self-attention layers, which are counted in execution order from 0.

    Attributes:
        layers: which ones.
        reference: for each of them the inputs, (B, tokens, d), that keys and values are made of,
            in place of the pass's own. ``None``: the pass is as ever, and its own inputs are
            returned as ``ModelOutput.states``.
        moved: where each cell's content came from in ``reference``: keys and values are made of
            what the pass itself has and of what its content had there. ``None``: of the reference
            as it is.
        gate: with ``moved`` only: how much of a cell's output is that of the reference at its
            source cell, times the weight of the cell, 0 to 1.
    """

    layers: tuple[int, ...]
    reference: tuple[Tensor, ...] | None = None
    moved: Correspondence | None = None
    gate: float = 0.0


class Backbone(Protocol):
    """A generative network with its autoencoder, its text and its noise path.

    A backbone inherits from this class, for what has a body here; the rest it must have.

    Attributes:
        name: what it was loaded from.
        recommended: the settings that suit this model, feature blocks among them.
        memory: ``"low"``: what is not used at the moment may wait on the CPU, and activations are
            computed twice. The results are the same, the time is more.
        domain: the images that the model knows.
        few_step: by what its files say that it was distilled for a few steps, in words; empty:
            they do not say so.
        loaded_with: the options of ``load_model`` that load it again, together with ``name``,
            ``device``, ``dtype`` and ``memory``; ``None`` where nothing does.
    """

    name: str
    recommended: Settings
    memory: Memory = "normal"
    domain: Domain = Domain()
    few_step: str = ""
    loaded_with: Mapping[str, Any] | None = None
    FIRST_BLOCK: str = " (the mid block)"  # what block 0 is, in messages

    @property
    def fingerprint(self) -> str:
        """A digest of all that its results depend on; another one after its weights changed."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, c."""
        ...

    @property
    def vae_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        ...

    @property
    def image_side(self) -> int:
        """Longer side that the model was trained on, image pixels."""
        ...

    @property
    def image_multiple(self) -> int:
        """What both sides of an image should be multiples of, pixels."""
        ...

    @property
    def least_multiple(self) -> int:
        """What both sides of an image must be multiples of, pixels: whole latent cells."""
        return self.vae_factor

    def longer_side(self, size: Size) -> int:  # noqa: ARG002 - for those that go by the area
        """Return the longer side that an image of this (width, height) is worked on at, pixels."""
        return self.image_side

    @property
    def feature_block_count(self) -> int:
        """Blocks that features can be read from: the mid block (0) and the decoder's (1, ..).

        A transformer has its blocks in execution order. A block can be counted from the end, too:
        -1 is the last.
        """
        ...

    def schedule(self, steps: int) -> NoisePath:
        """Return the noise path, walked in this many steps.

        Raises:
            ValueError: it has no so many steps.
        """
        ...

    def spaced(self, steps: int, spacing: Spacing | Literal["model"]) -> NoisePath:
        """Return the noise path, walked in this many steps of this spacing.

        Args:
            spacing: ``"model"``: as ``schedule`` has them.

        Raises:
            ValueError: it has no so many steps, or no other spacing.
        """
        if spacing != "model":
            raise ValueError(
                f"{self.name} has timesteps of its own alone, and InversionSettings.spacing is "
                f"{spacing!r}: set it to 'model'"
            )
        return self.schedule(steps)

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network reads the guidance scale, in place of a second, negative prompt."""
        return False

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Return the latent (1, c, h, w) float32 of an image (H, W, 3)."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image (1, 3, H, W) float32 in [0, 1] of a latent (1, c, h, w)."""
        ...

    def decode_quickly(self, latent: Tensor) -> Tensor | None:  # noqa: ARG002 - for those that can
        """Return a rough image as ``decode`` does, in far less time; ``None``: it has no means."""
        return None

    def encode_text(
        self,
        prompt: str,
        size: Size,
        *,
        negative_prompt: str = "",
        guidance_scale: float = 1.0,
        lora: LoRA | None = None,
    ) -> Condition:
        """Return what a text asks of the network.

        Args:
            size: (width, height) of the image that the model works on, pixels; some networks are
                told.
            negative_prompt: what guidance steers away from.
            guidance_scale: scale of classifier-free guidance; at most 1 means none.
            lora: switched on in the text encoder meanwhile, where it has a part for it.
        """
        ...

    def __call__(
        self,
        z: Tensor,
        t: Time | Tensor,
        condition: Condition,
        *,
        features: Sequence[int] = (),
        predict: bool = True,
        attention: SelfAttention | None = None,
        lora: LoRA | None = None,
    ) -> ModelOutput:
        """Run the network once, differentiable in ``z`` and in the LoRA's weights.

        Args:
            z: (B, c, h, w) float32.
            t: a timestep of the noise path, or one for each latent, (B,).
            condition: one of this backbone; it holds for every latent.
            features: the blocks whose outputs are returned, in this order.
            predict: ``False``: the pass may end after the last of ``features``.
            attention: what its self-attention layers do meanwhile.
            lora: switched on meanwhile, on the network's device.

        Raises:
            ValueError: there is no such block.
        """
        ...

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The number format of its weights."""
        return torch.float32

    @property
    def waiting_device(self) -> torch.device:
        """Where large tensors wait that are not used soon."""
        return torch.device("cpu") if self.memory == "low" else self.device

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Bytes of the weights that stay on the device, and of those that visit it in turn."""
        return 0, 0

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """All that has weights, by name."""
        return {}

    @property
    def self_attention_count(self) -> int:
        """Self-attention layers that ``SelfAttention`` can name."""
        return 0

    @property
    def decoder_attention(self) -> tuple[int, ...]:
        """Those of them that are the decoder's, by number."""
        return ()

    @property
    def trainable(self) -> Trainable | None:
        """This backbone, where a LoRA can be trained on it."""
        return None

    @property
    def attention_kernels(self) -> list[str]:
        """What computes attention, as far as a user may have chosen it."""
        return []

    def numbered(self, settings: Settings) -> Settings:
        """Return the same settings, with feature blocks that are counted from the end numbered."""
        count = self.feature_block_count
        blocks = tuple(b + count if b < 0 else b for b in settings.drag.feature_blocks)
        return replace(settings, drag=replace(settings.drag, feature_blocks=blocks))

    def check(self, settings: Settings) -> Settings:
        """Return these settings, ``numbered``; raise unless they fit this model.

        Raises:
            TypeError: they are no ``Settings``.
            ValueError: a setting does not fit, named.
        """
        if not isinstance(settings, Settings):
            raise TypeError(f"settings must be Settings, got {type(settings).__name__}")
        inversion = settings.inversion
        schedule = self.spaced(inversion.steps, inversion.spacing)
        if inversion.embedded_guidance != 1 and not self.embeds_guidance:
            raise ValueError(
                f"{self.name} does not read the guidance scale, as latent consistency models do, "
                f"and InversionSettings.embedded_guidance is {inversion.embedded_guidance:g}: set "
                "it to 1"
            )
        if inversion.method == "cycle_sde":
            checked(schedule)
        blocks, count = settings.drag.feature_blocks, self.feature_block_count
        if not all(-count <= block < count for block in blocks):
            raise ValueError(
                f"this model's feature blocks are 0{self.FIRST_BLOCK} to {count - 1}, "
                f"got {blocks}: set DragSettings.feature_blocks"
            )
        self.check_layers(settings.render)
        if settings.drag.attends and not self.decoder_attention:
            raise ValueError(
                f"{self.name} shares no self-attention: set DragSettings.reference_attention to "
                "False and DragSettings.correspondence to 0"
            )
        if settings.lora.steps and self.trainable is None:
            raise ValueError(
                f"{self.name} trains no LoRA, and LoRASettings.steps is {settings.lora.steps}: "
                "set it to 0"
            )
        return self.numbered(settings)

    def check_layers(self, settings: RenderSettings) -> None:
        """Raise ValueError where the render starts at a layer that this model does not have."""
        total = self.self_attention_count
        if settings.attends and not total:
            raise ValueError(
                f"{self.name} shares no self-attention: set RenderSettings.mutual_self_attention "
                "to False and RenderSettings.correspondence to 0"
            )
        if settings.attends and settings.start_layer > total:
            raise ValueError(
                f"RenderSettings.start_layer is {settings.start_layer}, but this model has {total} "
                f"self-attention layers: take one of 0 to {total - 1}, {total} for none of them "
                f"({self.recommended.render.start_layer} is recommended)"
            )

    def predictor(self, condition: Condition, lora: LoRA | None = None) -> Predictor:
        """Return this model with its text and, if there is one, its LoRA."""
        return Predictor(self, condition, lora)

    def read_lora(
        self,
        given: GivenLoRA,
        alpha: float | None = None,  # noqa: ARG002 - for those that take one
    ) -> LoRA | None:
        """Return a LoRA that a user gives, as weights or a file; see ``load_lora``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it does not fit this model.
        """
        if given is None:
            return None
        raise ValueError(f"{self.name} takes no LoRA")

    def with_styles(self, styles: StyleLoRAs) -> Backbone:
        """Return this model with these LoRAs, each with its weight, switched on in every pass.

        It shares this one's networks and has a fingerprint of its own. They come after those that
        this model has already; a LoRA that is given to a pass, or trained, comes on top.

        Raises:
            ValueError: it takes no LoRA, or one of these does not fit it.
        """
        if styles:
            raise ValueError(f"{self.name} takes no LoRA")
        return self

    def with_memory(self, memory: Memory) -> Backbone:  # noqa: ARG002 - likewise
        """Return the same model with another choice of ``memory``."""
        raise ValueError(f"{self.name} has no other choice than memory={self.memory!r}")

    def on_meta(self, like: Backbone | None = None) -> Backbone:  # noqa: ARG002 - likewise
        """Return a model of the same shape on PyTorch's meta device, for estimates.

        Args:
            like: an earlier one of the same networks, which are shared.
        """
        raise ValueError(f"{self.name} has no copy without weights, so nothing is estimated")


class Posterior(Protocol):
    """An autoencoder's distribution over latents, in its own precision and unscaled."""

    @property
    def mean(self) -> Tensor:
        """(1, c, h, w)."""
        ...

    @property
    def std(self) -> Tensor:
        """(1, c, h, w)."""
        ...


class Trainable(Backbone, Protocol):
    """A backbone that a LoRA can be trained on."""

    @property
    def training_steps(self) -> int:
        """Noise levels that the network was trained on; a level is a whole number from 0."""
        ...

    def posterior(self, pixels: npt.NDArray[np.uint8]) -> Posterior:
        """Return the distribution over latents for an image (H, W, 3)."""
        ...

    def sample_posterior(self, posterior: Posterior, generator: torch.Generator) -> Tensor:
        """Draw a latent (1, c, h, w) float32, as ``encode`` scales it."""
        ...

    def initial_lora(self, rank: int, generator: torch.Generator) -> LoRA:
        """Draw a LoRA that changes nothing yet."""
        ...


class Predictor:
    """A backbone with its text and LoRA: a ``DragModel``, and a predictor for the noise path.

    Attributes:
        model: the backbone.
        condition: what the text asks of it.
        lora: on the model's device, in its number format; ``None``: none.
    """

    @in_plain_torch
    def __init__(self, model: Backbone, condition: Condition, lora: LoRA | None = None) -> None:
        self.model = model
        self.condition = condition
        self.lora = None if lora is None else lora.map(self._placed)

    def _placed(self, matrix: Tensor) -> Tensor:
        return ordinary(matrix).to(self.model.device, self.model.dtype)

    def predict(
        self, latent: Tensor, timestep: Time, attention: SelfAttention | None = None
    ) -> Tensor:
        """Return noise or velocity for a latent (1, c, h, w) at a timestep, float32."""
        prediction = self(latent, timestep, attention=attention).prediction
        assert prediction is not None
        return prediction

    def __call__(
        self,
        latent: Tensor,
        timestep: Time,
        *,
        blocks: Sequence[int] = (),
        predict: bool = True,
        attention: SelfAttention | None = None,
    ) -> ModelOutput:
        """Run the network once; see ``DragModel`` and ``Backbone``."""
        return self.model(
            latent,
            timestep,
            self.condition,
            features=blocks,
            predict=predict,
            attention=attention,
            lora=self.lora,
        )
