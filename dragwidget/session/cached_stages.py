"""A session's stages as the store keeps them: plain tensors, and what made them.

What made a stage is all that its values depend on: image, prompt and settings (the stage's key),
the model's fingerprint, the number format, the kind of device, how attention and float32 products
are computed there, and the releases of what computes it. More would prevent
valid hits, less would give wrong edits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from dragwidget.data.request import EditRequest
from dragwidget.data.settings import DragSettings, RenderSettings
from dragwidget.diffusion.attention import ReferenceBranch
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.devices import float32_precision
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.lora.training import LoRAStep
from dragwidget.drag.evaluation import Evaluation
from dragwidget.drag.features import FeatureMap
from dragwidget.session.source import Inversion, inversion_settings, keeps_noises
from dragwidget.storage.cache import Store

LAYOUT = 2  # of the tensors in an entry; counted up when it changes
SHARE = 0.25  # of the store's limit that one entry of features or of a reference may take


def find_lora(store: Store | None, model: Backbone, request: EditRequest) -> LoRA | None:
    """The LoRA of exactly this image, prompt and settings, if any session has trained it."""
    if store is None:
        return None
    made_by = _lora_made_by(model, request)
    kept = store.get("lora", made_by)
    if kept is None:
        return None
    store.remove("training", made_by)  # of a session that was killed when it was done
    return read_lora(kept, "", model)


def keep_lora(store: Store | None, model: Backbone, request: EditRequest, lora: LoRA) -> None:
    """Let other sessions find a LoRA; where that was possible, its training is not kept on."""
    if store is None:
        return
    made_by = _lora_made_by(model, request)
    if store.put("lora", made_by, lora_tensors(lora, "")):
        store.remove("training", made_by)


def find_training(store: Store | None, model: Backbone, request: EditRequest) -> LoRAStep | None:
    """How far any session has come in training exactly this LoRA."""
    kept = _kept(store, "training", _lora_made_by, model, request)
    if kept is None:
        return None
    return LoRAStep(
        int(kept["index"]),
        float(kept["loss"]),
        read_lora(kept, "", model),
        read_lora(kept, "first.", model),
        read_lora(kept, "second.", model),
        kept["random"],
    )


def keep_training(
    store: Store | None, model: Backbone, request: EditRequest, step: LoRAStep
) -> None:
    """Let a later session go on after this step, in place of any earlier one."""
    if store is None or step.random is None:
        return
    tensors = {
        "index": torch.tensor(step.index),
        "loss": torch.tensor(step.loss, dtype=torch.float64),
        "random": step.random,
        **lora_tensors(step.lora, ""),
        **lora_tensors(step.first, "first."),
        **lora_tensors(step.second, "second."),
    }
    store.put("training", _lora_made_by(model, request), tensors, alone=True)


def lora_tensors(lora: LoRA, name: str) -> dict[str, Tensor]:
    """The matrices of a LoRA by names that begin with ``name``; ``read_lora`` undoes it."""
    tensors = {f"{name}down.{path}": matrix for path, matrix in lora.down.items()}
    return tensors | {f"{name}up.{path}": matrix for path, matrix in lora.up.items()}


def read_lora(tensors: dict[str, Tensor], name: str, model: Backbone) -> LoRA:
    """The LoRA that ``lora_tensors`` wrote, on the model's device. Raises ValueError: not its."""
    down, up = (
        {key[len(start) :]: matrix for key, matrix in tensors.items() if key.startswith(start)}
        for start in (f"{name}down.", f"{name}up.")
    )
    lora = LoRA(down, up).map(lambda matrix: matrix.to(model.device))
    model.read_lora(lora)  # refuses what does not fit
    return lora


def find_inversion(
    store: Store | None,
    model: Backbone,
    request: EditRequest,
    lora: LoRA | None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None:
    """Latents, clean first, and noises of exactly this inversion, if any session has walked it."""
    kept = _kept(store, "inversion", _inversion_made_by, model, request, lora)
    if kept is None:
        return None
    noises: tuple[Tensor, ...] = ()
    if keeps_noises(request):
        noises = torch.split(kept["noises"].to(model.device), 1)
    return torch.split(kept["latents"].to(model.device), 1), noises


def keep_inversion(
    store: Store | None,
    model: Backbone,
    request: EditRequest,
    lora: LoRA | None,
    latents: tuple[Tensor, ...],
    noises: tuple[Tensor, ...] = (),
) -> None:
    """Let other sessions find an inversion."""
    if store is not None:
        tensors = {"latents": torch.cat(latents)}
        if noises:
            tensors["noises"] = torch.cat(noises)
        store.put("inversion", _inversion_made_by(model, request, lora), tensors)


def find_reference(
    store: Store | None, inversion: Inversion, render: RenderSettings
) -> ReferenceBranch | None:
    """Return the reference branch of exactly this inversion, if any session recorded it."""
    kept = _kept(store, "reference", _reference_made_by, inversion, render)
    if kept is None:
        return None
    model = inversion.predictor.model
    layers = tuple(int(layer) for layer in kept["layers"])
    states = [
        tuple(kept[f"state.{step}.{layer}"].to(model.waiting_device) for layer in layers)
        for step in range(inversion.count)
    ]
    return ReferenceBranch(layers, states, list(torch.split(kept["latents"].to(model.device), 1)))


def keep_reference(
    store: Store | None, inversion: Inversion, render: RenderSettings, branch: ReferenceBranch
) -> None:
    """Let other sessions find a complete branch, if it is not too large."""
    if store is None:
        return
    layers = torch.tensor(branch.layers, dtype=torch.int64)
    tensors = {"layers": layers, "latents": torch.cat(branch.latents)}
    for step, states in enumerate(branch.states):
        for layer, state in zip(branch.layers, states, strict=True):
            tensors[f"state.{step}.{layer}"] = state
    made_by = _reference_made_by(inversion, render)
    store.put("reference", made_by, tensors, share=SHARE)


def find_features(
    store: Store | None,
    inversion: Inversion,
    settings: DragSettings,
    grid: tuple[int, int],
    previous: bool,
) -> Evaluation | None:
    """The pass at the start of exactly this inversion, without its graph, if a session took it."""
    kept = _kept(store, "features", _features_made_by, inversion, settings, grid)
    if kept is None or (previous and "previous" not in kept):
        return None
    device = inversion.predictor.model.device
    found = {name: tensor.to(device) for name, tensor in kept.items()}
    blocks = tuple(found[f"block.{index}"] for index in range(len(settings.feature_blocks)))
    start, features = inversion.latents[-1], FeatureMap(blocks, grid)
    return Evaluation(start, features, found.get("previous"), found.get("x0"))


def keep_features(
    store: Store | None, inversion: Inversion, settings: DragSettings, evaluation: Evaluation
) -> None:
    """Let other sessions find the pass at the start; one with more in it takes the place of one."""
    if store is None:
        return
    tensors = {f"block.{k}": block for k, block in enumerate(evaluation.features.blocks)}
    if evaluation.previous is not None and evaluation.x0 is not None:
        tensors |= {"previous": evaluation.previous, "x0": evaluation.x0}
    made_by = _features_made_by(inversion, settings, evaluation.features.grid)
    store.put("features", made_by, tensors, alone=True, share=SHARE)


def _kept(
    store: Store | None, kind: str, made_by: Callable[..., dict[str, Any]], *of: object
) -> dict[str, Tensor] | None:
    """What a store has of this; ``None``: nothing, or there is no store."""
    return None if store is None else store.get(kind, made_by(*of))


def _made_by(model: Backbone, request: EditRequest) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "image": request.image.digest,
        "prompt": request.prompt,
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "attention": model.attention_kernels,
        "float32": float32_precision(),
        "dragwidget": version("dragwidget"),
        "diffusers": version("diffusers"),
        "torch": torch.__version__,
    }


def _lora_made_by(model: Backbone, request: EditRequest) -> dict[str, Any]:
    return {**_made_by(model, request), "settings": asdict(request.settings.lora)}


def _inversion_made_by(model: Backbone, request: EditRequest, lora: LoRA | None) -> dict[str, Any]:
    return {
        **_made_by(model, request),
        "lora": None if lora is None else lora.digest,
        "settings": asdict(inversion_settings(request)),
    }


def _start_made_by(inversion: Inversion) -> dict[str, Any]:
    """What makes all that begins where the drag does."""
    model = inversion.predictor.model
    made_by = _inversion_made_by(model, inversion.request, inversion.lora)
    # It may have come in a file, from another device or release.
    start = inversion.latents[-1].detach().float().cpu().contiguous().numpy()
    return {**made_by, "start": hashlib.sha256(start.tobytes()).hexdigest()}


def _reference_made_by(inversion: Inversion, render: RenderSettings) -> dict[str, Any]:
    start_layer = render.start_layer if render.attends else None
    return {**_start_made_by(inversion), "start_layer": start_layer}


def _features_made_by(
    inversion: Inversion, settings: DragSettings, grid: tuple[int, int]
) -> dict[str, Any]:
    return {**_start_made_by(inversion), "blocks": settings.feature_blocks, "grid": grid}
