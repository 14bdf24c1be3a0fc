"""Which models are supported, told from their configurations before a network is built."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from dragwidget.data.quoting import quoted
from dragwidget.drag.noise_path import PredictionType

__all__ = [
    "MAX_LAYERS",
    "MAX_SIDE",
    "MAX_WIDTH",
    "PARTS",
    "SUPPORTED",
    "channels_refused",
    "check_configs",
    "check_index",
    "check_sizes",
    "prediction_guess",
    "refuse_quantized",
    "text_config",
    "unet_config",
    "vae_config",
]

SUPPORTED = "Stable Diffusion 1.x and 2.x, epsilon or v-prediction"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
MAX_LAYERS, MAX_WIDTH = 128, 1_000_000  # of any number in a network's configuration
MAX_SIDE = 512  # latent cells; Stable Diffusion has 64 to 96
_VELOCITY_SIDE = 96  # latent cells: 768 pixels
_VERSION_2_WIDTH = 1024  # of the text that Stable Diffusion 2's UNet reads; version 1's is 768
# UNets of other models by their input channels: latents and what is laid beside them.
_BY_CHANNELS = {
    5: "a depth-guided (depth2img)",
    7: "an upscaling",
    8: "an image-instructed (InstructPix2Pix)",
    9: "an inpainting",
}
# What a UNet may ask for beside latents, a timestep and text, by the setting that says so.
_GUIDANCE = "the guidance scale as an input, as latent consistency models (LCM) do"
_CLASSES = "class labels or a noise level as an input, as upscalers and unCLIP do"
_IMAGES = "embeddings of images or of another text encoder, as Kandinsky and DeepFloyd IF do"
_INPUTS = {
    "time_cond_proj_dim": _GUIDANCE,
    "class_embed_type": _CLASSES,
    "num_class_embeds": _CLASSES,
    "encoder_hid_dim_type": _IMAGES,
    "encoder_hid_dim": _IMAGES,
    "addition_embed_type": "additional embeddings",
}
_TEXT_SETTINGS = (  # of all that a configuration may say, what decides the network
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "projection_dim", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip
_TEXT_KINDS = ("clip_text_model", "clip", None)


def check_index(index: Mapping[str, Any], name: str) -> None:
    """Raise ValueError unless a ``model_index.json`` is of a model of a supported kind.

    Args:
        name: what to call the model in an error.
    """
    kind = str(index.get("_class_name"))
    if kind != "StableDiffusionPipeline":
        raise ValueError(f"{name} is a {kind}; supported are {SUPPORTED}")
    absent = [
        part
        for part in PARTS
        if not (isinstance(index.get(part), list) and index[part] and index[part][0])
    ]
    if absent:
        raise ValueError(
            f"{name} lacks its {', '.join(absent)}: its model_index.json names none; wanted all of "
            f"{', '.join(PARTS)}"
        )


def check_sizes(config: Any, name: str = "its configuration") -> None:
    """Raise ValueError where a configuration asks for a network larger than any there is.

    The libraries build what it says before they read the weights, and a short file can ask for
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


def unet_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of a UNet, defaults filled in.

    Raises:
        ValueError: a network of another kind, or one that asks for an input that is not given.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    settings = _settings(UNet2DConditionModel, config, "UNet", name)
    if settings.get("addition_embed_type") == "text_time":
        raise ValueError(
            f"{name} is a Stable Diffusion XL type of model; supported are {SUPPORTED}"
        )
    for setting, what in _INPUTS.items():
        if settings.get(setting) is not None:
            raise ValueError(
                f"{name} has a UNet that takes {what} ({setting} is {quoted(settings[setting])}), "
                f"which is not given to it; supported are {SUPPORTED}"
            )
    if settings.get("attention_type", "default") != "default":
        raise ValueError(
            f"{name} has a UNet that takes boxes or images to ground text in, as GLIGEN does "
            f"(attention_type is {quoted(settings['attention_type'])}); supported are {SUPPORTED}"
        )
    ins, outs = settings["in_channels"], settings["out_channels"]
    if ins in _BY_CHANNELS:
        raise channels_refused(name, ins)
    if ins != outs:
        raise ValueError(
            f"{name} has a UNet of {quoted(ins)} input and {quoted(outs)} output channels, which "
            f"predicts more than the noise; supported are {SUPPORTED}"
        )
    sample = settings["sample_size"]
    side = max(sample) if isinstance(sample, list | tuple) and sample else sample
    if type(side) is not int or not 1 <= side <= MAX_SIDE:
        raise ValueError(
            f"{name} says that it was trained on latents of {quoted(sample)} cells a side; "
            f"images are scaled to that, and wanted are 1 to {MAX_SIDE} (sample_size in "
            "unet/config.json)"
        )
    return settings


def channels_refused(name: str, channels: int) -> ValueError:
    """Return the error for a UNet whose latents come with something beside them."""
    kind = _BY_CHANNELS.get(channels, "another")
    return ValueError(
        f"{name} has {kind} UNet of {channels} input channels, not 4; supported are {SUPPORTED}"
    )


def vae_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of an autoencoder, defaults filled in.

    Raises:
        ValueError: one of another kind.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    settings = _settings(AutoencoderKL, config, "vae", name)
    for setting in ("shift_factor", "latents_mean", "latents_std"):
        if settings.get(setting):
            raise ValueError(
                f"the vae of {name} shifts its latents ({setting} is "
                f"{quoted(settings[setting])}), as those of other models do; supported are "
                f"{SUPPORTED}"
            )
    scale = settings["scaling_factor"]
    if type(scale) not in (int, float) or not (math.isfinite(scale) and scale > 0):
        raise ValueError(
            f"the vae of {name} has the scaling_factor {quoted(scale)}; wanted a positive number"
        )
    return settings


def text_config(config: Mapping[str, Any], name: str) -> Any:
    """Return the ``CLIPTextConfig`` of a text encoder.

    Raises:
        ValueError: one of another kind.
    """
    from transformers import CLIPTextConfig

    kind, inner = config.get("model_type"), config.get("text_config")
    if kind not in _TEXT_KINDS:
        raise ValueError(
            f"{name} has a text encoder of the kind {quoted(kind)}, not CLIP's; supported are "
            f"{SUPPORTED}"
        )
    if kind == "clip" and isinstance(inner, Mapping):  # of both its networks
        config = inner
    refuse_quantized(config, "text encoder", name)
    return CLIPTextConfig(**{key: config[key] for key in _TEXT_SETTINGS if key in config})


def refuse_quantized(config: Mapping[str, Any], part: str, name: str) -> None:
    """Raise ValueError where the weights are not numbers as such."""
    if config.get("quantization_config"):
        raise ValueError(
            f"the {part} of {name} is quantized ({quoted(config['quantization_config'])}), and is "
            "not read: wanted float32, float16 or bfloat16 weights"
        )


def _settings(kind: Any, config: Mapping[str, Any], part: str, name: str) -> dict[str, Any]:
    """What a class's constructor takes, out of a configuration; no other class is looked up."""
    named = config.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise ValueError(
            f"the {part} of {name} is a {quoted(named)}, not a {kind.__name__}; supported are "
            f"{SUPPORTED}"
        )
    refuse_quantized(config, part, name)
    known = inspect.signature(kind.__init__).parameters
    return {
        key: config.get(key, parameter.default)
        for key, parameter in known.items()
        if parameter.default is not inspect.Parameter.empty
    }


def check_configs(
    unet: Mapping[str, Any], vae: Mapping[str, Any], text: Any, name: str, vae_name: str
) -> None:
    """Raise ValueError unless the parts of a model fit each other."""
    if unet["in_channels"] != vae["latent_channels"]:
        raise ValueError(
            f"the vae of {vae_name} has {quoted(vae['latent_channels'])} latent channels, and the "
            f"UNet of {name} reads {unet['in_channels']}: they are of different kinds of model; "
            f"supported are {SUPPORTED}"
        )
    widths = _widths(unet)
    if widths != {text.hidden_size}:
        raise ValueError(
            f"the parts of {name} are of different models: its UNet reads text of "
            f"{', '.join(map(quoted, sorted(widths, key=str)))} channels, its text encoder writes "
            f"{text.hidden_size}; wanted parts that belong together"
        )


def prediction_guess(unet: Mapping[str, Any], *, version_2: bool = False) -> PredictionType | None:
    """What a UNet of Stable Diffusion 2's kind predicts if nothing says so; ``None``: no such kind.

    Of these, the ones of 768 pixels predict the velocity and the ones of 512 the noise.

    Args:
        version_2: that it is of this kind is known, whatever the width of its text.
    """
    if not version_2 and _widths(unet) != {_VERSION_2_WIDTH}:
        return None
    sample = unet["sample_size"]
    side = max(sample) if isinstance(sample, list | tuple) else sample
    return "v_prediction" if side >= _VELOCITY_SIDE else "epsilon"


def _widths(unet: Mapping[str, Any]) -> set[Any]:
    width = unet["cross_attention_dim"]
    return set(width) if isinstance(width, list | tuple) else {width}
