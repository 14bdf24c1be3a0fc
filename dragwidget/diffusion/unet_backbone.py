"""A backbone of diffusers' parts: a UNet, an autoencoder and the noise levels of DDPM.

What Stable Diffusion and Stable Diffusion XL share is here; what they do not is how a text is
read, which a subclass says (``sd``, ``sdxl``).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from dragwidget.diffusion import autoencoder
from dragwidget.diffusion.backbone import SelfAttention, Trainable
from dragwidget.diffusion.devices import placed_like
from dragwidget.diffusion.few_step import guidance_embedding
from dragwidget.diffusion.latent_backbone import LatentBackbone
from dragwidget.diffusion.lora import (
    PARTS,
    UNET,
    GivenLoRA,
    LoRA,
    Part,
    StyleLoRAs,
    given_lora,
    switches_of_all,
)
from dragwidget.diffusion.switches import Switch
from dragwidget.diffusion.unet import (
    attention_switches,
    decoder_layers,
    feature_blocks,
    feature_taps,
    self_attention_layers,
)
from dragwidget.drag.noise_path import PredictionType, Schedule, Spacing
from dragwidget.drag.torch_state import in_plain_torch, ordinary, ordinary_weights

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["UNetBackbone"]


class UNetBackbone(LatentBackbone, Trainable):
    """A UNet, an autoencoder and a noise schedule; a subclass adds the text.

    Weights never take gradients; latents are float32 whatever the weights are.

    Attributes:
        unet: the network.
        alphas_cumprod: cumulative alphas of the forward process, (L,) float32.
        prediction_type: what the UNet predicts, noise or velocity.
        steps_offset: the last timestep of a run by leading spacing.
        spacing: where the timesteps of a run lie, see ``Schedule``.
        styles: LoRAs that are on in every pass, see ``with_styles``.
        preview_vae: a tiny autoencoder that draws previews, or ``None``; no render depends on it.
    """

    PARTS = (
        *LatentBackbone.PARTS, "unet", "alphas_cumprod", "prediction_type", "steps_offset",
        "preview_vae", "spacing", "few_step",
    )  # fmt: skip
    NETWORK = "unet"

    styles: StyleLoRAs = ()
    _unstyled: Self | None = None  # the model without them
    _placed_styles: StyleLoRAs = ()  # on the UNet's device, in its number format

    @in_plain_torch
    def __init__(
        self,
        *,
        unet: Any,
        alphas_cumprod: Tensor,
        prediction_type: PredictionType = "epsilon",
        steps_offset: int = 1,
        preview_vae: Any = None,
        spacing: Spacing = "leading",
        few_step: str = "",
        **parts: Any,
    ) -> None:
        # Any: diffusers does not say what its modules hold.
        if preview_vae is not None:
            preview_vae = ordinary_weights(preview_vae).eval().requires_grad_(False)
        self.preview_vae: Any = preview_vae
        self.unet: Any = ordinary_weights(unet).eval().requires_grad_(False)
        self.alphas_cumprod = ordinary(alphas_cumprod).float().cpu()
        self.prediction_type: PredictionType = prediction_type
        self.steps_offset = steps_offset
        self.spacing: Spacing = spacing
        self.few_step = few_step
        super().__init__(**parts)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The UNet and the autoencoder, and what a subclass adds."""
        return {"unet": self.unet, **super().networks}

    @property
    def path_settings(self) -> Mapping[str, object]:
        """Noise levels, what the UNet predicts for them, and where a run ends."""
        return {
            "alphas_cumprod": self.alphas_cumprod,
            "prediction_type": self.prediction_type,
            "steps_offset": self.steps_offset,
            **({} if self.spacing == "leading" else {"spacing": self.spacing}),
        }

    def with_parts(self, **parts: Any) -> Self:
        """Return a model like this one with other parts; no name and options load it any more."""
        return super().with_parts(**parts).with_styles(self.styles)

    @in_plain_torch
    def with_styles(self, styles: StyleLoRAs) -> Self:
        """Return this model with LoRAs that are on in every pass, after those it has now."""
        if not styles:
            return self
        for style, _ in styles:
            self.read_lora(style)  # refuses what does not fit
        made = copy.copy(self)
        made._unstyled, made.styles = self._unstyled or self, (*self.styles, *styles)
        made._placed_styles = [
            (style.only(UNET).map(lambda m: ordinary(m).to(self.device, self.dtype)), weight)
            for style, weight in made.styles
        ]
        return made

    @property
    def fingerprint(self) -> str:
        """As of any backbone; LoRAs that are on in every pass make another model."""
        if self._unstyled is None:
            return super().fingerprint
        styles = [[style.digest, weight] for style, weight in self.styles]
        described = json.dumps([self._unstyled.fingerprint, styles])
        return hashlib.sha256(described.encode()).hexdigest()

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """As of any backbone, with the LoRAs that are on in every pass."""
        stays, visits = super().weight_bytes
        matrices = [m for s, _ in self._placed_styles for m in (*s.down.values(), *s.up.values())]
        return stays + sum(m.nbytes for m in matrices), visits

    @property
    def trainable(self) -> Self:
        """This model: a LoRA can be trained on it."""
        return self

    @property
    def training_steps(self) -> int:
        """Noise levels that the network was trained on."""
        return len(self.alphas_cumprod)

    @property
    def feature_block_count(self) -> int:
        """Blocks that features can be read from: the mid block and every up block."""
        return len(feature_blocks(self.unet))

    @property
    def self_attention_count(self) -> int:
        """Self-attention layers of the UNet."""
        return len(self_attention_layers(self.unet))

    @property
    def decoder_attention(self) -> tuple[int, ...]:
        """Self-attention layers of the decoder."""
        return decoder_layers(self.unet)

    @property
    def image_multiple(self) -> int:
        """Image sides that are multiples of this are halved evenly at every level, pixels."""
        levels = len(self.unet.config["block_out_channels"])
        return int(self.vae_factor * 2 ** (levels - 1))

    def schedule(self, steps: int) -> Schedule:
        """Return DDIM with this many steps, on this model's noise levels."""
        return self.spaced(steps, "model")

    def spaced(self, steps: int, spacing: Spacing | Literal["model"]) -> Schedule:
        """Return DDIM with this many steps of this spacing; ``"model"``: the model's own."""
        where = self.spacing if spacing == "model" else spacing
        return Schedule(self.alphas_cumprod, steps, self.steps_offset, self.prediction_type, where)

    @property
    def embeds_guidance(self) -> bool:
        """Whether the UNet reads the guidance scale, as latent consistency models do."""
        return self.unet.config.get("time_cond_proj_dim") is not None

    def _refuse_negative(self, prompt: str) -> None:
        """Raise ValueError for a negative prompt that guidance would not steer away from."""
        if prompt:
            raise ValueError(
                f"{self.name} reads the guidance scale, and so no negative prompt: leave it empty, "
                f"got {prompt[:60]!r}"
            )

    def _guidance(self, scale: float, count: int) -> dict[str, Tensor]:
        """Return what a UNet that reads the guidance scale is given of it, for ``count`` rows."""
        if not self.embeds_guidance:
            return {}
        row = guidance_embedding(scale, self.unet.config["time_cond_proj_dim"])
        return {"timestep_cond": placed_like(self.unet, row).expand(count, -1)}

    @in_plain_torch
    def decode_quickly(self, latent: Tensor) -> Tensor | None:
        """Return a rough image of a latent by the tiny autoencoder; ``None``: there is none."""
        if self.preview_vae is None:
            return None
        return autoencoder.decode(self.preview_vae, latent, self.device)

    def read_lora(self, given: GivenLoRA, alpha: float | None = None) -> LoRA | None:
        """Return a LoRA that a user gives, as weights or a file; see ``load_lora``."""
        parts: dict[Part, nn.Module] = {p: self.networks[p] for p in PARTS if p in self.networks}
        return given_lora(given, parts, alpha)

    def initial_lora(self, rank: int, generator: torch.Generator) -> LoRA:
        """Draw a LoRA that changes nothing yet."""
        return LoRA.initial(self.unet, rank, generator)

    def _adapted(self, lora: LoRA | None) -> list[Switch]:
        own = [] if lora is None else [(lora, 1.0)]
        return switches_of_all(self.unet, [*self._placed_styles, *own])

    def _taps(
        self,
        blocks: Sequence[int],
        z: Tensor,  # noqa: ARG002 - a UNet's features are maps as they are
        seen: dict[int, Tensor],
        *,
        stop: bool,
    ) -> list[Switch]:
        return feature_taps(self.unet, blocks, seen, stop=stop)

    def _watched(self, attention: SelfAttention | None) -> tuple[list[Switch], dict[int, Tensor]]:
        return attention_switches(self.unet, attention)
