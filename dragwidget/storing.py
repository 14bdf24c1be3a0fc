"""A session's stages as the store keeps them: plain tensors, and what made them.

What made a stage is all that its values depend on: picture, prompt and settings (the stage's key),
the weights, the number format, the kind of device, and the releases of what computes it. Anything
else in the way of finding it again would be a wait for nothing; anything less a wrong edit.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.model import DiffusionModel
from dragwidget.settings import Settings
from dragwidget.source import Source
from dragwidget.store import Store

__all__ = ["find_inversion", "find_lora", "keep_inversion", "keep_lora"]

LAYOUT = 1  # of the tensors in an entry; counted up when it changes


def find_lora(
    store: Store | None, model: DiffusionModel, source: Source, settings: Settings
) -> LoRA | None:
    """The LoRA of exactly this picture, prompt and settings, if any session has trained it."""
    if store is None:
        return None
    kept = store.get("lora", _lora_made_by(model, source, settings))
    if kept is None:
        return None
    down, up = (
        {name[len(part) :]: matrix for name, matrix in kept.items() if name.startswith(part)}
        for part in ("down.", "up.")
    )
    lora = LoRA(down, up).map(lambda matrix: matrix.to(model.device))
    lora.check(model.unet)
    return lora


def keep_lora(
    store: Store | None, model: DiffusionModel, source: Source, settings: Settings, lora: LoRA
) -> None:
    """Let other sessions find a LoRA."""
    if store is None:
        return
    tensors = {f"down.{name}": matrix for name, matrix in lora.down.items()}
    tensors |= {f"up.{name}": matrix for name, matrix in lora.up.items()}
    store.put("lora", _lora_made_by(model, source, settings), tensors)


def find_inversion(
    store: Store | None,
    model: DiffusionModel,
    source: Source,
    settings: Settings,
    lora: LoRA | None,
) -> tuple[Tensor, ...] | None:
    """The latents of exactly this inversion, clean first, if any session has walked it."""
    if store is None:
        return None
    kept = store.get("inversion", _inversion_made_by(model, source, settings, lora))
    if kept is None:
        return None
    latents = kept["latents"].to(model.device)
    return tuple(latents[k : k + 1] for k in range(len(latents)))


def keep_inversion(
    store: Store | None,
    model: DiffusionModel,
    source: Source,
    settings: Settings,
    lora: LoRA | None,
    latents: tuple[Tensor, ...],
) -> None:
    """Let other sessions find an inversion."""
    if store is not None:
        made_by = _inversion_made_by(model, source, settings, lora)
        store.put("inversion", made_by, {"latents": torch.cat(latents)})


def _made_by(model: DiffusionModel, source: Source) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "picture": source.digest,
        "prompt": source.prompt,
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "dragwidget": version("dragwidget"),
        "diffusers": version("diffusers"),
        "torch": torch.__version__,
    }


def _lora_made_by(model: DiffusionModel, source: Source, settings: Settings) -> dict[str, Any]:
    return {**_made_by(model, source), "settings": asdict(settings.lora)}


def _inversion_made_by(
    model: DiffusionModel, source: Source, settings: Settings, lora: LoRA | None
) -> dict[str, Any]:
    return {
        **_made_by(model, source),
        "lora": None if lora is None else lora.digest,
        "settings": asdict(source.inversion(settings)),
    }
