"""A model of Stable Diffusion 3's kind, read from a folder in diffusers' layout. Experimental."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dragwidget.data.quoting import quoted
from dragwidget.diffusion.devices import free_memory
from dragwidget.diffusion.loading.folder import ModelFolder, bytes_needed
from dragwidget.diffusion.loading.kinds import (
    MAX_SIDE,
    check_sizes,
    network_settings,
    refuse_quantized,
    text_config,
    vae_config,
)
from dragwidget.diffusion.loading.reading import blaming, build, check_tokens, quiet
from dragwidget.diffusion.loading.tokenizer import read_t5_tokenizer, read_tokenizer
from dragwidget.diffusion.low_memory import Memory

__all__ = ["PIPELINE", "check_fits", "read_sd3", "read_sd3_configs"]

PIPELINE = "StableDiffusion3Pipeline"
_NEEDED = ("transformer", "vae", "text_encoder", "text_encoder_2")
_T5 = "text_encoder_3"
_TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
# What a scheduler's settings may say beside the shift: all of it makes another path.
_OTHER_PATHS = (
    "use_dynamic_shifting", "invert_sigmas", "shift_terminal", "use_karras_sigmas",
    "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling",
)  # fmt: skip


def check_fits(
    folder: ModelFolder, name: str, device: torch.device, dtype: torch.dtype, memory: Memory
) -> None:
    """Raise ValueError where a device has not the memory for a model's weights, before any is read.

    With ``memory="low"`` the transformer stays on the device and the largest other network visits.
    """
    needed, free = bytes_needed(folder, dtype), free_memory(device)
    stays = needed.get("transformer", 0)
    others = [size for part, size in needed.items() if part != "transformer"]
    low = memory == "low" and device.type != "cpu"
    total = stays + (max(others, default=0) if low else sum(others))
    if free is None or total <= free:
        return
    word = str(dtype).removeprefix("torch.")
    less = "" if low or device.type == "cpu" else "memory='low', "
    raise ValueError(
        f"the weights of {name} need {total / 1e9:.1f} GB in {word}, and {device} has "
        f"{free / 1e9:.1f} GB free; wanted {less}a smaller dtype, another device, or a folder "
        "without its text_encoder_3"
    )


def read_sd3_configs(folder: ModelFolder, name: str) -> dict[str, Any]:
    """Return the settings of the networks in a folder, such that they fit each other.

    There is a ``text_encoder_3`` where the folder's index names one.

    Raises:
        ValueError: a part is missing or of another kind, or the parts do not fit.
    """
    index = folder.json("model_index.json")
    there = [part for part in (*_NEEDED, _T5) if _names(index.get(part))]
    if absent := [part for part in _NEEDED if part not in there]:
        raise ValueError(
            f"{name} lacks its {', '.join(absent)}: its model_index.json names none; wanted all of "
            f"{', '.join(_NEEDED)}"
        )
    configs: dict[str, Any] = {}
    for part in there:
        with blaming(part, name):
            config = folder.part(part).json("config.json")
            check_sizes(config)
            configs[part] = _config(part, config, name)
    _check_parts(configs, name)
    return configs


def _names(entry: object) -> bool:
    return isinstance(entry, list) and bool(entry) and bool(entry[0])


def _config(part: str, config: Mapping[str, Any], name: str) -> Any:
    if part == "vae":
        return vae_config(config, name, shifted=True)
    if part != "transformer":
        return _t5_config(config, name) if part == _T5 else text_config(config, name)
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    settings = network_settings(SD3Transformer2DModel, config, "transformer", name)
    for key in ("sample_size", "pos_embed_max_size"):
        if type(settings[key]) is not int or not 1 <= settings[key] <= MAX_SIDE:
            raise ValueError(
                f"{name} says {key} {quoted(settings[key])} in transformer/config.json; wanted a "
                f"whole number from 1 to {MAX_SIDE}"
            )
    return settings


def _t5_config(config: Mapping[str, Any], name: str) -> Any:
    """Return the ``T5Config`` of the third text encoder."""
    from transformers import T5Config

    if config.get("model_type") != "t5":
        raise ValueError(
            f"{name} has a third text encoder of the kind {quoted(config.get('model_type'))}; "
            "wanted a T5"
        )
    refuse_quantized(config, "text encoder", name)
    defaults = T5Config().to_dict()
    own = ("is_gated_act", "dense_act_fn", "feed_forward_proj", "num_heads", "num_layers")
    known = {key for key in defaults if not key.startswith("_")} | {*own}
    return T5Config(**{key: config[key] for key in known if key in config})


def _check_parts(configs: Mapping[str, Any], name: str) -> None:
    """Raise ValueError unless the networks of a folder read what the others write."""
    transformer, vae = configs["transformer"], configs["vae"]
    clips = [configs["text_encoder"], configs["text_encoder_2"]]
    pairs = [
        ("latent channels", transformer["in_channels"], vae["latent_channels"]),
        ("output channels", transformer["in_channels"], transformer["out_channels"]),
        ("channels of pooled text", transformer["pooled_projection_dim"],
         sum(clip.projection_dim for clip in clips)),
    ]  # fmt: skip
    if _T5 in configs:
        pairs.append(("channels of text", transformer["joint_attention_dim"], configs[_T5].d_model))
    for what, wanted, got in pairs:
        if wanted != got:
            raise ValueError(
                f"the parts of {name} are of different models: its transformer reads "
                f"{quoted(wanted)} {what}, and gets {quoted(got)}; wanted parts that belong "
                "together"
            )
    if sum(clip.hidden_size for clip in clips) > transformer["joint_attention_dim"]:
        raise ValueError(
            f"the parts of {name} are of different models: its transformer reads text of "
            f"{transformer['joint_attention_dim']} channels, and its text encoders write more; "
            "wanted parts that belong together"
        )


def read_sd3(folder: ModelFolder, name: str, configs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``StableDiffusion3`` is made of, weights in ``folder.dtype``.

    Args:
        configs: what ``read_sd3_configs`` returns of it.

    Raises:
        ValueError: a part that is missing, broken or another model's; it is named.
    """
    parts: dict[str, Any] = _read_path(folder, name)
    for text, tokenizer in _TOKENIZERS.items():
        with blaming(tokenizer, name), quiet():
            parts[tokenizer] = read_tokenizer(folder.part(tokenizer))
        check_tokens(parts[tokenizer], configs[text], name)
    if _T5 in configs:
        with blaming("tokenizer_3", name), quiet():
            parts["tokenizer_3"] = read_t5_tokenizer(folder.part("tokenizer_3"))
        tokens, rows = len(parts["tokenizer_3"]), configs[_T5].vocab_size
        if tokens > rows:
            raise ValueError(
                f"the tokenizer_3 of {name} knows {tokens} tokens and its T5 {rows}; wanted the "
                "tokenizer.json that belongs to it"
            )
    for part, config in configs.items():
        # One class for both CLIPs: both have a projection here.
        kind = "text_encoder_2" if part == "text_encoder" else part
        with blaming(part, name):
            parts[part] = build(kind, config, folder.part(part).weights(part), folder.dtype)
    if _T5 in configs:
        # Its last products exceed float16, so transformers keeps these layers in float32, too.
        for key, module in parts[_T5].named_modules():
            if key.endswith(".wo"):
                module.float()
    return parts


def _read_path(folder: ModelFolder, name: str) -> dict[str, Any]:
    """Return ``shift`` and ``levels_count`` of a folder's scheduler.

    Raises:
        ValueError: it is of another path.
    """
    with blaming("scheduler", name):
        config = folder.part("scheduler").json("scheduler_config.json")
        kind = config.get("_class_name")
        if kind != "FlowMatchEulerDiscreteScheduler":
            raise ValueError(
                f"it is a {quoted(kind)}; wanted FlowMatchEulerDiscreteScheduler, which Stable "
                "Diffusion 3 has"
            )
        if other := next((key for key in _OTHER_PATHS if config.get(key)), None):
            raise ValueError(
                f"{other} is {quoted(config[other])}, which makes another path; wanted one that "
                "shift alone describes"
            )
        shift, levels = config.get("shift", 1.0), config.get("num_train_timesteps", 1000)
        if type(shift) not in (int, float) or not (math.isfinite(shift) and shift > 0):
            raise ValueError(f"its shift is {quoted(shift)}; wanted a positive number")
        if type(levels) is not int or not 1 <= levels <= 1_000_000:
            raise ValueError(f"its num_train_timesteps is {quoted(levels)}; wanted 1 to 1000000")
    return {"shift": float(shift), "levels_count": levels}
