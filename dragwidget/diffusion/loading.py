"""``load_model``: from a name, a folder or a checkpoint file to a ``DiffusionModel``.

Only safetensors are read: a pickled checkpoint can run code, and is refused. A model's own code is
never run (no ``trust_remote_code``).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from dragwidget.diffusion.attention import self_attention_layers
from dragwidget.diffusion.model import DiffusionModel
from dragwidget.settings import DragSettings, RenderSettings, Settings

__all__ = ["choose_device", "load_model"]

EMBEDDED = {"critters": Path(__file__).parent.parent / "demo" / "critters"}
SUPPORTED = "Stable Diffusion 1.x and 2.x, epsilon or v-prediction"
RECOMMENDED_FILE = "dragwidget.json"


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; ``"auto"``: CUDA, else Apple's MPS, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


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
) -> DiffusionModel:
    """Load a Stable-Diffusion-type model.

    Args:
        source: ``"critters"`` (the embedded model, offline), a diffusers folder, a
            ``.safetensors`` checkpoint, or a model's id on the Hugging Face hub.
        vae: another autoencoder, as a folder or hub id.
        device: ``"auto"`` is CUDA, else MPS, else CPU.
        dtype: of the weights; ``"auto"`` is float16 on CUDA and float32 elsewhere.
        revision: branch, tag or commit of a hub model.
        cache_dir: where hub models are kept; by default Hugging Face's own folder.
        config: for a checkpoint file, the diffusers folder or hub id whose layout it has; by
            default diffusers guesses it.

    Raises:
        FileNotFoundError: no such folder, file or hub model.
        ValueError: a model of a kind that is not supported, or a broken one.
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    location = str(EMBEDDED.get(str(source), source))
    hub = {"revision": revision, "cache_dir": cache_dir}
    if location.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin")):
        parts = _from_checkpoint(Path(location), config, cache_dir)
    else:
        parts = _from_folder(location, hub)
    if vae is not None:
        parts["vae"] = _read_part("vae", str(vae), None, {"cache_dir": cache_dir})
    _check_kind(parts, str(source))
    for module in ("unet", "vae", "text_encoder"):
        parts[module] = parts[module].to(device, dtype)
    scheduler = parts.pop("scheduler")
    return DiffusionModel(
        **parts,
        alphas_cumprod=scheduler.alphas_cumprod,
        prediction_type=scheduler.config["prediction_type"],
        steps_offset=scheduler.config.get("steps_offset", 1),
        name=str(source),
        fingerprint=_fingerprint(parts),
        recommended=_recommended(location, parts["unet"]),
    )


def _from_folder(location: str, hub: dict[str, Any]) -> dict[str, Any]:
    """The parts of a model in diffusers' layout, from a folder or the hub."""
    _check_index(_read_index(location, hub), location)
    return {
        part: _read_part(part, location, part, hub)
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    }


def _read_index(location: str, hub: dict[str, Any]) -> dict[str, Any]:
    """``model_index.json``, which says what kind of pipeline a model is."""
    path = Path(location)
    if path.exists():
        index = path / "model_index.json"
        if not index.is_file():
            raise ValueError(
                f"{location} is no model: a diffusers folder holds a model_index.json, and a "
                "checkpoint is a .safetensors file"
            )
    else:
        index = _download_index(location, hub)
    try:
        content = json.loads(index.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{index} cannot be read ({error}): fetch the model again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{index} is not a model's index: fetch the model again")
    return content


def _download_index(location: str, hub: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download

    known = ", ".join(repr(name) for name in EMBEDDED)
    missing = (
        f"there is no model {location!r}: wanted {known}, a folder, a .safetensors file or an id "
        "on the Hugging Face hub"
    )
    if location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise FileNotFoundError(missing)
    try:
        return Path(hf_hub_download(location, "model_index.json", **hub))
    except Exception as error:  # the hub client's many errors: offline, unknown, private, bad id
        raise FileNotFoundError(f"{missing}; the hub says: {error}") from error


def _check_index(index: dict[str, Any], location: str) -> None:
    kind = str(index.get("_class_name"))
    if kind != "StableDiffusionPipeline":
        raise ValueError(f"{location} is a {kind}; supported are {SUPPORTED}")
    absent = [
        part
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        if not (isinstance(index.get(part), list) and index[part][0] is not None)
    ]
    if absent:
        raise ValueError(f"{location} lacks its {', '.join(absent)}: fetch the model again")


def _read_part(part: str, location: str, subfolder: str | None, hub: dict[str, Any]) -> Any:
    """One part of a model; weights from safetensors only."""
    options = {key: value for key, value in hub.items() if value is not None}
    if subfolder is not None:
        options["subfolder"] = subfolder
    try:
        if part == "unet":
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

            return UNet2DConditionModel.from_pretrained(location, use_safetensors=True, **options)
        if part == "vae":
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

            return AutoencoderKL.from_pretrained(location, use_safetensors=True, **options)
        if part == "scheduler":
            from diffusers.schedulers.scheduling_ddim import DDIMScheduler

            return DDIMScheduler.from_pretrained(location, **options)
        if part == "tokenizer":
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(location, **options)
        from transformers import CLIPTextModel

        return CLIPTextModel.from_pretrained(location, use_safetensors=True, **options)
    except Exception as error:  # whatever a reader says of a damaged file, the user needs its name
        raise ValueError(
            f"the {part} of {location} cannot be loaded: {_first_line(error)}; wanted "
            f"diffusers' layout with safetensors weights. If the download was cut off, fetch the "
            "model again; pickled weights (.bin, .ckpt) are not read, because they can run code"
        ) from error


def _from_checkpoint(
    path: Path, config: str | os.PathLike[str] | None, cache_dir: Any
) -> dict[str, Any]:
    """The parts of a model in one checkpoint file."""
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is a pickled checkpoint, which can run code when it is opened, and is "
            "not read: get the .safetensors version, or convert it in a place that you trust"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    from diffusers import StableDiffusionPipeline

    options: dict[str, Any] = {} if config is None else {"config": str(config)}
    try:
        pipeline = StableDiffusionPipeline.from_single_file(
            str(path), safety_checker=None, cache_dir=cache_dir, **options
        )
    except Exception as error:  # as in _read_part
        raise ValueError(
            f"{path.name} cannot be loaded as a checkpoint: {_first_line(error)}; supported are "
            f"{SUPPORTED}. Without a network, name a diffusers folder of the same kind by config="
        ) from error
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return {
        "unet": pipeline.unet,
        "vae": pipeline.vae,
        "text_encoder": pipeline.text_encoder,
        "tokenizer": pipeline.tokenizer,
        "scheduler": DDIMScheduler.from_config(pipeline.scheduler.config),
    }


def _check_kind(parts: dict[str, Any], source: str) -> None:
    unet, vae = parts["unet"].config, parts["vae"].config
    wanted = vae["latent_channels"]
    if unet["in_channels"] != wanted:
        kind = "an inpainting" if unet["in_channels"] == 9 else "another"
        raise ValueError(
            f"{source} has {kind} UNet of {unet['in_channels']} input channels, not {wanted}; "
            f"supported are {SUPPORTED}"
        )
    if unet.get("addition_embed_type"):
        raise ValueError(
            f"{source} is a Stable Diffusion XL type of model; supported are {SUPPORTED}"
        )
    prediction = parts["scheduler"].config["prediction_type"]
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f"{source} predicts {prediction!r}; supported are {SUPPORTED}")


def _recommended(location: str, unet: Any) -> Settings:
    """The settings a model's folder recommends; otherwise the paper's, counted in this network."""
    path = Path(location) / RECOMMENDED_FILE
    if path.is_file():
        return Settings.from_dict(json.loads(path.read_text())["recommended"])
    # The paper's places: the last decoder block but one, and 10 of 16 self-attention layers.
    layers = len(self_attention_layers(unet))
    return Settings(
        drag=DragSettings(feature_blocks=(max(0, len(unet.up_blocks) - 1),)),
        render=RenderSettings(start_layer=round(layers * 10 / 16)),
    )


def _fingerprint(parts: dict[str, Any]) -> str:
    """A digest of the weights: names, shapes, types and a few values of every tensor."""
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in parts[part].state_dict().items():
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes()
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + sample)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
