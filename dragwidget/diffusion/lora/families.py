"""Which family of models a LoRA is of, and the first names of Stable Diffusion XL's layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

__all__ = ["family_of", "of_xl", "original_names"]

# Models by the width of the text that their UNet reads.
_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x",
             2048: "Stable Diffusion XL"}  # fmt: skip
_CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv]\b(?!.*(up|lora_B|alpha))")
# What only the UNet of XL has: layers for the pooled text and the image's size.
_ADDED = "add_embedding.linear_1"
_RESNET = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_BLOCK = re.compile(r"(down|up|mid)_blocks?(?:\.(\d+))?\.(\w+)\.(\d+)\.(.+)")


def family_of(matrices: Mapping[str, Tensor]) -> str:
    """Return the family that a LoRA's down matrices are of, by their keys; empty: not known."""
    widths = {down.shape[-1] for key, down in matrices.items() if _CROSS_ATTENTION.search(key)}
    return next((_FAMILIES[width] for width in widths if width in _FAMILIES), "")


def of_xl(layers: Iterable[str]) -> bool:
    """Return whether the paths of a UNet's layers are those of Stable Diffusion XL."""
    return _ADDED in layers


def original_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the layers of an XL UNet by what Stability AI's code calls them, as kohya's does.

    Args:
        paths: of all its layers, as diffusers calls them.
    """
    paths = list(paths)
    matches = [match for path in paths if (match := _BLOCK.fullmatch(path))]
    layers = 1 + max(int(m[4]) for m in matches if m[1] == "down" and m[3] == "resnets")
    attending = {m[2] for m in matches if m[1] == "up" and m[3] == "attentions"}
    named = {_ENDS[path]: path for path in paths if path in _ENDS}
    for match in matches:
        side, block, kind, index, rest = match.groups()
        first = int(block or 0) * (layers + 1)
        inner = _RESNET.get(rest, rest) if kind == "resnets" else rest
        if side == "mid":
            place = f"middle_block.{_MIDDLE[f'{kind}.{index}']}"
        elif kind == "downsamplers":
            place, inner = f"input_blocks.{1 + first + layers}.0", "op"
        elif kind == "upsamplers":
            place = f"output_blocks.{first + layers}.{2 if block in attending else 1}"
        else:
            number = first + int(index) + (side == "down")
            blocks = "input_blocks" if side == "down" else "output_blocks"
            place = f"{blocks}.{number}.{0 if kind == 'resnets' else 1}"
        named[f"{place}.{inner}"] = match[0]
    return named
