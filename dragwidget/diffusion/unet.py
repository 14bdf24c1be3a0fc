"""The layout of diffusers' ``UNet2DConditionModel``: where features and self-attention are.

Stable Diffusion and Stable Diffusion XL share it, and only this module names its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dragwidget.diffusion.backbone import SelfAttention
from dragwidget.diffusion.switches import Around, Behind, PassDone, Switch
from dragwidget.drag.correspondence import Correspondence

__all__ = [
    "attending", "attention_switches", "corresponding", "decoder_layers",
    "feature_blocks", "feature_taps", "layers_of", "paper_block", "paper_layer", "recorded",
    "self_attention_layers",
]  # fmt: skip

# Any, below: diffusers does not say what its modules hold.


def feature_blocks(unet: Any) -> list[Any]:
    """Return the blocks that features can be read from: the mid block and every up block."""
    return [unet.mid_block, *unet.up_blocks]


def feature_taps(
    unet: Any, blocks: Sequence[int], seen: dict[int, Tensor], *, stop: bool
) -> list[Switch]:
    """Return what puts the outputs of ``feature_blocks`` of a pass into ``seen``, by number.

    Args:
        blocks: numbers, also from the end.
        stop: leave the pass, by ``PassDone``, once the last one has been seen.

    Raises:
        ValueError: there is no such block.
    """
    modules = feature_blocks(unet)
    count = len(modules)
    unknown = [b for b in blocks if not -count <= b < count or modules[b] is None]
    if unknown:
        raise ValueError(
            f"this model has no feature block {unknown[0]}: its blocks are 0 (the mid block) to "
            f"{count - 1}; set DragSettings.feature_blocks"
        )

    def collect(index: int) -> Callable[[Any], None]:
        def tap(output: Any) -> None:
            seen[index] = output[0] if isinstance(output, tuple) else output
            if stop and len(seen) == len(set(blocks)):
                raise PassDone

        return tap

    return [Behind(modules[block], collect(block)) for block in set(blocks)]


def self_attention_layers(unet: Any) -> list[Any]:
    """Return all self-attention layers of a UNet in execution order: down, mid, up."""
    blocks = [*unet.down_blocks, *feature_blocks(unet)]
    return [layer for block in blocks if block is not None for layer in layers_of(block)]


def decoder_layers(unet: Any) -> tuple[int, ...]:
    """Return which self-attention layers are the decoder's: those of the up blocks."""
    total = len(self_attention_layers(unet))
    return tuple(range(total - sum(len(layers_of(up)) for up in unet.up_blocks), total))


def layers_of(block: nn.Module) -> list[Any]:
    """Return the self-attention layers of one block of a UNet, in execution order."""
    return [m for name, m in block.named_modules() if name.rsplit(".", 1)[-1] == "attn1"]


def attention_switches(
    unet: Any, attention: SelfAttention | None
) -> tuple[list[Switch], dict[int, Tensor]]:
    """Return what does this in a pass, and where the inputs that it records are, by layer."""
    if attention is None:
        return [], {}
    if attention.reference is None:
        return recorded(unet, attention.layers)
    return attending(unet, attention, attention.reference), {}


def recorded(unet: Any, layers: tuple[int, ...]) -> tuple[list[Switch], dict[int, Tensor]]:
    """Return what records the inputs of ``layers`` in a pass; and where, by layer."""
    seen: dict[int, Tensor] = {}

    def record(layer: int) -> Callable[..., Any]:
        def attend(forward: Callable[..., Any], states: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen[layer] = states.detach()
            return forward(states, *args, **kwargs)

        return attend

    modules = self_attention_layers(unet)
    return [Around(modules[layer], record(layer)) for layer in layers], seen


def attending(unet: Any, attention: SelfAttention, references: Sequence[Tensor]) -> list[Switch]:
    """Return what lets layers take keys and values from another pass's inputs, by layer."""

    def mutual(reference: Tensor) -> Callable[..., Any]:
        def attend(
            forward: Callable[..., Any],
            own: Tensor,
            encoder_hidden_states: Tensor | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            assert encoder_hidden_states is None  # self-attention attends to nothing else

            def over(states: Tensor, others: Tensor) -> Any:
                return forward(states, others, *args, **kwargs)

            if attention.moved is None:
                return over(own, reference)
            return corresponding(over, own, reference, attention.moved, attention.gate)

        return attend

    modules = self_attention_layers(unet)
    return [
        Around(modules[layer], mutual(reference))
        for layer, reference in zip(attention.layers, references, strict=True)
    ]


def corresponding(
    attend: Callable[[Tensor, Tensor], Tensor],
    own: Tensor,
    reference: Tensor,
    moved: Correspondence,
    gate: float,
) -> Tensor:
    """Return attention by an explicit map, after LazyDrag (arXiv 2509.12203), (B, tokens, d).

    There are two keys, and two values, for each cell: its own and its source cell's. The background
    has the source's twice, a hole its own twice, and the background beside an editable cell one of
    each; so where nothing has changed all weights are those of self-attention. The source's own
    output is then mixed in at the destinations.

    Args:
        attend: a layer's attention of states, (B, tokens, d), to others.
        own: input of the layer in this pass, (B, tokens, d).
        reference: its input in the source's pass, likewise.
        moved: the map.
        gate: see ``SelfAttention``.
    """
    there = moved.at(own.shape[1])

    def tokens(values: Tensor) -> Tensor:
        return values.flatten().to(own.device)[:, None]

    index = there.index.to(own.device)
    first = torch.where(tokens(there.editable | there.border), own, reference)
    second = torch.where(tokens(there.holes), own, reference[:, index])
    output = attend(own, torch.cat([first, second], dim=1))
    share = gate * tokens(there.weight).to(output)
    return (1 - share) * output + share * attend(reference, reference)[:, index]


def paper_block(unet: Any) -> int:
    """Return the block that the paper compares: the last but one of the decoder's."""
    return max(1, len(unet.up_blocks) - 1)


def paper_layer(unet: Any) -> int:
    """Return the self-attention layer where mutual self-attention starts: that block's first."""
    behind = sum(len(layers_of(up)) for up in unet.up_blocks[paper_block(unet) - 1 :])
    return len(self_attention_layers(unet)) - behind
