"""LoRA (Hu et al., arXiv 2106.09685) on a UNet and its text encoders, as plain data.

A LoRA adds ``up(down(x))`` to linear and convolution layers; one that is trained here, to the
query, key, value and output projections of every attention layer, self and cross. It is switched
on for the length of a pass (``switches``): no module is replaced, two edits can share one network,
and nothing stays on after an error.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dragwidget.diffusion.lora.families import family_of
from dragwidget.diffusion.lora.peft_config import TEXT_PARTS, UNET, Part, part_of
from dragwidget.diffusion.switches import Around, Switch, switched_on
from dragwidget.drag.torch_state import in_plain_torch

__all__ = [
    "LoRA", "StyleLoRAs", "adaptable_layers", "enabled", "projections", "switches_of",
    "switches_of_all",
]  # fmt: skip

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
_NAMES: dict[Part, str] = {
    "unet": "UNet", "text_encoder": "text encoder", "text_encoder_2": "second text encoder",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoRA:
    """The weights of one LoRA.

    Attributes:
        down: by path of the layer in the UNet, (r, inputs), of a convolution (r, inputs, kh, kw).
            A layer of a text encoder has a path that begins with ``text_encoder.`` or
            ``text_encoder_2.``.
        up: by the same paths, (outputs, r) or (outputs, r, 1, 1); any scaling is already in it.
        origin: the format of the file that it was read from, and its scale.
        path: absolute path of that file, or of its folder; ``None``: not known.
        alpha: as it was given for that file.
    """

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    origin: str = ""
    path: str | None = None
    alpha: float | None = None

    @classmethod
    @in_plain_torch
    def initial(cls, unet: nn.Module, rank: int, generator: torch.Generator) -> LoRA:
        """Return a LoRA that changes nothing yet: down normal with deviation 1 / rank, up zero."""
        down, up = {}, {}
        for path, layer in projections(unet).items():
            normal = torch.randn(rank, layer.in_features, generator=generator)
            down[path] = normal / rank
            up[path] = torch.zeros(layer.out_features, rank)
        return cls(down, up)

    @cached_property
    def digest(self) -> str:
        """Digest of the weights, to tell one LoRA from another; computed once."""
        digest = hashlib.sha256()
        for path, down in sorted(self.down.items()):
            for matrix in (down, self.up[path]):
                digest.update(f"{path} {tuple(matrix.shape)}".encode())
                digest.update(matrix.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def map(self, change: Callable[[Tensor], Tensor]) -> LoRA:
        """Return the same with ``change`` applied to every matrix."""
        return replace(
            self,
            down={path: change(matrix) for path, matrix in self.down.items()},
            up={path: change(matrix) for path, matrix in self.up.items()},
        )

    def only(self, part: Part) -> LoRA:
        """Return what it changes in one network."""
        down = {path: matrix for path, matrix in self.down.items() if part_of(path) == part}
        return replace(self, down=down, up={path: self.up[path] for path in down})

    def part(self, part: Part) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the down and up matrices of one network, by layer path."""
        return {
            path.removeprefix(f"{part}."): (down, self.up[path])
            for path, down in self.down.items()
            if part_of(path) == part
        }

    @property
    def summary(self) -> str:
        """Format, rank, scale and how many layers of which kind, in one line."""
        ranks = sorted({len(matrix) for matrix in self.down.values()})
        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        kinds = Counter(map(_kind_of, self.down, self.down.values()))
        layers = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return ", ".join(filter(None, [self.origin, rank, f"layers: {layers}"]))

    def check(self, networks: Mapping[Part, nn.Module]) -> None:
        """Raise ValueError unless every matrix has its place in these networks."""
        for part, name in _NAMES.items():
            if part in networks:
                self._check_part(part, name, adaptable_layers(networks[part]))
            elif self.part(part):
                raise ValueError(
                    f"this LoRA{self._family} changes the {name} too, and none was given: give "
                    f"{part}= (a session gives its model's)"
                )

    def _check_part(self, part: Part, name: str, layers: Mapping[str, Any]) -> None:
        for path, (down, up) in self.part(part).items():
            if path not in layers:
                raise ValueError(
                    f"this LoRA changes {path}, which is no linear or convolution layer of this "
                    f"{name}: it belongs to another model{self._family}"
                )
            layer = layers[path]
            wanted_ndim = layer.weight.ndim
            if (down.ndim, up.ndim) != (wanted_ndim, wanted_ndim) or down.shape[0] != up.shape[1]:
                raise ValueError(
                    f"this LoRA's {path} is not of one rank: its matrices are "
                    f"{tuple(down.shape)} and {tuple(up.shape)}"
                )
            outputs, inputs, *kernel = layer.weight.shape
            got = (down.shape[1], up.shape[0])
            if got != (inputs, outputs):
                raise ValueError(
                    f"this LoRA belongs to another model{self._family}: its {path} goes from "
                    f"{got[0]} to {got[1]} channels, this {name}'s from {inputs} to {outputs}"
                )
            if [*down.shape[2:]] != kernel or set(up.shape[2:]) - {1}:
                raise ValueError(
                    f"this LoRA belongs to another model{self._family}: its {path} has kernels of "
                    f"{tuple(down.shape[2:])} and {tuple(up.shape[2:])}, this {name}'s of "
                    f"{tuple(kernel)} and 1 x 1"
                )

    @property
    def _family(self) -> str:
        """The family of models that it is of, as the width of its text tells."""
        family = family_of(self.down)
        return f" ({family})" if family else ""


StyleLoRAs: TypeAlias = Sequence[tuple[LoRA, float]]
"""LoRAs that are applied one after the other, each with how strongly."""


def adaptable_layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers that a LoRA can change, by their path, without ``text_model.``."""
    # Releases of transformers differ in whether that is part of a text encoder's paths.
    return {
        path.removeprefix("text_model."): layer
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros")
    }


def _kind_of(path: str, down: Tensor) -> str:
    if part_of(path) in TEXT_PARTS:
        return "text encoder"
    if ".attn1." in path or ".attn2." in path:
        return "attention"
    return "feed-forward" if ".ff." in path else "convolution" if down.ndim == 4 else "other linear"


def projections(unet: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers that a LoRA is trained on, by their path in the UNet."""
    layers = {
        f"{path}.{name}": attention.get_submodule(name)
        for path, attention in unet.named_modules()
        if path.rsplit(".", 1)[-1] in ("attn1", "attn2")
        for name in _PROJECTIONS
    }
    return {path: layer for path, layer in layers.items() if isinstance(layer, nn.Linear)}


def enabled(
    network: nn.Module, lora: LoRA | None, weight: float = 1.0, part: Part = UNET
) -> AbstractContextManager[None]:
    """Switch a LoRA on, ``weight`` times its strength, while the context lasts.

    Args:
        part: which of the LoRA's parts goes on; ``network`` is that one.
    """
    return switched_on(switches_of(network, lora, weight, part))


def switches_of(
    network: nn.Module, lora: LoRA | None, weight: float = 1.0, part: Part = UNET
) -> list[Switch]:
    """Return what switches a LoRA on for a pass; see ``enabled``."""
    return switches_of_all(network, [] if lora is None else [(lora, weight)], part)


def switches_of_all(network: nn.Module, loras: StyleLoRAs, part: Part = UNET) -> list[Switch]:
    """Return what switches several on for a pass; each adds its change to those before it."""
    on = [(lora, weight) for lora, weight in loras if weight != 0]
    layers = adaptable_layers(network) if on else {}
    return [
        Around(layers[path], _adds(layers[path], down, up, weight))
        for lora, weight in on
        for path, (down, up) in lora.part(part).items()
    ]


def _adds(layer: Any, down: Tensor, up: Tensor, weight: float) -> Callable[..., Tensor]:
    def add(forward: Callable[..., Tensor], inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = forward(inputs, *args, **kwargs)
        # In the matrices' own precision: float32 while they are trained beside a half network.
        x = inputs.to(down.dtype)
        if down.ndim == 4:
            inner = F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
            change = F.conv2d(inner, up)
        else:
            change = F.linear(F.linear(x, down), up)
        return output + (weight * change).to(output.dtype)

    return add
