"""``load_model``: from a name, a folder or a checkpoint file to a ``DiffusionModel``."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from dragwidget.data.settings import DragSettings, RenderSettings, Settings
from dragwidget.diffusion.attention import layers_of, self_attention_layers
from dragwidget.diffusion.checkpoint import is_checkpoint, read_checkpoint
from dragwidget.diffusion.hub import INDEX, MODEL, VAE, fetch, is_hub_id
from dragwidget.diffusion.low_memory import Memory, check_memory
from dragwidget.diffusion.model import DiffusionModel
from dragwidget.diffusion.reading import check_index, check_parts, read_parts, read_vae

__all__ = ["EMBEDDED", "choose_device", "choose_dtype", "load_model"]

EMBEDDED = {"critters": Path(__file__).parent.parent / "demo" / "critters"}
RECOMMENDED_FILE = "dragwidget.json"


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; ``"auto"``: CUDA, else Apple's MPS, else the CPU.

    Raises:
        ValueError: not a device's name, or this machine does not have it.
    """
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = torch.device("meta")  # no name of ours either
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device must be 'auto', 'cuda', 'cuda:1', 'mps' or 'cpu', got {device!r}")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}[chosen.type]
    if (chosen.index or 0) >= there:
        raise ValueError(f"there is no {chosen} here: use device='auto', which takes what there is")
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The type asked for; ``"auto"``: float16 on CUDA, else float32."""
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if named not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"dtype must be 'auto', 'float32', 'float16' or 'bfloat16', got {dtype!r}")
    return named


def load_model(
    source: str | os.PathLike[str] = "critters",
    *,
    vae: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    memory: Memory = "normal",
) -> DiffusionModel:
    """Load a Stable-Diffusion-type model.

    Args:
        source: ``"critters"`` (the embedded model, offline), a diffusers folder, a
            ``.safetensors`` checkpoint, or a model's id on the Hugging Face hub.
        vae: another autoencoder, as a diffusers folder or hub id.
        device: ``"auto"`` is CUDA, else MPS, else CPU.
        dtype: of the weights; ``"auto"`` is float16 on CUDA and float32 elsewhere.
        revision: branch, tag or commit of a hub model.
        cache_dir: where hub models are kept; by default Hugging Face's own folder.
        config: for a checkpoint file, the diffusers folder or hub id whose layout it has; by
            default diffusers guesses it, and fetches it from the hub.
        memory: ``"low"``: less memory on the device, more time; see ``DiffusionModel``.

    Raises:
        FileNotFoundError: no such folder, file or hub model.
        ValueError: a model of a kind that is not supported, or a broken one; a device or type that
            there is not.
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    waits = torch.device("cpu") if check_memory(memory) == "low" else device
    name = str(source)
    other_vae = None if vae is None else read_vae(_find_vae(str(vae), cache_dir), str(vae))
    if is_checkpoint(name):
        folder = None
        parts = read_checkpoint(
            Path(name).expanduser(), config=config, cache_dir=cache_dir, vae=other_vae
        )
    else:
        folder = _find(name, revision, cache_dir)
        parts = read_parts(folder, name, vae=other_vae)
    check_parts(parts, name)
    for part, where in (("unet", device), ("vae", waits), ("text_encoder", waits)):
        # Not ``parts[part].to``: diffusers would log that it may not suit every model.
        parts[part] = torch.nn.Module.to(parts[part], where, dtype)
    scheduler = parts.pop("scheduler")
    return DiffusionModel(
        **parts,
        alphas_cumprod=scheduler.alphas_cumprod,
        prediction_type=scheduler.config["prediction_type"],
        steps_offset=scheduler.config["steps_offset"],
        name=name,
        fingerprint=_fingerprint(parts, scheduler),
        recommended=_recommended(folder, parts["unet"]),
        memory=memory,
    )


def _find(name: str, revision: str | None, cache_dir: Any) -> Path:
    """The local folder of a model whose index says that it is supported."""
    folder = EMBEDDED.get(name, Path(name).expanduser())
    if folder.exists():
        check_index(folder, name)
        return folder
    if not is_hub_id(name):
        known = ", ".join(map(repr, EMBEDDED))
        raise FileNotFoundError(
            f"there is no model {name!r}: wanted {known}, a folder, a .safetensors file or an id "
            "on the Hugging Face hub"
        )
    # First its kind, which is a small file: it may not be worth the gigabytes.
    check_index(fetch(name, INDEX, revision, cache_dir), name)
    return fetch(name, MODEL, revision, cache_dir)


def _find_vae(name: str, cache_dir: Any) -> Path:
    """The folder of an autoencoder, which may be part of a whole model's."""
    folder = Path(name).expanduser()
    if not folder.exists():
        if not is_hub_id(name):
            raise FileNotFoundError(
                f"there is no vae {name!r}: wanted a diffusers folder or an id on the Hugging Face "
                "hub"
            )
        folder = fetch(name, VAE, None, cache_dir)
    return folder / "vae" if (folder / "vae").is_dir() else folder


def _recommended(folder: Path | None, unet: Any) -> Settings:
    """The settings a model's folder recommends; otherwise the paper's, counted in this network."""
    if folder is not None and (folder / RECOMMENDED_FILE).is_file():
        try:
            content = json.loads((folder / RECOMMENDED_FILE).read_text("utf-8"))
            return Settings.from_dict(content["recommended"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{folder / RECOMMENDED_FILE} recommends no settings that can be read: {error!r}"
            ) from error
    # The paper's places: the last decoder block but one, and the attention that starts there.
    block = max(0, len(unet.up_blocks) - 2)
    behind = sum(len(layers_of(up)) for up in unet.up_blocks[block:])
    return Settings(
        drag=DragSettings(feature_blocks=(block + 1,)),
        render=RenderSettings(start_layer=len(self_attention_layers(unet)) - behind),
    )


def _fingerprint(parts: dict[str, Any], scheduler: Any) -> str:
    """A digest of what decides a result: a few values of every weight, the words, the noise."""
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in parts[part].state_dict().items():
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes()
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + sample)
    digest.update(json.dumps(sorted(parts["tokenizer"].get_vocab().items())).encode())
    digest.update(scheduler.alphas_cumprod.numpy().tobytes())
    numbers = [scheduler.config[key] for key in ("prediction_type", "steps_offset")]
    digest.update(json.dumps([*numbers, parts["vae"].config["scaling_factor"]]).encode())
    return digest.hexdigest()
