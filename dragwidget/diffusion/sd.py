"""Stable Diffusion 1.x and 2.x as a backbone: one text encoder, whose states the UNet reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dragwidget.data.frames import Size
from dragwidget.diffusion.backbone import Condition
from dragwidget.diffusion.costs import META
from dragwidget.diffusion.devices import placed_like
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.text import encoded_text, token_limit
from dragwidget.diffusion.unet_backbone import UNetBackbone
from dragwidget.drag.torch_state import in_plain_torch, ordinary, ordinary_weights

__all__ = ["Conditioning", "StableDiffusion"]


@dataclass(frozen=True, eq=False)
class Conditioning(Condition):
    """What the text asks of the network.

    Attributes:
        prompt: embeddings, (1, L, d).
        negative: embeddings of what to steer away from, (1, L, d), or ``None``.
        guidance_scale: g of classifier-free guidance; at most 1 means none, and ``negative`` is
            not used. A network that reads g itself has no ``negative``.
    """

    prompt: Tensor
    negative: Tensor | None = None
    guidance_scale: float = 1.0

    @property
    def guided(self) -> bool:
        """Whether a pass is of two prompts."""
        return self.guidance_scale > 1 and self.negative is not None

    @property
    def batch(self) -> Tensor:
        """Embeddings of one pass: [prompt], or [negative, prompt] with guidance."""
        if self.guided:
            assert self.negative is not None
            return torch.cat([self.negative, self.prompt])
        return self.prompt


class StableDiffusion(UNetBackbone):
    """A Stable-Diffusion-type model: UNet, autoencoder, text encoder, noise schedule.

    Weights never take gradients; latents are float32 whatever the weights are.

    Attributes:
        name: what it was loaded from.
        recommended: the settings that suit this model; the paper's unless it says otherwise.
        memory: ``"low"``: for gradients, activations are computed twice, not kept; autoencoder and
            text encoder may wait on the CPU, and so does what a render remembers. The results are
            the same; it takes longer.
        domain: the images that the model knows.
        encoding: what ``encode`` takes of the autoencoder's posterior: its ``"mean"``, as
            DragDiffusion does, or a ``"sample"`` with the same noise always, for a model whose
            posterior is wide: it was trained on samples, and from the mean DDIM inversion would
            not reach noise.
        loaded_with: the options of ``load_model`` that were given: ``vae``, ``revision``,
            ``variant``, ``cache_dir``, ``config``, ``prediction_type``, ``embeddings``,
            ``preview_vae``; ``None`` where it was not loaded by name, or has other parts since.
            With ``name``, ``device``, ``dtype`` and ``memory`` they load the same model again.
    """

    PARTS = (*UNetBackbone.PARTS, "text_encoder", "tokenizer")

    @in_plain_torch
    def __init__(self, *, text_encoder: Any, tokenizer: Any, **parts: Any) -> None:
        self.text_encoder: Any = ordinary_weights(text_encoder).eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        super().__init__(**parts)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """UNet, autoencoder and text encoder."""
        return {**super().networks, "text_encoder": self.text_encoder}

    @property
    def tokenizers(self) -> Sequence[Any]:
        """The one tokenizer."""
        return (self.tokenizer,)

    @in_plain_torch
    def embed(self, prompt: str, lora: LoRA | None = None) -> Tensor:
        """Return the embeddings (1, L, d) float32 of a text; a longer one is cut, with a warning.

        Args:
            lora: switched on meanwhile, where it has a part for the text encoder.
        """
        states = encoded_text(
            self.text_encoder, self.tokenizer, prompt, self.device, lora, styles=self.styles
        )
        embeddings: Tensor = states[0]
        return embeddings.float()

    def encode_text(
        self,
        prompt: str,
        size: Size,  # noqa: ARG002 - this network is not told
        *,
        negative_prompt: str = "",
        guidance_scale: float = 1.0,
        lora: LoRA | None = None,
    ) -> Conditioning:
        """Return the embeddings of a text, and of a negative prompt where it is guided."""
        if self.device == META:  # only its shape is asked for
            length = token_limit(self.tokenizer, self.text_encoder)
            width = self.unet.config["cross_attention_dim"]
            return Conditioning(torch.empty(1, length, width, device=META))
        text = self.embed(prompt, lora)
        if self.embeds_guidance:
            self._refuse_negative(negative_prompt)
            return Conditioning(text, None, guidance_scale)
        if guidance_scale <= 1:
            return Conditioning(text)
        return Conditioning(text, self.embed(negative_prompt, lora), guidance_scale)

    def _inputs(self, condition: Condition, count: int) -> tuple[dict[str, Any], float]:
        if not isinstance(condition, Conditioning):
            raise TypeError(
                f"condition must be what {type(self).__name__}.encode_text returns, got "
                f"{type(condition).__name__}"
            )
        text = placed_like(self.unet, ordinary(condition.batch))
        if condition.guided:
            text = text.repeat_interleave(count, 0)
        given = {"encoder_hidden_states": text if condition.guided else text.expand(count, -1, -1)}
        scale = condition.guidance_scale
        return given | self._guidance(scale, count), scale if condition.guided else 1.0
