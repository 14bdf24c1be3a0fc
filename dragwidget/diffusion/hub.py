"""Models on the Hugging Face hub: fetched once, only what is needed, and never a pickle."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["INDEX", "MODEL", "VAE", "fetch", "is_hub_id"]

_NETWORK = (
    "{part}/config.json",
    "{part}/{weights}.safetensors",
    "{part}/{weights}.safetensors.index.json",  # of weights in several files
    "{part}/{weights}-?????-of-?????.safetensors",
)
INDEX = ("model_index.json",)
VAE = tuple(
    pattern.format(part="vae", weights="diffusion_pytorch_model")[start:]
    for pattern in _NETWORK
    for start in (0, len("vae/"))  # a hub model of its own has no folder for it
)
MODEL = (
    "model_index.json",
    "dragwidget.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    *(
        pattern.format(part=part, weights=weights)
        for part, weights in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        )
        for pattern in _NETWORK
    ),
)


def is_hub_id(name: str) -> bool:
    """Whether a name can be a hub model's, ``owner/model``."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and name[-1] != "/"


def fetch(
    name: str,
    files: tuple[str, ...],
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The local folder of a hub model with these files, as far as the model has them.

    Raises:
        FileNotFoundError: no such model, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    cache = None if cache_dir is None else Path(cache_dir)
    try:
        folder = snapshot_download(
            name, revision=revision, cache_dir=cache, allow_patterns=list(files)
        )
    except Exception as error:  # the client's many errors: offline, unknown, private, no space
        raise FileNotFoundError(
            f"there is no folder {name!r} here, and the Hugging Face hub cannot give a model of "
            f"this name: {error}"
        ) from error
    return Path(folder)
