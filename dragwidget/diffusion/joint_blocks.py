"""The layout of diffusers' ``SD3Transformer2DModel``: features, and attention of image tokens.

Each joint block attends over image and text together (MM-DiT; Esser et al., arXiv 2403.03206), and
in Stable Diffusion 3.5 some attend over the image alone as well. Only this module names its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dragwidget.diffusion.backbone import SelfAttention
from dragwidget.diffusion.switches import Around, Behind, PassDone, Switch
from dragwidget.diffusion.unet import corresponding

__all__ = ["attention_layers", "attention_switches", "feature_taps", "joint_blocks", "later_half"]

# Any, below: diffusers does not say what its modules hold.


def joint_blocks(transformer: Any) -> list[Any]:
    """Return the joint blocks in execution order; features can be read from each."""
    return list(transformer.transformer_blocks)


def attention_layers(transformer: Any) -> list[Any]:
    """Return all layers in which image tokens attend to each other, in execution order."""
    return [
        layer
        for block in joint_blocks(transformer)
        for layer in (block.attn, block.attn2)
        if layer is not None
    ]


def later_half(transformer: Any) -> tuple[int, ...]:
    """Return the numbers of the attention layers in the second half of the blocks."""
    blocks = joint_blocks(transformer)
    first = blocks[len(blocks) // 2].attn
    layers = attention_layers(transformer)
    start = next(number for number, layer in enumerate(layers) if layer is first)
    return tuple(range(start, len(layers)))


def feature_taps(
    transformer: Any,
    blocks: Sequence[int],
    grid: tuple[int, int],
    seen: dict[int, Tensor],
    *,
    stop: bool,
) -> list[Switch]:
    """Return what puts image tokens behind joint blocks into ``seen``, by number, as maps.

    Args:
        blocks: numbers, also from the end.
        grid: (rows, columns) of the image's tokens.
        stop: leave the pass, by ``PassDone``, once the last one has been seen.

    Raises:
        ValueError: there is no such block.
    """
    modules = joint_blocks(transformer)
    count = len(modules)
    unknown = [b for b in blocks if not -count <= b < count]
    if unknown:
        raise ValueError(
            f"this model has no feature block {unknown[0]}: its joint blocks are 0 to "
            f"{count - 1}; set DragSettings.feature_blocks"
        )

    def collect(index: int) -> Callable[[Any], None]:
        def tap(output: Any) -> None:
            tokens: Tensor = output[1]  # behind those of the text, (B, rows x columns, C)
            seen[index] = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)
            if stop and len(seen) == len(set(blocks)):
                raise PassDone

        return tap

    return [Behind(modules[block], collect(block)) for block in set(blocks)]


def attention_switches(
    transformer: Any, attention: SelfAttention | None
) -> tuple[list[Switch], dict[int, Tensor]]:
    """Return what does this in a pass, and where the inputs that it records are, by layer."""
    seen: dict[int, Tensor] = {}
    if attention is None:
        return [], seen
    layers = attention_layers(transformer)
    if attention.reference is None:
        return [Around(layers[n], _record(n, seen)) for n in attention.layers], seen
    switches: list[Switch] = []
    for number, reference in zip(attention.layers, attention.reference, strict=True):
        switches += _attending(layers[number], attention, reference)
    return switches, seen


def _record(number: int, seen: dict[int, Tensor]) -> Callable[..., Any]:
    def attend(forward: Callable[..., Any], hidden_states: Tensor, **rest: Any) -> Any:
        seen[number] = hidden_states.detach()
        return forward(hidden_states=hidden_states, **rest)

    return attend


def _attending(layer: Any, attention: SelfAttention, reference: Tensor) -> list[Switch]:
    """Return what makes keys and values of one layer's image tokens from another pass's inputs.

    Those of the text stay the pass's own. Where the image has two keys a token, so has the text:
    its weight against the image is then as ever.
    """
    others: list[Tensor] = []  # what keys and values are made of at the moment
    tokens = reference.shape[1]

    def project(forward: Callable[..., Any], own: Tensor) -> Any:
        return forward(others[-1] if others else own)

    def project_text(forward: Callable[..., Any], own: Tensor) -> Any:
        return forward(own.repeat(1, others[-1].shape[1] // tokens if others else 1, 1))

    def attend(forward: Callable[..., Any], hidden_states: Tensor, **rest: Any) -> Any:
        texts: list[Tensor] = []

        def over(states: Tensor, keys: Tensor) -> Tensor:
            others.append(keys)
            try:
                output = forward(hidden_states=states, **rest)
            finally:
                others.pop()
            if not isinstance(output, tuple):
                return output  # type: ignore[no-any-return]
            texts.append(output[1])
            image: Tensor = output[0]
            return image

        if attention.moved is None:
            image = over(hidden_states, reference)
        else:
            image = corresponding(over, hidden_states, reference, attention.moved, attention.gate)
        # The first pass of a layer is the one with the edited image's queries.
        return (image, texts[0]) if texts else image

    switches: list[Switch] = [
        Around(layer, attend),
        Around(layer.to_k, project),
        Around(layer.to_v, project),
    ]
    if layer.add_k_proj is None:
        return switches
    return [*switches, *(Around(p, project_text) for p in (layer.add_k_proj, layer.add_v_proj))]
