"""The parts of a model, read from a folder in diffusers' layout.

Only JSON and safetensors are read, nothing else is opened: pickled weights can run code, and so can
a model's own modules. Networks are built from their settings and filled from tensors, here and
nowhere else; what is missing or left over is an error that names it.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dragwidget.data.quoting import quoted
from dragwidget.diffusion.few_step import few_step_reason
from dragwidget.diffusion.loading.folder import STEMS, ModelFolder, bytes_needed, weight_variants
from dragwidget.diffusion.loading.kinds import (
    PARTS,
    SUPPORTED,
    check_configs,
    check_index,
    check_sizes,
    prediction_guess,
    text_config,
    unet_config,
    vae_config,
)
from dragwidget.diffusion.loading.noise_levels import (
    MARKS,
    SchedulerMarks,
    marks_of,
    noise_scheduler,
    scheduler_kind,
)
from dragwidget.diffusion.loading.tokenizer import read_tokenizer
from dragwidget.diffusion.weights import first_line, read_header
from dragwidget.drag.noise_path import PredictionType

__all__ = [
    "PARTS",
    "SUPPORTED",
    "TOKENIZERS",
    "blaming",
    "build",
    "check_tokens",
    "check_variant",
    "empty_prompt",
    "first_line",
    "quiet",
    "read_configs",
    "read_parts",
    "read_vae",
    "read_vae_config",
]

TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_BYTES = 256  # a CLIP tokenizer has at least a token for each
# The attention of autoencoders that were saved before diffusers 0.17.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(rf"(\.attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.(weight|bias)")
_T5_WORDS = ("shared.weight", "encoder.embed_tokens.weight")
# What comes with a network's weights and takes no part in its answers.
_HARMLESS = re.compile(
    r"(.*\.)?(position_ids|logit_scale|text_projection(\.weight)?|vision_model\..*|"
    rf"visual_projection\..*|loss\..*|model_ema\..*|{'|'.join(MARKS)})"
)


def read_configs(
    folder: ModelFolder, name: str, *, vae: Mapping[str, Any] | None = None, vae_name: str = ""
) -> dict[str, Any]:
    """Return the settings of a model's networks, of a supported kind and such that they fit.

    Those of Stable Diffusion XL have a ``text_encoder_2``.

    Args:
        name: what to call the model in an error.
        vae: the settings of the autoencoder that takes the place of its own.
        vae_name: what to call that one.
    """
    if not folder.has("model_index.json"):
        raise ValueError(
            f"{name} is no model: a diffusers folder holds a model_index.json, and a checkpoint is "
            "a .safetensors file"
        )
    with blaming("index", name):
        index = folder.json("model_index.json")
    texts = [
        part
        for part in check_index(index, name, partial(_needs, folder))
        if part.startswith("text_encoder")
    ]
    with blaming("unet", name):
        unet = folder.part("unet").json("config.json")
        check_sizes(unet)
    unet = unet_config(unet, name, xl=len(texts) > 1)
    read = {part: _read_text_config(folder, part, name) for part in texts}
    vae = dict(read_vae_config(folder.part("vae"), name) if vae is None else vae)
    check_configs(unet, vae, list(read.values()), name, vae_name or name)
    return {"index": index, "unet": unet, "vae": vae, **read}


def _needs(folder: ModelFolder) -> str:
    """Return what a transformer and its other networks would take, to be said of a model."""
    dtype = folder.dtype or torch.float32
    needed = bytes_needed(folder, dtype)
    if "transformer" not in needed:
        return ""
    word, size = str(dtype).removeprefix("torch."), sum(needed.values())
    return f", whose weights need {size / 1e9:.1f} GB in {word}"


def _read_text_config(folder: ModelFolder, part: str, name: str) -> Any:
    with blaming(part, name):
        config = folder.part(part).json("config.json")
        check_sizes(config)
        return text_config(config, name)


def read_vae_config(folder: ModelFolder, name: str) -> dict[str, Any]:
    """Return the settings of the autoencoder in a folder."""
    with blaming("vae", name):
        config = folder.json("config.json")
        check_sizes(config)
    return vae_config(config, name)


def read_vae(folder: ModelFolder, config: Mapping[str, Any], name: str) -> Any:
    """Return the autoencoder in a folder, of these settings and in the files' number format."""
    with blaming("vae", name):
        return build("vae", config, folder.weights("vae"))


def read_parts(
    folder: ModelFolder,
    name: str,
    *,
    configs: Mapping[str, Any],
    vae: Any = None,
    prediction_type: PredictionType | None = None,
) -> dict[str, Any]:
    """Return all parts of a model.

    Args:
        configs: what ``read_configs`` returns of it.
        vae: the autoencoder that takes the place of its own.
        prediction_type: what its UNet predicts, where the caller knows better than the folder.

    Raises:
        ValueError: a part that is missing, broken or another model's; it is named.
    """
    check_variant(folder, name)
    with blaming("unet", name):
        headers = [read_header(file) for file in folder.part("unet").weight_files("unet")]
    marks = marks_of(headers, name, prediction_guess(configs["unet"]), prediction_type)
    parts = read_scheduler(folder, name, configs, marks, prediction_type)
    for text, tokenizer in TOKENIZERS.items():
        if text in configs:
            with blaming(tokenizer, name), quiet():
                parts[tokenizer] = read_tokenizer(folder.part(tokenizer))
            check_tokens(parts[tokenizer], configs[text], name)
    for part in ("unet", *(text for text in TOKENIZERS if text in configs)):
        with blaming(part, name):
            parts[part] = build(part, configs[part], folder.part(part).weights(part), folder.dtype)
    parts["vae"] = read_vae(folder.part("vae"), configs["vae"], name) if vae is None else vae
    return parts | empty_prompt(configs)


def empty_prompt(configs: Mapping[str, Any]) -> dict[str, bool]:
    """Return what a Stable Diffusion XL's index says of an empty negative prompt, if it is one."""
    word = "force_zeros_for_empty_prompt"
    xl = "text_encoder_2" in configs
    return {"zeros_for_empty": bool(configs["index"].get(word, True))} if xl else {}


def read_scheduler(
    folder: ModelFolder,
    name: str,
    configs: Mapping[str, Any],
    marks: SchedulerMarks,
    prediction_type: PredictionType | None,
) -> dict[str, Any]:
    """Return ``scheduler``, see ``noise_scheduler``, and ``few_step``, see ``few_step_reason``."""
    with blaming("scheduler", name):
        config = folder.part("scheduler").json("scheduler_config.json")
    named = configs["index"]["scheduler"][1:2]
    index_class = str(named[0]) if named else None
    scheduler = noise_scheduler(
        config, name, index_class=index_class, marks=marks, prediction_type=prediction_type
    )
    few_step = few_step_reason(
        configs["unet"],
        scheduler_kind(config, index_class, name),
        scheduler.config["timestep_spacing"],
        zero_snr=not scheduler.alphas_cumprod[-1] > 0,
    )
    return {"scheduler": scheduler, "few_step": few_step}


def check_variant(folder: ModelFolder, name: str) -> None:
    """Raise ValueError where a variant is named that no part of a model has."""
    there: set[str] = set()
    for part, stem in STEMS.items():
        path = folder.path / part
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
        there |= {variant or "plain" for variant in weight_variants(names, stem)}
    if folder.variant is not None and folder.variant not in there:
        raise ValueError(
            f"{name} has no weights of the variant {quoted(folder.variant)}, only "
            f"{', '.join(sorted(there)) or 'none'}: leave variant= out, or name one of these"
        )


def build(
    part: str, config: Any, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> Any:
    """Return a network of these settings with these weights, which are copied.

    Args:
        dtype: that the weights are copied to; ``None``: they keep their own.

    Raises:
        ValueError: weights that are missing, left over, of another shape or no numbers.
    """
    with quiet(), torch.device("meta"):
        network = _make(part, config)
    own = network.state_dict()
    fitted = _fitted(weights, own)
    _compare(fitted, own)
    copied = {
        key: tensor.to(dtype or tensor.dtype, copy=True)
        for key, tensor in fitted.items()
        if key in own
    }
    network.load_state_dict(copied, assign=True)
    if _T5_WORDS[0] in own:
        network.encoder.embed_tokens.weight = network.shared.weight
    for module in network.modules():  # counted, not learned, and so in no file
        ids = getattr(module, "position_ids", None)
        if isinstance(ids, Tensor):
            module.position_ids = torch.arange(ids.shape[-1]).expand(1, -1)
    return network.eval()


def _make(part: str, config: Any) -> Any:
    if part == "unet":
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return UNet2DConditionModel.from_config(dict(config))
    if part == "vae":
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL.from_config(dict(config))
    if part == "preview_vae":
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        return AutoencoderTiny.from_config(dict(config))
    if part == "transformer":
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        return SD3Transformer2DModel.from_config(dict(config))
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

    if part == "text_encoder_3":
        return T5EncoderModel(config)

    return (CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel)(config)


def _fitted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under a network's own names: libraries have renamed some over the years."""
    fitted = {_OLD.sub(_new_attention, key): tensor for key, tensor in weights.items()}
    for key, other in (_T5_WORDS, _T5_WORDS[::-1]):  # one matrix, of which files have either name
        if key in own and key not in fitted and other in fitted:
            fitted[key] = fitted[other]
    prefix = "text_model."
    bare = {key.removeprefix(prefix): tensor for key, tensor in fitted.items()}
    if any(key.startswith(prefix) for key in own):
        return {key if key in own else prefix + key: tensor for key, tensor in bare.items()}
    return bare


def _new_attention(match: re.Match[str]) -> str:
    return f"{match[1]}.{_OLD_ATTENTION[match[2]]}.{match[3]}"


def _compare(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    missing = sorted(own.keys() - weights.keys())
    left = sorted(key for key in weights.keys() - own.keys() if not _HARMLESS.fullmatch(key))
    if missing:
        over = f", and it has no place for {len(left)}, first {left[0]}" if left else ""
        raise ValueError(
            f"{len(missing)} of its {len(own)} weights are missing, first {missing[0]}{over}; "
            "wanted the weights that belong to its configuration"
        )
    if left:
        raise ValueError(
            f"it holds {len(left)} weights that its configuration has no place for, first "
            f"{left[0]}; wanted the configuration that belongs to its weights"
        )
    for key, tensor in own.items():
        if weights[key].shape != tensor.shape:
            raise ValueError(
                f"its {key} is {_shape(weights[key])}, and its configuration wants "
                f"{_shape(tensor)}; wanted the configuration that belongs to its weights"
            )
        if not weights[key].is_floating_point():
            raise ValueError(
                f"its {key} is of {weights[key].dtype}, as in quantized weights, which are not "
                "read: wanted float32, float16 or bfloat16"
            )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def check_tokens(tokenizer: Any, text: Any, name: str) -> None:
    """Raise ValueError unless a tokenizer's words are those of a text encoder."""
    tokens = len(tokenizer)
    if not _BYTES <= tokens <= text.vocab_size:
        raise ValueError(
            f"the tokenizer of {name} knows {tokens} tokens and its text encoder "
            f"{text.vocab_size}: its vocabulary is missing or another model's; wanted the "
            "vocab.json and merges.txt that belong to it"
        )


@contextmanager
def blaming(part: str, name: str) -> Iterator[None]:
    """Say which part of which model cannot be loaded, whatever is raised meanwhile."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        whole = "" if "wanted" in reason else "; wanted diffusers' layout with safetensors weights"
        raise ValueError(f"the {part} of {name} cannot be loaded: {reason}{whole}") from error


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
