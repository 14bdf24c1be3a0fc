"""LoRA files: which file of a folder is read, and a LoRA as diffusers and peft read it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dragwidget.data.paths import absolute, user_path
from dragwidget.diffusion.lora.formats import LoRAFile, parse_lora
from dragwidget.diffusion.lora.peft_config import (
    PARTS,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    TEXT_PARTS,
    UNET,
    Part,
    PeftConfig,
    read_configs,
)
from dragwidget.diffusion.lora.weights import LoRA, adaptable_layers
from dragwidget.drag.torch_state import in_plain_torch

__all__ = ["GivenLoRA", "given_lora", "load_lora", "save_lora"]

FILE_NAME = "pytorch_lora_weights.safetensors"
PEFT_FILE_NAME = "adapter_model.safetensors"
PEFT_CONFIG_NAME = "adapter_config.json"
METADATA = "lora_adapter_metadata"  # where diffusers keeps peft's configuration in a file's header

GivenLoRA: TypeAlias = LoRA | str | os.PathLike[str] | None


def save_lora(
    lora: LoRA, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a LoRA in diffusers' format; return the file's path.

    The header says its ranks and its alpha, which is the rank, as peft's configuration would.

    Args:
        path: a ``.safetensors`` file, or a folder, which gets ``pytorch_lora_weights.safetensors``.
        metadata: strings to keep in the file's header, such as the prompt.
    """
    file = user_path(path)
    if file.suffix != ".safetensors":
        file.mkdir(parents=True, exist_ok=True)
        file /= FILE_NAME
    tensors: dict[str, Tensor] = {}
    configuration: dict[str, Any] = {}
    for part in PARTS:
        matrices = lora.part(part)
        for layer, (down, up) in matrices.items():
            inner = "" if part == UNET or layer == "text_projection" else "text_model."
            start = f"{part}.{inner}"
            tensors[f"{start}{layer}.lora_A.weight"] = down
            tensors[f"{start}{layer}.lora_B.weight"] = up
        if matrices:
            ranks = {layer: len(down) for layer, (down, _) in matrices.items()}
            configuration |= {f"{part}.{k}": v for k, v in _peft_config(ranks).items()}
    header = {"format": "pt", METADATA: json.dumps(configuration), **(metadata or {})}
    save_file(
        {key: matrix.detach().cpu().contiguous() for key, matrix in tensors.items()},
        file,
        metadata=header,
    )
    return file


def _peft_config(ranks: Mapping[str, int]) -> dict[str, Any]:
    """peft's configuration of matrices that need no scaling: alpha is the rank."""
    rank = max(Counter(ranks.values()).items(), key=lambda item: item[1])[0]
    others = {layer: r for layer, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
    }


@in_plain_torch
def load_lora(
    path: str | os.PathLike[str],
    unet: nn.Module,
    *,
    text_encoder: nn.Module | None = None,
    text_encoder_2: nn.Module | None = None,
    alpha: float | None = None,
) -> LoRA:
    """Read a LoRA that kohya's scripts, diffusers, peft, the authors' code or ``save_lora`` wrote.

    It is applied to all linear and convolution layers, as strongly as diffusers or peft would, with
    one exception: a file of kohya's whose alpha differs between layers has each layer's own, with a
    warning, where diffusers (0.42.1) takes the most frequent one for all attention layers of the
    UNet and all layers of the text encoder.

    Args:
        path: a ``.safetensors`` file or a folder with one.
        unet: the network that it must fit.
        text_encoder: the one that it must fit where it changes the text encoder too.
        text_encoder_2: likewise the second one of Stable Diffusion XL.
        alpha: for a file that does not say its own; each layer is scaled by alpha / rank.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a LoRA's file, of another model, of a kind that is not supported (DoRA,
            LoHa, PiSSA, ..), or its scale is not known.
    """
    file = _find(user_path(path))
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            header = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    given = ((UNET, unet), (TEXT_ENCODER, text_encoder), (TEXT_ENCODER_2, text_encoder_2))
    networks = {part: network for part, network in given if network is not None}
    layers = {part: adaptable_layers(network) for part, network in networks.items()}
    lora = _fold(parse_lora(tensors, _configs(file, header), layers, str(file), alpha))
    lora = replace(lora, path=absolute(path), alpha=alpha)
    lora.check(networks)
    return lora


def given_lora(
    given: GivenLoRA, networks: Mapping[Part, nn.Module], alpha: float | None = None
) -> LoRA | None:
    """A LoRA that fits the networks, from weights or from a file, as ``load_lora`` reads it."""
    if given is not None and not isinstance(given, LoRA):
        unet, texts = networks[UNET], {part: networks.get(part) for part in TEXT_PARTS}
        return load_lora(given, unet, **texts, alpha=alpha)
    if alpha is not None:
        raise ValueError("alpha is only for a LoRA file that does not give it: leave alpha out")
    if given is not None:
        given.check(networks)
    return given


def _fold(parsed: LoRAFile) -> LoRA:
    """Return a LoRA whose up matrices hold the scale."""
    down, up = {}, {}
    for (part, layer), delta in parsed.deltas.items():
        path = layer if part == UNET else f"{part}.{layer}"
        down[path], up[path] = delta.down, delta.up * delta.scale
    scales = sorted({delta.scale for delta in parsed.deltas.values()})
    scale = (
        f"scale {scales[0]:g}" if len(scales) == 1 else f"scales {scales[0]:g} to {scales[-1]:g}"
    )
    return LoRA(down, up, f"{parsed.program} format, {scale}")


def _configs(file: Path, header: Mapping[str, str]) -> dict[Part, PeftConfig]:
    """From the file's header (diffusers) or from beside it (peft), where there is one."""
    beside = file.parent / PEFT_CONFIG_NAME
    try:
        if METADATA in header:
            return read_configs(json.loads(header[METADATA]), str(file), prefixed=True)
        if file.name == PEFT_FILE_NAME and beside.is_file():
            content = _inside(beside).read_text("utf-8")
            return read_configs(json.loads(content), str(file), prefixed=False)
    except (OSError, UnicodeError, json.JSONDecodeError, RecursionError, OverflowError, TypeError,
            KeyError, AttributeError) as error:  # fmt: skip
        raise ValueError(f"the configuration of {file} cannot be read: {error!r}") from error
    return {}


def _find(path: Path) -> Path:
    if path.is_dir():
        names = (FILE_NAME, PEFT_FILE_NAME)
        found = [path / name for name in names if (path / name).is_file()]
        found = found or sorted(f for f in path.glob("*.safetensors") if f.is_file())
        if not found:
            raise FileNotFoundError(
                f"there is no LoRA in {path}: wanted {' or '.join(names)} "
                "(pickled weights, .bin, can run code and are not read)"
            )
        if len(found) > 1:
            raise ValueError(
                f"{path} holds {len(found)} LoRAs ({', '.join(f.name for f in found[:5])}): give "
                "the file that is meant"
            )
        return _inside(found[0])
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a .safetensors file; pickled weights can run code and are not read"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no LoRA file {path}")
    return path


def _inside(file: Path) -> Path:
    """Return a file of a folder; raise ValueError where it is a link that leads out of it.

    In the hub's cache, the files of a snapshot are links to blobs beside the snapshots.
    """
    folder, real = file.parent.resolve(), file.resolve()
    blobs = [p.parent / "blobs" for p in folder.parents if p.name == "snapshots"]
    if not any(real.is_relative_to(root) for root in (folder, *blobs)):
        raise ValueError(f"{file} is a link that leads out of its folder, and is not read")
    return file
