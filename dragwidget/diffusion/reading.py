"""The parts of a model, read from a folder in diffusers' layout.

Only safetensors are read: pickled weights can run code. A model's own code is never run. What the
libraries would only mention in their log, weights or words that are missing, is an error here.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dragwidget.data.quoting import quoted

__all__ = ["PARTS", "SUPPORTED", "check_index", "check_parts", "first_line", "quiet", "read_parts"]

SUPPORTED = "Stable Diffusion 1.x and 2.x, epsilon or v-prediction"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
MAX_LAYERS, MAX_WIDTH = 128, 1_000_000  # of any number in a network's configuration
MAX_SIDE = 512  # latent cells; Stable Diffusion has 64 to 96
_BYTES = 256  # a CLIP tokenizer has at least a token for each


def check_index(folder: Path, name: str) -> None:
    """Raise ValueError unless ``model_index.json`` says that this is a model of a supported kind.

    Args:
        name: what to call the model in an error.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        raise ValueError(
            f"{name} is no model: a diffusers folder holds a model_index.json, and a checkpoint "
            "is a .safetensors file"
        )
    try:
        index = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({error}): fetch the model again") from error
    if not isinstance(index, dict):
        raise ValueError(f"{file} is not a model's index: fetch the model again")
    kind = str(index.get("_class_name"))
    if kind != "StableDiffusionPipeline":
        raise ValueError(f"{name} is a {kind}; supported are {SUPPORTED}")
    absent = [
        part
        for part in PARTS
        if not (isinstance(index.get(part), list) and index[part] and index[part][0])
    ]
    if absent:
        raise ValueError(f"{name} lacks its {', '.join(absent)}: fetch the model again")


def read_parts(folder: Path, name: str, *, vae: Any = None) -> dict[str, Any]:
    """All parts of a model whose index has been checked; ``vae`` takes the place of its own."""
    parts = {part: _read(part, folder / part, name) for part in PARTS if part != "vae"}
    return {**parts, "vae": read_vae(folder / "vae", name) if vae is None else vae}


def read_vae(folder: Path, name: str) -> Any:
    return _read("vae", folder, name)


def _read(part: str, folder: Path, name: str) -> Any:
    try:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        with quiet():
            return _READERS[part](folder)
    except Exception as error:  # whatever a reader says of a damaged file, the user needs its name
        raise ValueError(
            f"the {part} of {name} cannot be loaded: {first_line(error)}; wanted diffusers' layout "
            "with safetensors weights. If the download was cut off, fetch the model again; "
            "pickled weights (.bin, .ckpt) are not read, because they can run code"
        ) from error


def _unet(folder: Path) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _complete(UNet2DConditionModel, folder)


def _vae(folder: Path) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _complete(AutoencoderKL, folder)


def _text_encoder(folder: Path) -> Any:
    from transformers import CLIPTextModel

    return _complete(CLIPTextModel, folder)


def _complete(kind: Any, folder: Path) -> Any:
    """A network with all of its weights: the libraries make up what a file lacks."""
    check_sizes(json.loads((folder / "config.json").read_text("utf-8")))
    network, found = kind.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, local_files_only=True
    )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, first {missing[0]}")
    return network


def check_sizes(config: Any, name: str = "its configuration") -> None:
    """Raise ValueError where a configuration asks for a network larger than any there is.

    The libraries build what it says before they look at the weights, and a short file can ask for
    more layers than a day has seconds.
    """
    limit = MAX_LAYERS if "layers" in name else MAX_WIDTH
    if isinstance(config, dict):
        for key, value in config.items():
            check_sizes(value, str(key))
    elif isinstance(config, list):
        if len(config) > MAX_LAYERS:
            raise ValueError(f"{name} has {len(config)} parts, and at most {MAX_LAYERS} are read")
        for value in config:
            check_sizes(value, name)
    elif isinstance(config, int | float) and abs(config) > limit:
        raise ValueError(f"{name} is {quoted(config)}, and at most {limit} is read")


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _scheduler(folder: Path) -> Any:
    check_sizes(json.loads((folder / "scheduler_config.json").read_text("utf-8")))
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler.from_pretrained(folder, local_files_only=True)


_READERS: dict[str, Callable[[Path], Any]] = {
    "unet": _unet,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "tokenizer": _tokenizer,
    "scheduler": _scheduler,
}


def check_parts(parts: dict[str, Any], name: str) -> None:
    """Raise ValueError unless the parts are of a supported kind and fit each other."""
    unet, vae, text = (parts[part].config for part in ("unet", "vae", "text_encoder"))
    if unet["in_channels"] != vae["latent_channels"]:
        kind = "an inpainting" if unet["in_channels"] == 9 else "another"
        raise ValueError(
            f"{name} has {kind} UNet of {unet['in_channels']} input channels, not "
            f"{vae['latent_channels']}; supported are {SUPPORTED}"
        )
    if unet.get("addition_embed_type"):
        raise ValueError(
            f"{name} is a Stable Diffusion XL type of model; supported are {SUPPORTED}"
        )
    sample = unet["sample_size"]
    side = max(sample) if isinstance(sample, (list, tuple)) else sample
    if not isinstance(side, int) or not 1 <= side <= MAX_SIDE:
        raise ValueError(
            f"{name} says that it was trained on latents of {quoted(sample)} cells a side, not of "
            f"1 to {MAX_SIDE}: images are stretched to that; fetch the model again"
        )
    prediction = parts["scheduler"].config["prediction_type"]
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f"{name} predicts {prediction!r}; supported are {SUPPORTED}")
    width = unet["cross_attention_dim"]
    widths = set(width) if isinstance(width, (list, tuple)) else {width}
    if widths != {text.hidden_size}:
        raise ValueError(
            f"the parts of {name} are of different models: its UNet reads text of {width} "
            f"channels, its text encoder writes {text.hidden_size}; fetch the model again"
        )
    tokens = len(parts["tokenizer"])
    if not _BYTES <= tokens <= text.vocab_size:
        raise ValueError(
            f"the tokenizer of {name} knows {tokens} tokens and its text encoder "
            f"{text.vocab_size}: its vocabulary is missing or another model's; fetch it again"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back diffusers' and transformers' log lines and progress bars while this lasts."""
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub import utils
    from transformers.utils import logging as of_transformers

    hub: Any = utils
    logs: tuple[Any, ...] = (of_diffusers, of_transformers)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    downloads_shown = not hub.are_progress_bars_disabled()  # transformers switches these as well
    try:
        for log in logs:
            log.set_verbosity(logging.CRITICAL)
            _switch(log.disable_progress_bar)
        yield
    finally:
        for log, level, bar in before:
            log.set_verbosity(level)
            if bar:
                _switch(log.enable_progress_bar)
        _switch(hub.enable_progress_bars if downloads_shown else hub.disable_progress_bars)


def _switch(change: Callable[[], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an environment variable decides it
        change()


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
