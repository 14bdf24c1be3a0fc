"""Models on the Hugging Face hub: fetched once, only what is needed, and never a pickle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dragwidget.diffusion.loading.folder import STEMS, choose_weights, shards, weight_variants
from dragwidget.diffusion.loading.sources import is_hub_id
from dragwidget.diffusion.weights import first_line

__all__ = ["CONFIGS", "VAE_CONFIGS", "fetch", "fetch_weights", "is_hub_id", "needed"]

# The small files, which say whether the large ones are worth fetching.
CONFIGS = (
    "model_index.json",
    "dragwidget.json",
    "scheduler/scheduler_config.json",
    *(
        f"{part}/*.{kind}"
        for part in ("tokenizer", "tokenizer_2", "tokenizer_3")
        for kind in ("json", "txt")
    ),
    *(f"{part}/config.json" for part in STEMS),
)
VAE_CONFIGS = ("vae/config.json", "config.json")  # a model of its own has no folder for it
_VAE = "vae"
# Errors of httpx and of requests, which are no ConnectionError.
_NO_NETWORK = ("ConnectError", "Timeout", "ConnectionError", "ProxyError")


def fetch(
    name: str,
    files: Sequence[str],
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the local folder of a hub model with these files, as far as the model has them.

    Raises:
        FileNotFoundError: the hub cannot be reached and the files are not in its cache; or it has
            no such model, or gives it to nobody without a login.
    """
    from huggingface_hub import snapshot_download

    cache = None if cache_dir is None else Path(cache_dir)
    try:
        folder = snapshot_download(
            name, revision=revision, cache_dir=cache, allow_patterns=list(files)
        )
    except Exception as error:  # the client's many errors: offline, unknown, private, no space
        raise FileNotFoundError(_why(error, name, revision)) from error
    return Path(folder)


def fetch_weights(
    name: str,
    parts: Iterable[str],
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    variant: str | None = None,
    half: bool = False,
) -> Path:
    """Return the local folder of a hub model with the weights of these parts, one variant of each.

    Args:
        parts: ``"unet"``, ``"vae"``, ..; ``""`` for an autoencoder that is a model of its own.
        variant, half: which weights, as ``choose_weights`` has it.

    Raises:
        FileNotFoundError: see ``fetch``.
        ValueError: there are no weights, or only pickled ones.
    """
    parts = tuple(parts)
    there = _listed(name, revision)
    if there is None:  # no network: what the cache has is all there is
        return fetch(name, CONFIGS, revision, cache_dir)
    return fetch(name, needed(there, parts, name, variant, half=half), revision, cache_dir)


def needed(
    there: Sequence[str], parts: Iterable[str], name: str, variant: str | None, *, half: bool
) -> list[str]:
    """Which of a model's files hold the weights of these parts.

    Raises:
        ValueError: a part has no safetensors weights, or not in the variant that is named.
    """
    chosen: list[str] = []
    variants: set[str | None] = set()
    for part in parts:
        prefix, stem = (f"{part}/", STEMS[part]) if part else ("", STEMS[_VAE])
        own = [file.removeprefix(prefix) for file in there if file.startswith(prefix)]
        variants |= weight_variants(own, stem).keys()
        file = choose_weights(own, stem, variant, half=half)
        if file is None:
            pickled = any(entry.endswith((".bin", ".ckpt", ".pt")) for entry in own)
            raise ValueError(
                f"the {part or _VAE} of {name} has no {stem}.safetensors on the hub"
                + (", only pickled weights, which can run code and are not read" if pickled else "")
                + "; wanted diffusers' layout with safetensors weights"
            )
        chosen.append(prefix + file)
        if file.endswith(".json"):
            (kind,) = (v for v, entry in weight_variants(own, stem).items() if entry == file)
            chosen += [prefix + shard for shard in shards(own, stem, kind)]
    if variant is not None and variant not in variants:
        raise ValueError(
            f"{name} has no weights of the variant {variant!r} on the hub, only "
            f"{', '.join(sorted(v or 'plain' for v in variants))}: leave variant= out, or name one "
            "of these"
        )
    return chosen


def _listed(name: str, revision: str | None) -> list[str] | None:
    """Return all files of a hub model; ``None``: the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        # Not ``list_repo_files``, which tries for 20 seconds where there is no network.
        siblings = HfApi().model_info(name, revision=revision).siblings or []
        return [sibling.rfilename for sibling in siblings]
    except Exception as error:
        if _unreachable(error):
            return None
        raise FileNotFoundError(_why(error, name, revision)) from error


def _why(error: Exception, name: str, revision: str | None) -> str:
    """Why a model cannot be had, in a sentence: the hub's absence before anything of the name."""
    from huggingface_hub import errors

    known: Any = errors
    if _unreachable(error):
        return (
            f"the Hugging Face hub cannot be reached ({first_line(error)}), and its cache on this "
            f"machine does not have all of {name!r}: connect once, or give the path of a folder or "
            "a .safetensors checkpoint"
        )
    if isinstance(error, known.GatedRepoError):
        return (
            f"the hub gives {name!r} only to users who have accepted its terms: accept them at "
            f"https://huggingface.co/{name}, and log in by `hf auth login`"
        )
    if isinstance(error, known.RevisionNotFoundError):
        return f"the hub has the model {name!r}, but no revision {revision!r} of it"
    if isinstance(error, known.RepositoryNotFoundError):
        return (
            f"there is no folder {name!r} here, and no public model of this name on the Hugging "
            "Face hub: correct the name, or log in by `hf auth login` if it is private"
        )
    return f"{name!r} cannot be fetched from the Hugging Face hub: {first_line(error)}"


def _unreachable(error: BaseException | None) -> bool:
    """Return whether an error of the client comes from a network that is not there."""
    from huggingface_hub import errors

    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # First: before version 1 of the client it is one of the errors of HTTP, too.
        if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            return True
        if isinstance(error, errors.HfHubHTTPError):
            return _status(error) >= 500  # it was reached, and answers; or is out of order
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        if type(error).__name__.endswith(_NO_NETWORK):
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(error: Any) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)
