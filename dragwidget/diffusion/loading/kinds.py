"""Which models are supported, told from their configurations before a network is built."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dragwidget.data.quoting import quoted
from dragwidget.diffusion.few_step import LEAST_CHANNELS
from dragwidget.drag.noise_path import PredictionType

__all__ = [
    "MAX_LAYERS",
    "MAX_SIDE",
    "MAX_WIDTH",
    "PARTS",
    "REFINER",
    "SUPPORTED",
    "XL_PARTS",
    "channels_refused",
    "check_configs",
    "check_guidance",
    "check_index",
    "check_preview",
    "check_sizes",
    "network_settings",
    "prediction_guess",
    "preview_config",
    "refuse_quantized",
    "text_config",
    "unet_config",
    "vae_config",
]

SUPPORTED = (
    "Stable Diffusion 1.x and 2.x and XL, epsilon or v-prediction, and folders of 3 (experimental)"
)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
XL_PARTS = (*PARTS, "text_encoder_2", "tokenizer_2")
_PIPELINES = {
    "StableDiffusionPipeline": PARTS,
    "LatentConsistencyModelPipeline": PARTS,
    "StableDiffusionXLPipeline": XL_PARTS,
}
REFINER = ("the refiner of Stable Diffusion XL, which finishes what the base model has begun and "
            "reads one text encoder")  # fmt: skip
_XL_SIZES = 6  # numbers that an XL UNet is told of an image's size; the refiner's reads five
# The scale of the latents, which are of another space where it is another.
_SCALES = {0.18215: "Stable Diffusion 1 and 2", 0.13025: "Stable Diffusion XL"}
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
_CLASSES = "class labels or a noise level as an input, as upscalers and unCLIP do"
_IMAGES = "embeddings of images or of another text encoder, as Kandinsky and DeepFloyd IF do"
_INPUTS = {
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


def check_index(
    index: Mapping[str, Any], name: str, needs: Callable[[], str] = str
) -> tuple[str, ...]:
    """Return the parts of the model that a ``model_index.json`` describes: ``PARTS``, ``XL_PARTS``.

    Args:
        name: what to call the model in an error.
        needs: returns what else an error says of a model of another kind.

    Raises:
        ValueError: a model of a kind that is not supported.
    """
    kind = str(index.get("_class_name"))
    if kind not in _PIPELINES and not kind.startswith("StableDiffusionXLImg2Img"):
        raise ValueError(f"{name} is a {kind}{needs()}; supported are {SUPPORTED}")
    parts = _PIPELINES.get(kind, XL_PARTS)
    absent = [
        part
        for part in parts
        if not (isinstance(index.get(part), list) and index[part] and index[part][0])
    ]
    if parts == XL_PARTS and {"text_encoder", "tokenizer"} == set(absent):
        raise ValueError(f"{name} is {REFINER}; supported are {SUPPORTED}")
    if kind not in _PIPELINES:
        raise ValueError(f"{name} is a {kind}; supported are {SUPPORTED}")
    if absent:
        raise ValueError(
            f"{name} lacks its {', '.join(absent)}: its model_index.json names none; wanted all of "
            f"{', '.join(parts)}"
        )
    return parts


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


def unet_config(config: Mapping[str, Any], name: str, *, xl: bool = False) -> dict[str, Any]:
    """Return the settings of a UNet, defaults filled in.

    Args:
        xl: of Stable Diffusion XL.

    Raises:
        ValueError: a network of another kind, or one that asks for an input that is not given.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    settings = network_settings(UNet2DConditionModel, config, "UNet", name)
    of_xl = settings.get("addition_embed_type") == "text_time"
    if of_xl != xl:
        kinds = {True: "Stable Diffusion XL", False: "Stable Diffusion 1 or 2"}
        raise ValueError(
            f"{name} is a pipeline of {kinds[xl]} with a UNet of {kinds[of_xl]} "
            f"(addition_embed_type is {quoted(settings.get('addition_embed_type'))}); wanted parts "
            "that belong together"
        )
    for setting, what in _INPUTS.items():
        if settings.get(setting) is not None and not (xl and setting == "addition_embed_type"):
            raise ValueError(
                f"{name} has a UNet that takes {what} ({setting} is {quoted(settings[setting])}), "
                f"which is not given to it; supported are {SUPPORTED}"
            )
    check_guidance(settings.get("time_cond_proj_dim"), name)
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


def check_guidance(channels: Any, name: str) -> None:
    """Raise ValueError for a number of channels that no guidance scale can be embedded in."""
    if channels is not None and (type(channels) is not int or channels < LEAST_CHANNELS):
        raise ValueError(
            f"{name} has a UNet that reads the guidance scale in {quoted(channels)} channels "
            f"(time_cond_proj_dim); wanted {LEAST_CHANNELS} or more"
        )


def channels_refused(name: str, channels: int) -> ValueError:
    """Return the error for a UNet whose latents come with something beside them."""
    kind = _BY_CHANNELS.get(channels, "another")
    return ValueError(
        f"{name} has {kind} UNet of {channels} input channels, not 4; supported are {SUPPORTED}"
    )


def vae_config(config: Mapping[str, Any], name: str, *, shifted: bool = False) -> dict[str, Any]:
    """Return the settings of an autoencoder, defaults filled in.

    Args:
        shifted: of a family whose latents have a shift beside their scale.

    Raises:
        ValueError: one of another kind.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    settings = network_settings(AutoencoderKL, config, "vae", name)
    for setting in ("shift_factor", "latents_mean", "latents_std"):
        if settings.get(setting) and not (shifted and setting == "shift_factor"):
            raise ValueError(
                f"the vae of {name} shifts its latents ({setting} is "
                f"{quoted(settings[setting])}), as those of other models do; supported are "
                f"{SUPPORTED}"
            )
    shift, scale = settings.get("shift_factor") or 0.0, settings["scaling_factor"]
    if type(shift) not in (int, float) or not math.isfinite(shift):
        raise ValueError(f"the vae of {name} has the shift_factor {quoted(shift)}; wanted a number")
    if type(scale) not in (int, float) or not (math.isfinite(scale) and scale > 0):
        raise ValueError(
            f"the vae of {name} has the scaling_factor {quoted(scale)}; wanted a positive number"
        )
    return settings


def preview_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of a tiny autoencoder (TAESD), defaults filled in.

    Raises:
        ValueError: one of another kind, or whose settings do not belong together.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    settings = network_settings(AutoencoderTiny, config, "preview_vae", name)
    for side in ("encoder", "decoder"):
        widths, blocks = settings[f"{side}_block_out_channels"], settings[f"num_{side}_blocks"]
        numbers = [*widths, *blocks] if _are_lists(widths, blocks) else [None]
        if not all(type(n) is int and n > 0 for n in numbers) or sum(blocks) > MAX_LAYERS:
            raise ValueError(
                f"the preview_vae of {name} has the {side}'s blocks {quoted(blocks)} of the widths "
                f"{quoted(widths)}; wanted whole numbers, {MAX_LAYERS} blocks at most"
            )
    # What diffusers' pipelines divide and shift a latent by; TAESD takes it as the UNet has it.
    wanted = {"out_channels": 3, "scaling_factor": 1.0, "shift_factor": 0.0}
    for setting, value in wanted.items():
        if settings[setting] != value:
            raise ValueError(
                f"the preview_vae of {name} has {setting} {quoted(settings[setting])}; wanted "
                f"{value:g}, as TAESD has"
            )
    return settings


def _are_lists(*values: object) -> bool:
    return all(isinstance(value, list | tuple) for value in values)


def check_preview(
    tiny: Mapping[str, Any], unet: Mapping[str, Any], factor: int, name: str, model: str
) -> None:
    """Raise ValueError unless a tiny autoencoder draws a model's latents.

    Args:
        factor: image pixels per latent cell of the model's own autoencoder.
    """
    if tiny["latent_channels"] != unet["in_channels"]:
        raise ValueError(
            f"the preview_vae {name} has {quoted(tiny['latent_channels'])} latent channels, and "
            f"the UNet of {model} reads {unet['in_channels']}: it is of another kind of model "
            "(taesd3 and taef1, of 16 channels, are of Stable Diffusion 3 and Flux); wanted taesd "
            "for Stable Diffusion 1 and 2, taesdxl for XL"
        )
    each, levels = tiny["upsampling_scaling_factor"], len(tiny["decoder_block_out_channels"])
    if each != 2 or 2 ** (levels - 1) != factor:
        raise ValueError(
            f"the preview_vae {name} enlarges a latent {levels - 1} times by {quoted(each)}, and "
            f"the vae of {model} by {factor} in all: it is of another kind of model"
        )


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


def network_settings(kind: Any, config: Mapping[str, Any], part: str, name: str) -> dict[str, Any]:
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
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    texts: Sequence[Any],
    name: str,
    vae_name: str,
) -> None:
    """Raise ValueError unless the parts of a model fit each other; ``texts``: one, or XL's two."""
    of_xl = len(texts) > 1
    wanted = "Stable Diffusion XL" if of_xl else "Stable Diffusion 1 and 2"
    if unet["in_channels"] != vae["latent_channels"]:
        raise ValueError(
            f"the vae of {vae_name} has {quoted(vae['latent_channels'])} latent channels, and the "
            f"UNet of {name} reads {unet['in_channels']}: they are of different kinds of model; "
            f"supported are {SUPPORTED}"
        )
    if _SCALES.get(vae["scaling_factor"], wanted) != wanted:
        raise ValueError(
            f"the vae of {vae_name} is of {_SCALES[vae['scaling_factor']]} (scaling_factor is "
            f"{vae['scaling_factor']}), whose latents are others than those of {wanted}, which "
            f"{name} is; wanted parts that belong together"
        )
    widths, width = _widths(unet), sum(text.hidden_size for text in texts)
    if widths != {width}:
        raise ValueError(
            f"the parts of {name} are of different models: its UNet reads text of "
            f"{', '.join(map(quoted, sorted(widths, key=str)))} channels, its text "
            f"encoder{'s write' if of_xl else ' writes'} {width}; wanted parts that belong together"
        )
    if of_xl:
        _check_added(unet, texts[1].projection_dim, name)


def _check_added(unet: Mapping[str, Any], pooled: int, name: str) -> None:
    """Raise ValueError unless an XL UNet reads the pooled text and the sizes that it is given."""
    each, reads = unet["addition_time_embed_dim"], unet["projection_class_embeddings_input_dim"]
    if type(each) is not int or type(reads) is not int or reads - _XL_SIZES * each != pooled:
        raise ValueError(
            f"the UNet of {name} reads {quoted(reads)} channels beside text and time, and is given "
            f"{quoted(pooled)} of the pooled text and {_XL_SIZES} times {quoted(each)} of the "
            f"image's size: it may be {REFINER}; supported are {SUPPORTED}"
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
