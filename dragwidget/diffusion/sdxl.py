"""Stable Diffusion XL as a backbone: two text encoders, and a UNet that is told a size."""

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
from dragwidget.diffusion.lora import TEXT_ENCODER_2, LoRA
from dragwidget.diffusion.text import encoded_text, token_limit
from dragwidget.diffusion.unet_backbone import UNetBackbone
from dragwidget.drag.torch_state import in_plain_torch, ordinary, ordinary_weights

__all__ = ["StableDiffusionXL", "Text", "XLConditioning"]

_WIDEST = 4.0  # longer side over shorter; the model was trained on no wider images


@dataclass(frozen=True, eq=False)
class Text:
    """A text as the UNet reads it.

    Attributes:
        embeddings: (1, L, d), those of both text encoders, one behind the other along d.
        pooled: (1, p), the second one's summary of the whole text.
    """

    embeddings: Tensor
    pooled: Tensor

    @property
    def zeros(self) -> Text:
        """What stands for an empty negative prompt."""
        return Text(torch.zeros_like(self.embeddings), torch.zeros_like(self.pooled))


@dataclass(frozen=True, eq=False)
class XLConditioning(Condition):
    """What the text asks of the network, and the image's size, which the network is told.

    Attributes:
        prompt: the text.
        size: (width, height) of the image that the model works on, pixels.
        negative: what to steer away from, or ``None``.
        guidance_scale: g of classifier-free guidance; at most 1 means none, and ``negative`` is
            not used. A network that reads g itself has no ``negative``.
    """

    prompt: Text
    size: Size
    negative: Text | None = None
    guidance_scale: float = 1.0

    @property
    def texts(self) -> list[Text]:
        """The texts of one pass: [prompt], or [negative, prompt] with guidance."""
        guided = self.guidance_scale > 1 and self.negative is not None
        return [self.negative, self.prompt] if guided and self.negative else [self.prompt]

    @property
    def time_ids(self) -> Tensor:
        """(1, 6) float32: height and width as taken, row and column of the crop, and as wanted."""
        width, height = self.size
        return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)


class StableDiffusionXL(UNetBackbone):
    """A Stable-Diffusion-XL-type model: UNet, autoencoder, two text encoders, noise schedule.

    Podell et al., arXiv 2307.01952. The network is told that the image was taken at its working
    size and not cropped.

    Attributes:
        text_encoder: CLIP's; may wait on the CPU.
        text_encoder_2: OpenCLIP's, likewise.
        tokenizer: tokenizer of the first text encoder.
        tokenizer_2: tokenizer of the second.
        zeros_for_empty: an empty negative prompt means zeros, not the embeddings of an empty text.
    """

    PARTS = (
        *UNetBackbone.PARTS, "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2",
        "zeros_for_empty",
    )  # fmt: skip

    @in_plain_torch
    def __init__(
        self,
        *,
        text_encoder: Any,
        tokenizer: Any,
        text_encoder_2: Any,
        tokenizer_2: Any,
        zeros_for_empty: bool = True,
        **parts: Any,
    ) -> None:
        self.text_encoder: Any = ordinary_weights(text_encoder).eval().requires_grad_(False)
        self.text_encoder_2: Any = ordinary_weights(text_encoder_2).eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        self.tokenizer_2: Any = tokenizer_2
        self.zeros_for_empty = zeros_for_empty
        super().__init__(**parts)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """UNet, autoencoder and both text encoders."""
        return {
            **super().networks,
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }

    @property
    def tokenizers(self) -> Sequence[Any]:
        """Those of the first and of the second text encoder."""
        return self.tokenizer, self.tokenizer_2

    @property
    def text_settings(self) -> Mapping[str, object]:
        """Whether an empty negative prompt is zeros."""
        return {"zeros_for_empty": self.zeros_for_empty}

    def longer_side(self, size: Size) -> int:
        """Return the longer side of as many pixels as the square that it was trained on."""
        ratio = min(max(size) / min(size), _WIDEST)
        multiple = self.image_multiple
        return int(round(self.image_side * ratio**0.5 / multiple) * multiple)

    @in_plain_torch
    def embed(self, prompt: str, lora: LoRA | None = None) -> Text:
        """Return a text as the UNet reads it, float32; a longer one is cut, with a warning.

        Args:
            lora: switched on meanwhile, where it has parts for the text encoders.
        """
        first = encoded_text(
            self.text_encoder, self.tokenizer, prompt, self.device, lora,
            styles=self.styles, output_hidden_states=True,
        )  # fmt: skip
        second = encoded_text(
            self.text_encoder_2, self.tokenizer_2, prompt, self.device, lora, TEXT_ENCODER_2,
            styles=self.styles, warn=False, output_hidden_states=True,
        )  # fmt: skip
        # Of both the last layer but one, without the normalization behind the last.
        states = [each.hidden_states[-2].float() for each in (first, second)]
        return Text(torch.cat(states, dim=-1), second.text_embeds.float())

    def encode_text(
        self,
        prompt: str,
        size: Size,
        *,
        negative_prompt: str = "",
        guidance_scale: float = 1.0,
        lora: LoRA | None = None,
    ) -> XLConditioning:
        """Return the embeddings of a text, and of a negative prompt where it is guided."""
        if self.device == META:  # only its shape is asked for
            length = token_limit(self.tokenizer, self.text_encoder)
            width = self.unet.config["cross_attention_dim"]
            pooled = self.text_encoder_2.config.projection_dim
            empty = Text(*(torch.empty(1, *s, device=META) for s in ((length, width), (pooled,))))
            return XLConditioning(empty, size)
        text = self.embed(prompt, lora)
        if self.embeds_guidance:
            self._refuse_negative(negative_prompt)
            return XLConditioning(text, size, None, guidance_scale)
        if guidance_scale <= 1:
            return XLConditioning(text, size)
        zeros = self.zeros_for_empty and not negative_prompt
        negative = text.zeros if zeros else self.embed(negative_prompt, lora)
        return XLConditioning(text, size, negative, guidance_scale)

    def _inputs(self, condition: Condition, count: int) -> tuple[dict[str, Any], float]:
        if not isinstance(condition, XLConditioning):
            raise TypeError(
                f"condition must be what {type(self).__name__}.encode_text returns, got "
                f"{type(condition).__name__}"
            )
        texts = condition.texts

        def batch(rows: Sequence[Tensor]) -> Tensor:
            placed = placed_like(self.unet, ordinary(torch.cat(list(rows))))
            return placed.repeat_interleave(count, 0)

        added = {
            "text_embeds": batch([text.pooled for text in texts]),
            "time_ids": batch([condition.time_ids] * len(texts)),
        }
        embeddings = batch([text.embeddings for text in texts])
        scale = condition.guidance_scale
        return {
            "encoder_hidden_states": embeddings, "added_cond_kwargs": added,
            **self._guidance(scale, count),
        }, scale if len(texts) > 1 else 1.0  # fmt: skip
