"""LoRA (Hu et al., arXiv 2106.09685) on a UNet's attention layers, as plain data.

A LoRA adds ``up(down(x))`` to the query, key, value and output projections of every attention
layer, self and cross. It is switched on by forward hooks for as long as a context lasts: no module
is replaced, two edits can share one network, and nothing stays on after an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dragwidget.data.quoting import quoted

__all__ = ["LoRA", "enabled", "load_lora", "projections", "save_lora"]

FILE_NAME = "pytorch_lora_weights.safetensors"
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, eq=False)
class LoRA:
    """The weights of one LoRA.

    Attributes:
        down: by path of the projection in the UNet, (r, inputs).
        up: by the same paths, (outputs, r); any scaling is already in it.
    """

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]

    @classmethod
    def initial(cls, unet: nn.Module, rank: int, generator: torch.Generator) -> LoRA:
        """A LoRA that changes nothing yet: down normal with deviation 1 / rank, up zero."""
        down, up = {}, {}
        for path, layer in projections(unet).items():
            normal = torch.randn(rank, layer.in_features, generator=generator)
            down[path] = normal / rank
            up[path] = torch.zeros(layer.out_features, rank)
        return cls(down, up)

    @cached_property
    def digest(self) -> str:
        """Of the weights, to tell one LoRA from another; made once, as they are not changed."""
        digest = hashlib.sha256()
        for path, down in sorted(self.down.items()):
            for matrix in (down, self.up[path]):
                digest.update(f"{path} {tuple(matrix.shape)}".encode())
                digest.update(matrix.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def map(self, change: Callable[[Tensor], Tensor]) -> LoRA:
        """The same with ``change`` applied to every matrix."""
        return LoRA(
            {path: change(matrix) for path, matrix in self.down.items()},
            {path: change(matrix) for path, matrix in self.up.items()},
        )

    def check(self, unet: nn.Module) -> None:
        """Raise ValueError unless every matrix has its place in this UNet."""
        layers = projections(unet)
        for path, down in self.down.items():
            up = self.up[path]
            if path not in layers:
                raise ValueError(
                    f"this LoRA changes {path}, which is no query, key, value or output of an "
                    "attention layer of this UNet: it belongs to another model, or changes more "
                    "than is supported"
                )
            if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
                raise ValueError(
                    f"this LoRA's {path} is not of one rank: its matrices are "
                    f"{tuple(down.shape)} and {tuple(up.shape)}"
                )
            wanted = (layers[path].in_features, layers[path].out_features)
            got = (down.shape[1], up.shape[0])
            if got != wanted:
                raise ValueError(
                    f"this LoRA belongs to another model: its {path} goes from {got[0]} to "
                    f"{got[1]} channels, this UNet's from {wanted[0]} to {wanted[1]}"
                )


def projections(unet: nn.Module) -> dict[str, nn.Linear]:
    """The layers that a LoRA changes, by their path in the UNet."""
    layers = {
        f"{path}.{name}": attention.get_submodule(name)
        for path, attention in unet.named_modules()
        if path.rsplit(".", 1)[-1] in ("attn1", "attn2")
        for name in _PROJECTIONS
    }
    return {path: layer for path, layer in layers.items() if isinstance(layer, nn.Linear)}


@contextmanager
def enabled(unet: nn.Module, lora: LoRA | None, weight: float = 1.0) -> Iterator[None]:
    """Switch a LoRA on, ``weight`` times its strength, while the context lasts."""
    if lora is None or weight == 0:
        yield
        return
    layers = projections(unet)
    hooks = []
    try:
        for path in lora.down:
            add = _adds(lora.down[path], lora.up[path], weight)
            hooks.append(layers[path].register_forward_hook(add))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adds(down: Tensor, up: Tensor, weight: float) -> Callable[..., Tensor]:
    def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # In the matrices' own precision: float32 while they are trained beside a half network.
        change = F.linear(F.linear(inputs[0].to(down.dtype), down), up)
        return output + (weight * change).to(output.dtype)

    return hook


def save_lora(
    lora: LoRA, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a LoRA in diffusers' format; return the file's path.

    Args:
        path: a ``.safetensors`` file, or a folder, which gets ``pytorch_lora_weights.safetensors``.
        metadata: strings to keep in the file's header, such as the prompt.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        file.mkdir(parents=True, exist_ok=True)
        file /= FILE_NAME
    tensors = {f"unet.{key}.lora_A.weight": m.detach().cpu() for key, m in lora.down.items()}
    tensors |= {f"unet.{key}.lora_B.weight": m.detach().cpu() for key, m in lora.up.items()}
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt", **(metadata or {})})
    return file


# What the layers of one LoRA are called by whom: diffusers and peft today, diffusers before 0.22
# and the authors, and diffusers' attention processors of old.
_NAMES = re.compile(
    r"(?P<path>.+?)\.(?:processor\.)?"
    r"(?:(?:lora_(?P<peft>[AB])(?:\.default)?|lora\.(?P<old>down|up))\.weight"
    r"|(?P<projection>to_[a-z]+)_lora\.(?P<processor>down|up)\.weight"
    r"|(?P<alpha>alpha))"
)


def load_lora(path: str | os.PathLike[str], unet: nn.Module) -> LoRA:
    """Read a LoRA that diffusers, peft, the authors' code or ``save_lora`` wrote.

    Args:
        path: a ``.safetensors`` file or a folder with one.
        unet: the network that it must fit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a LoRA's file, or of another model.
    """
    file = _find(Path(path))
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            header = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    lora = _parse(tensors, _peft_scaling(file, header), file)
    lora.check(unet)
    return lora


def _find(path: Path) -> Path:
    if path.is_dir():
        files = [path / name for name in (FILE_NAME, "adapter_model.safetensors")]
        found = [file for file in files if file.is_file()]
        if not found:
            raise FileNotFoundError(
                f"there is no LoRA in {path}: wanted {' or '.join(file.name for file in files)} "
                "(pickled weights, .bin, can run code and are not read)"
            )
        return found[0]
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a .safetensors file; pickled weights can run code and are not read"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no LoRA file {path}")
    return path


_PATTERN = re.compile(r"\^?(?:[\w.]|\\\.){1,200}(?:\.\*(?:[\w.]|\\\.){1,200}){0,3}\$?")


@dataclass(frozen=True)
class _Scaling:
    """What peft multiplies each layer's change by."""

    alpha: float | None = None
    patterns: tuple[tuple[re.Pattern[str], float], ...] = ()
    rank_stabilized: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> _Scaling:
        """From peft's own configuration of a LoRA."""
        patterns = dict(config.get("alpha_pattern") or {})
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"alpha_pattern holds {quoted(pattern)}, and only names of layers with at most "
                    "three .* between them are read: any other may take for ever to compare"
                )
        return cls(
            float(config["lora_alpha"]),
            tuple((re.compile(rf"(.*\.)?({p})"), float(alpha)) for p, alpha in patterns.items()),
            bool(config.get("use_rslora")),
        )

    def __call__(self, path: str, rank: int) -> float:
        if self.alpha is None:
            return 1.0
        alpha = next((a for p, a in self.patterns if p.fullmatch(path)), self.alpha)
        return alpha / (rank**0.5 if self.rank_stabilized else rank)


def _peft_scaling(file: Path, header: Mapping[str, str]) -> _Scaling:
    """From the file's header (diffusers) or from beside it (peft); otherwise nothing is scaled."""
    beside = file.parent / "adapter_config.json"
    try:
        if "lora_adapter_metadata" in header:
            said = json.loads(header["lora_adapter_metadata"]).items()
            return _Scaling.read({k.removeprefix("unet."): v for k, v in said})
        if file.name == "adapter_model.safetensors" and beside.is_file():
            return _Scaling.read(json.loads(beside.read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise ValueError(f"the configuration of {file} cannot be read: {error!r}") from error
    return _Scaling()


def _parse(tensors: Mapping[str, Tensor], scaling: _Scaling, file: Path) -> LoRA:
    found: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}, "alpha": {}}
    for key, tensor in tensors.items():
        name = re.sub(r"^(unet\.|base_model\.model\.)+", "", key)
        match = _NAMES.fullmatch(name)
        if match is None or name.startswith("text_encoder"):
            raise ValueError(
                f"{file} is not a LoRA of a UNet alone, as diffusers, peft or the authors' code "
                f"write it: it holds {key!r}"
            )
        kind, layer = _kind(match.groupdict())
        found[kind][layer] = tensor
    down, up = found["down"], found["up"]
    if not down or down.keys() != up.keys() or not found["alpha"].keys() <= down.keys():
        raise ValueError(f"{file} is not a whole LoRA: its down and up matrices do not pair up")
    for path, matrix in down.items():
        alpha = found["alpha"].get(path)
        if not matrix.numel() or matrix.ndim < 2 or (alpha is not None and alpha.numel() != 1):
            raise ValueError(
                f"this LoRA's {path} is not of one rank: its matrices are "
                f"{tuple(matrix.shape)} and {tuple(up[path].shape)}"
            )
    scales = {
        path: float(found["alpha"][path]) / len(matrix)
        if path in found["alpha"]
        else scaling(path, len(matrix))
        for path, matrix in down.items()
    }
    return LoRA(
        {path: matrix.float() for path, matrix in down.items()},
        {path: matrix.float() * scales[path] for path, matrix in up.items()},
    )


def _kind(groups: dict[str, Any]) -> tuple[str, str]:
    """Which matrix a name means, ``down``, ``up`` or ``alpha``, and of which layer."""
    path = groups["path"]
    if groups["peft"]:
        return {"A": "down", "B": "up"}[groups["peft"]], path
    if groups["processor"]:
        projection = groups["projection"]
        return groups["processor"], f"{path}.{'to_out.0' if projection == 'to_out' else projection}"
    return groups["old"] or "alpha", path
