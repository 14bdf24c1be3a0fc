"""Stable Diffusion 3 as a backbone: a transformer on a flow path, with three text encoders.

Esser et al., arXiv 2403.03206. Experimental: compared with diffusers on tiny networks; the
published weights were never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dragwidget.data.frames import Size
from dragwidget.data.settings import (
    DragSettings,
    InversionSettings,
    LoRASettings,
    RenderSettings,
    Settings,
)
from dragwidget.diffusion.backbone import Condition, SelfAttention
from dragwidget.diffusion.costs import META, bytes_of
from dragwidget.diffusion.devices import placed_like
from dragwidget.diffusion.joint_blocks import (
    attention_layers,
    attention_switches,
    feature_taps,
    joint_blocks,
    later_half,
)
from dragwidget.diffusion.latent_backbone import LatentBackbone
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.switches import Switch, run
from dragwidget.diffusion.text import encoded_text, token_ids, token_limit
from dragwidget.drag.flow_path import FlowPath
from dragwidget.drag.torch_state import in_plain_torch, ordinary, ordinary_weights

__all__ = ["FlowConditioning", "JointText", "StableDiffusion3", "flow_settings"]

_T5_TOKENS = 256  # that a T5 reads, or that zeros stand for, as in diffusers' pipeline
_WIDEST = 4.0  # longer side over shorter, as for Stable Diffusion XL


@dataclass(frozen=True, eq=False)
class JointText:
    """A text as the transformer reads it.

    Attributes:
        embeddings: (1, L, d): those of both CLIPs side by side, and behind them the T5's.
        pooled: (1, p), both CLIPs' summaries of the whole text.
    """

    embeddings: Tensor
    pooled: Tensor


@dataclass(frozen=True, eq=False)
class FlowConditioning(Condition):
    """What the text asks of the network.

    Attributes:
        prompt: the text.
        negative: what to steer away from, or ``None``.
        guidance_scale: g of classifier-free guidance; at most 1 means none, and ``negative`` is
            not used.
    """

    prompt: JointText
    negative: JointText | None = None
    guidance_scale: float = 1.0

    @property
    def texts(self) -> list[JointText]:
        """The texts of one pass: [prompt], or [negative, prompt] with guidance."""
        if self.guidance_scale > 1 and self.negative is not None:
            return [self.negative, self.prompt]
        return [self.prompt]


class StableDiffusion3(LatentBackbone):
    """A Stable-Diffusion-3-type model: transformer, autoencoder, text encoders, flow path.

    Experimental. No LoRA is trained on it and none is read.

    Attributes:
        transformer: the network.
        text_encoder: CLIP's; may wait on the CPU.
        text_encoder_2: OpenCLIP's, likewise.
        tokenizer: tokenizer of the first text encoder.
        tokenizer_2: tokenizer of the second.
        text_encoder_3: T5's; ``None`` where the folder has none: zeros stand for its embeddings.
        tokenizer_3: its tokenizer, or ``None``.
        shift: shift of the path, see ``FlowPath``.
        levels_count: noise levels of the training.
    """

    PARTS = (
        *LatentBackbone.PARTS, "transformer", "text_encoder", "tokenizer", "text_encoder_2",
        "tokenizer_2", "text_encoder_3", "tokenizer_3", "shift", "levels_count",
    )  # fmt: skip
    NETWORK = "transformer"
    FIRST_BLOCK = ""

    @in_plain_torch
    def __init__(
        self,
        *,
        transformer: Any,
        text_encoder: Any,
        tokenizer: Any,
        text_encoder_2: Any,
        tokenizer_2: Any,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        shift: float = 3.0,
        levels_count: int = 1000,
        **parts: Any,
    ) -> None:
        def fixed(network: Any) -> Any:
            return ordinary_weights(network).eval().requires_grad_(False)

        self.transformer: Any = fixed(transformer)
        self.text_encoder: Any = fixed(text_encoder)
        self.text_encoder_2: Any = fixed(text_encoder_2)
        self.text_encoder_3: Any = None if text_encoder_3 is None else fixed(text_encoder_3)
        self.tokenizer, self.tokenizer_2, self.tokenizer_3 = tokenizer, tokenizer_2, tokenizer_3
        self.shift, self.levels_count = shift, levels_count
        super().__init__(**{"recommended": flow_settings(transformer), **parts})

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Transformer, autoencoder and the text encoders that there are."""
        texts = {
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
            "text_encoder_3": self.text_encoder_3,
        }
        there = {name: network for name, network in texts.items() if network is not None}
        return {"transformer": self.transformer, **super().networks, **there}

    @property
    def tokenizers(self) -> Sequence[Any]:
        """Those of the text encoders that there are."""
        each = (self.tokenizer, self.tokenizer_2, self.tokenizer_3)
        return [tokenizer for tokenizer in each if tokenizer is not None]

    @property
    def path_settings(self) -> Mapping[str, object]:
        """How the path is shifted, and how many noise levels it was trained on."""
        return {"shift": self.shift, "levels_count": self.levels_count}

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Bytes of the weights that stay on the device, and of the largest that visit it."""
        stay, visit = super().weight_bytes
        if not visit:
            return stay, visit
        others = (net for name, net in self.networks.items() if name != self.NETWORK)
        return stay, max(map(bytes_of, others))

    @property
    def feature_block_count(self) -> int:
        """Blocks that features can be read from: the joint blocks."""
        return len(joint_blocks(self.transformer))

    @property
    def self_attention_count(self) -> int:
        """Layers in which image tokens attend to each other."""
        return len(attention_layers(self.transformer))

    @property
    def decoder_attention(self) -> tuple[int, ...]:
        """Those in the second half of the blocks: a transformer has no decoder."""
        return later_half(self.transformer)

    @property
    def image_multiple(self) -> int:
        """Pixels of one token, along one side."""
        return self.vae_factor * int(self.transformer.config["patch_size"])

    @property
    def least_multiple(self) -> int:
        """What both sides of an image must be multiples of, pixels: whole tokens."""
        return self.image_multiple

    def longer_side(self, size: Size) -> int:
        """Return the longer side of as many pixels as the square that it was trained on."""
        ratio, multiple = min(max(size) / min(size), _WIDEST), self.image_multiple
        side = int(round(self.image_side * ratio**0.5 / multiple) * multiple)
        return min(side, self._largest)

    @property
    def _largest(self) -> int:
        """Longest side that it has positions for, pixels."""
        return int(self.transformer.config["pos_embed_max_size"]) * self.image_multiple

    def schedule(self, steps: int) -> FlowPath:
        """Return the flow path in this many steps."""
        return FlowPath(steps, self.shift, self.levels_count)

    @in_plain_torch
    def embed(self, prompt: str) -> JointText:
        """Return a text as the transformer reads it, float32; a longer one is cut, with a warning.

        A T5 reads more of it than the CLIPs do: the warning is of what nothing reads.
        """
        alone = self.text_encoder_3 is None
        first = encoded_text(
            self.text_encoder, self.tokenizer, prompt, self.device, warn=alone,
            output_hidden_states=True,
        )  # fmt: skip
        second = encoded_text(
            self.text_encoder_2, self.tokenizer_2, prompt, self.device, warn=False,
            output_hidden_states=True,
        )  # fmt: skip
        clip = torch.cat([each.hidden_states[-2].float() for each in (first, second)], dim=-1)
        t5 = self._t5(prompt)
        clip = pad(clip, (0, t5.shape[-1] - clip.shape[-1])).to(t5.device)
        pooled = torch.cat([first.text_embeds.float(), second.text_embeds.float()], dim=-1)
        return JointText(torch.cat([clip, t5], dim=1), pooled)

    def _t5(self, prompt: str) -> Tensor:
        """Return what a T5 says of a text, (1, 256, d) float32, or zeros where there is none."""
        if self.text_encoder_3 is None:
            width = self.transformer.config["joint_attention_dim"]
            return torch.zeros(1, _T5_TOKENS, width, device=self.device)
        network = self.text_encoder_3
        tokens = token_ids(self.tokenizer_3, prompt, _T5_TOKENS, ends=1)
        with torch.no_grad():
            states: Tensor = run(
                network,
                (),
                lambda: network(tokens.to(next(network.parameters()).device))[0],
                device=self.device,
            )
        return states.float()

    def encode_text(
        self,
        prompt: str,
        size: Size,
        *,
        negative_prompt: str = "",
        guidance_scale: float = 1.0,
        lora: LoRA | None = None,  # noqa: ARG002 - there is none of this family
    ) -> FlowConditioning:
        """Return the embeddings of a text, and of a negative prompt where it is guided.

        Raises:
            ValueError: the image is larger than the network has positions for.
        """
        if max(size) > self._largest:
            raise ValueError(
                f"{self.name} has positions for images of at most {self._largest} pixels a side, "
                f"got {size[0]} x {size[1]}: lower max_side in set_image()"
            )
        if self.device == META:  # only its shape is asked for
            config = self.transformer.config
            length = token_limit(self.tokenizer, self.text_encoder) + _T5_TOKENS
            shapes = (length, config["joint_attention_dim"]), (config["pooled_projection_dim"],)
            return FlowConditioning(JointText(*(torch.empty(1, *s, device=META) for s in shapes)))
        text = self.embed(prompt)
        if guidance_scale <= 1:
            return FlowConditioning(text)
        return FlowConditioning(text, self.embed(negative_prompt), guidance_scale)

    def _taps(
        self, blocks: Sequence[int], z: Tensor, seen: dict[int, Tensor], *, stop: bool
    ) -> list[Switch]:
        patch = int(self.transformer.config["patch_size"])
        grid = z.shape[2] // patch, z.shape[3] // patch
        return feature_taps(self.transformer, blocks, grid, seen, stop=stop)

    def _watched(self, attention: SelfAttention | None) -> tuple[list[Switch], dict[int, Tensor]]:
        return attention_switches(self.transformer, attention)

    def _inputs(self, condition: Condition, count: int) -> tuple[dict[str, Any], float]:
        if not isinstance(condition, FlowConditioning):
            raise TypeError(
                f"condition must be what {type(self).__name__}.encode_text returns, got "
                f"{type(condition).__name__}"
            )
        texts = condition.texts
        return {
            "encoder_hidden_states": self._rows([text.embeddings for text in texts], count),
            "pooled_projections": self._rows([text.pooled for text in texts], count),
        }, condition.guidance_scale if len(texts) > 1 else 1.0

    def _rows(self, each: Sequence[Tensor], count: int) -> Tensor:
        """Return rows of one pass: each text's so many times, one behind the other."""
        placed = placed_like(self.transformer, ordinary(torch.cat(list(each))))
        return placed.repeat_interleave(count, 0)


def flow_settings(transformer: Any) -> Settings:
    """Return the settings recommended for a transformer on a flow path; none was ever measured.

    Warp needs no features, which nobody has compared in this family. The block is the one at a
    third of the depth, where DragFlow reads FLUX; attention is shared in the second half.
    """
    return Settings(
        inversion=InversionSettings(steps=28, strength=0.7, method="lookahead"),
        lora=LoRASettings(steps=0),
        drag=DragSettings(method="warp", feature_blocks=(len(joint_blocks(transformer)) // 3,)),
        render=RenderSettings(start_layer=later_half(transformer)[0]),
    )
