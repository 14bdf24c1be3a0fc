"""A model in one checkpoint file, in the layout of Stable Diffusion's original code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dragwidget.diffusion.reading import SUPPORTED, first_line, quiet

__all__ = ["is_checkpoint", "read_checkpoint"]

_PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_UNET = "model.diffusion_model."
_FIRST_LAYER = f"{_UNET}input_blocks.0.0.weight"
_PLACES = {
    "unet": (_UNET,),
    "vae": ("first_stage_model.", "vae."),
    "text encoder": ("cond_stage_model.",),
}


def is_checkpoint(name: str) -> bool:
    """Whether a name is a checkpoint file's, readable or not."""
    return name.lower().endswith((".safetensors", *_PICKLED)) and not Path(name).is_dir()


def read_checkpoint(
    path: Path,
    *,
    config: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    vae: Any = None,
) -> dict[str, Any]:
    """All parts of the model in a file; see ``load_model`` for the arguments.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a pickled file, which is not opened; one of another kind; a broken one.
    """
    if path.suffix.lower() in _PICKLED:
        raise ValueError(
            f"{path.name} is a pickled checkpoint, which can run code when it is opened, and is "
            "not read: get the .safetensors version, or convert it in a place that you trust"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    _check_content(path, vae_given=vae is not None)
    options = {"config": None if config is None else str(config), "vae": vae}
    try:
        parts = _convert(path, cache_dir, {k: v for k, v in options.items() if v is not None})
    except NotImplementedError as error:  # torch's word for moving a weight that has no value
        raise ValueError(
            f"{path.name} is not complete: some of its weights are missing; fetch it again"
        ) from error
    except Exception as error:  # as for the parts of a folder, the user needs the file's name
        raise ValueError(
            f"{path.name} cannot be loaded as a checkpoint: {first_line(error)}; supported are "
            f"{SUPPORTED}. Without a network, name a diffusers folder of the same kind by config="
        ) from error
    for part in ("unet", "vae", "text_encoder"):
        _check_complete(parts[part], path.name)
    return parts


def _convert(path: Path, cache_dir: Any, options: dict[str, Any]) -> dict[str, Any]:
    with quiet():  # the imports, too, write into the log
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        pipeline: Any = StableDiffusionPipeline.from_single_file(
            str(path), safety_checker=None, cache_dir=cache_dir, **options
        )
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    return {
        "unet": pipeline.unet,
        "vae": pipeline.vae,
        "text_encoder": pipeline.text_encoder,
        "tokenizer": pipeline.tokenizer,
        "scheduler": scheduler,
    }


def _check_content(path: Path, *, vae_given: bool) -> None:
    """Look at the file's header alone: is this a whole model of a supported kind?"""
    try:
        with safe_open(path, framework="pt") as opened:
            keys = list(opened.keys())
            shape = opened.get_slice(_FIRST_LAYER).get_shape() if _FIRST_LAYER in keys else None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path.name} is not a readable safetensors file ({first_line(error)}): if the "
            "download was cut off, fetch it again"
        ) from error
    wanted = f"wanted a whole model; supported are {SUPPORTED}"
    if any(key.startswith("conditioner.") for key in keys):
        raise ValueError(f"{path.name} is a Stable Diffusion XL checkpoint; supported: {SUPPORTED}")
    if any("lora" in key for key in keys):
        raise ValueError(f"{path.name} is a LoRA, which goes with a model; {wanted}")
    if shape is None:
        raise ValueError(
            f"{path.name} is no Stable Diffusion checkpoint (it has no {_FIRST_LAYER}, but "
            f"{keys[0] if keys else 'nothing'!r}); {wanted}"
        )
    if shape[1] == 9:
        raise ValueError(f"{path.name} is an inpainting checkpoint; supported are {SUPPORTED}")
    for part, prefixes in _PLACES.items():
        if not any(key.startswith(prefixes) for key in keys) and not (part == "vae" and vae_given):
            hint = "; name one by vae=" if part == "vae" else ""
            raise ValueError(f"{path.name} holds no {part}; {wanted}{hint}")


def _check_complete(network: Any, name: str) -> None:
    """Raise ValueError where weights are missing: diffusers leaves them without values."""
    for key, tensor in network.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name} is not complete: it lacks {key}; fetch it again")
