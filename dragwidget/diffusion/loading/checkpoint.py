"""A model in one checkpoint file, in the layout of Stable Diffusion's original code.

The settings of its networks are not in such a file. Those of Stable Diffusion 1, 2 and XL are in
this package (``configs``): the numbers of CompVis' and Stability AI's published model
configurations (``v1-inference.yaml``, ``v2-inference-v.yaml``, ``sd_xl_base.yaml``). CLIP's
vocabulary comes from the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from dragwidget.diffusion.loading.folder import ModelFolder
from dragwidget.diffusion.loading.hub import CONFIGS, fetch
from dragwidget.diffusion.loading.kinds import (
    REFINER,
    SUPPORTED,
    channels_refused,
    check_guidance,
    prediction_guess,
)
from dragwidget.diffusion.loading.noise_levels import marks_of
from dragwidget.diffusion.loading.reading import (
    TOKENIZERS,
    blaming,
    build,
    check_tokens,
    empty_prompt,
    quiet,
    read_configs,
    read_scheduler,
)
from dragwidget.diffusion.loading.sources import locate
from dragwidget.diffusion.loading.tokenizer import CLIP_VOCABULARIES, read_tokenizer
from dragwidget.diffusion.weights import Header, read_header, read_weights
from dragwidget.drag.noise_path import PredictionType

__all__ = ["check_suffix", "config_folder", "is_checkpoint", "read_checkpoint", "read_vae_file"]

Version: TypeAlias = Literal[1, 2, "xl"]
_VERSIONS: tuple[Version, ...] = (1, 2, "xl")
PACKAGED = {k: Path(__file__).parent / "configs" / f"sd{k}" for k in _VERSIONS}
_BASE_SIDE = 64  # latent cells; of Stable Diffusion 2's base models, which predict noise
_VERSION_OF_WIDTH: dict[int, Version] = {768: 1, 1024: 2}
_PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_UNET = "model.diffusion_model."
# What reads the guidance scale in a latent consistency model: its name here, and diffusers'.
_GUIDANCE = "time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"
_FIRST_LAYER = f"{_UNET}input_blocks.0.0.weight"
_TEXT, _OPEN_CLIP = "cond_stage_model.", "cond_stage_model.model."
_XL = "conditioner."
_XL_TEXT, _XL_OPEN_CLIP = f"{_XL}embedders.0.", f"{_XL}embedders.1.model."
_VAES = ("first_stage_model.", "vae.")
_PLACES = {"unet": (_UNET,), "vae": _VAES, "text encoder": (_TEXT, _XL_TEXT)}
_ATTENTION = re.compile(r"model\.diffusion_model\..*\.attn2\.to_k\.weight")
_JOINT, _FLUX = r".*joint_blocks\.", r".*(double_blocks|single_(transformer_)?blocks)\."
# Models of other kinds by what only they have in a file, the first that is found counts.
_KINDS = (
    (r".*lora", "a LoRA, which goes with a model"),
    (r"edm_(mean|std|vpred)", "a checkpoint of EDM's continuous noise levels"),
    (r"control_model\.|controlnet_cond_embedding\.|input_hint_block\.", "a ControlNet"),
    (r".*\.(motion_modules|temporal_transformer|time_stack|time_mixer)\.", "a model of videos"),
    (r"depth_model\.", "a depth-guided (depth2img) checkpoint"),
    (r"low_scale_model\.", "an upscaling checkpoint"),
    (r"noise_augmentor\.|embedder\.model\.visual\.", "an unCLIP checkpoint, which reads an image"),
    (r".*\.fuser\.|.*position_net\.", "a GLIGEN checkpoint, which reads boxes"),
    (r".*(label_emb|class_embedding|add_embedding)\.", "a checkpoint whose UNet reads more "
     "than text and time (class labels, a noise level, a size), as Stable Diffusion XL, upscalers "
     "and unCLIP do"),
    (r"(down_blocks|up_blocks|mid_block)\.", "a network alone, in diffusers' layout: put it into "
     "the folder of a whole model"),
    (r"(encoder|decoder)\.(conv_in|mid)", "an autoencoder alone: name it by vae="),
    (_JOINT, "a checkpoint of Stable Diffusion 3 in one file, of which only folders in diffusers' "
     "layout are read"),
    (_FLUX, "a checkpoint of Flux"),
    (r"emb_params$|string_to_param|clip_[lg]$", "a textual inversion, not a model"),
)  # fmt: skip


def is_checkpoint(name: str) -> bool:
    """Return whether a name is a checkpoint file's, readable or not."""
    return name.lower().endswith((".safetensors", *_PICKLED)) and not Path(name).is_dir()


def check_suffix(path: Path) -> None:
    """Raise ValueError for a pickled file, which is never opened."""
    if path.suffix.lower() in _PICKLED:
        raise ValueError(
            f"{path.name} is a pickled checkpoint, which can run code when it is opened, and is "
            "not read: get the .safetensors version, or convert it in a place that you trust"
        )


class Checkpoint:
    """A checkpoint file whose header has been looked at.

    Raises:
        ValueError: a pickled file, which is not opened; one of another kind; a broken one.
    """

    def __init__(self, path: Path, *, vae_given: bool = False) -> None:
        check_suffix(path)
        self.path = path
        self.header = read_header(path)
        _check_kind(path.name, self.header, vae_given=vae_given)

    @property
    def version(self) -> Version | None:
        """1 or 2 of Stable Diffusion, by the width of its text, or XL; ``None``: none of them."""
        if _of_xl(self.header):
            return "xl"
        widths = {self.header.shapes[k][-1] for k in self.header.shapes if _ATTENTION.fullmatch(k)}
        return _VERSION_OF_WIDTH.get(widths.pop()) if len(widths) == 1 else None

    @property
    def open_clip(self) -> bool:
        """Whether its text encoder is in the layout of Stable Diffusion 2."""
        return any(key.startswith(_OPEN_CLIP) for key in self.header.shapes)

    def tensors(self, *prefixes: str) -> dict[str, Tensor]:
        """Return all tensors whose names begin with one of these."""
        return read_weights(
            self.path, [key for key in self.header.shapes if key.startswith(prefixes)]
        )


def config_folder(
    path: Path, config: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None
) -> ModelFolder:
    """Return the folder with the settings of a checkpoint's networks: the one named, or ours.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no folder is named, and the checkpoint is of neither Stable Diffusion 1, 2 nor
            XL.
    """
    if config is not None:
        folder = locate(config, "a configuration (config=)")
        return ModelFolder(folder or fetch(str(config), CONFIGS, None, cache_dir))
    version = Checkpoint(path, vae_given=True).version
    if version is None:
        raise ValueError(
            f"{path.name} cannot be loaded without a configuration: the text that its UNet reads "
            f"has neither the {' nor the '.join(map(str, _VERSION_OF_WIDTH))} channels of Stable "
            "Diffusion 1 and 2; name a diffusers folder of the same kind by config="
        )
    return ModelFolder(PACKAGED[version])


def read_checkpoint(
    path: Path,
    folder: ModelFolder,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    vae: Any = None,
    vae_name: str = "",
    prediction_type: PredictionType | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Return all parts of the model in a file.

    Args:
        folder: with the settings of its networks, see ``config_folder``.
        cache_dir: of the hub, where CLIP's vocabulary may be.
        vae: an autoencoder that takes the place of its own.
        vae_name: what to call that one.
        prediction_type: what the UNet predicts; by default what the file says, or ``folder``.
        dtype: of the weights but the autoencoder's; ``None``: the file's own, as that has.

    Raises:
        ValueError: a file of another kind, or a broken one.
    """
    name = path.name
    checkpoint = Checkpoint(path, vae_given=vae is not None)
    vae_config = None if vae is None else vae.config
    with quiet():
        configs = read_configs(folder, name, vae=vae_config, vae_name=vae_name)
    version_2 = checkpoint.open_clip or checkpoint.version == 2
    guess = prediction_guess(configs["unet"], version_2=version_2)
    marks = marks_of([checkpoint.header], name, guess, prediction_type)
    guidance = checkpoint.header.shapes.get(f"{_UNET}{_GUIDANCE[0]}")
    if guidance:
        check_guidance(guidance[-1], name)
        configs["unet"]["time_cond_proj_dim"] = guidance[-1]
    parts = read_scheduler(folder, name, configs, marks, prediction_type)
    predicts = parts["scheduler"].config["prediction_type"]
    if folder.path == PACKAGED[2] and predicts == "epsilon":
        configs["unet"]["sample_size"] = _BASE_SIDE
    parts |= {"vae": vae, **empty_prompt(configs)}
    for text, part in TOKENIZERS.items():
        if text in configs:
            parts[part] = _tokenizer(folder, part, name, cache_dir)
            check_tokens(parts[part], configs[text], name)
    for part, (prefixes, convert) in _CONVERTERS.items():
        if part in configs and parts.get(part) is None:
            with blaming(part, name):
                weights = convert(checkpoint.tensors(*prefixes), configs[part])
                kept = None if part == "vae" else dtype
                parts[part] = build(part, configs[part], weights, kept)
    return parts


def read_vae_file(path: Path, config: Mapping[str, Any], name: str) -> Any:
    """The autoencoder in one file: alone, in the original layout or diffusers', or in a checkpoint.

    Args:
        config: its settings, which are not in the file.
        name: what to call it in an error.

    Raises:
        ValueError: a pickled file, which is not opened; one of another kind; a broken one.
    """
    check_suffix(path)
    with blaming("vae", name):
        shapes = read_header(path).shapes
        prefix = next((p for p in _VAES if any(key.startswith(p) for key in shapes)), "")
        first = shapes.get(f"{prefix}decoder.conv_in.weight")
        if first is None:
            raise ValueError(
                f"it holds no autoencoder of Stable Diffusion (no {prefix}decoder.conv_in.weight, "
                f"but {next(iter(shapes), 'nothing')}); wanted an AutoencoderKL"
            )
        if first[1] != config["latent_channels"]:
            raise ValueError(
                f"it has {first[1]} latent channels, and wanted are {config['latent_channels']}: "
                "it is another kind of model's"
            )
        weights = read_weights(path, [key for key in shapes if key.startswith(prefix)])
        return build("vae", config, _convert_vae(weights, config))


def _convert_unet(weights: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils

    convert: Any = single_file_utils.convert_ldm_unet_checkpoint
    converted = convert(weights, dict(config))
    own, name = (f"{_UNET}{_GUIDANCE[0]}", _GUIDANCE[1])
    if own in weights:  # diffusers (0.42.1) leaves it out
        converted[name] = weights[own]
    return _with_leftovers(weights, converted)


def _convert_vae(weights: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils

    if any(".down_blocks." in key for key in weights):  # diffusers' own names
        return weights
    convert: Any = single_file_utils.convert_ldm_vae_checkpoint
    return _with_leftovers(weights, convert(weights, dict(config)))


def _convert_text(weights: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Return the text encoder's weights, in the layout of open_clip or of transformers.

    The latter with ``text_model.`` in their names, or without, as in old merges.
    """
    layouts = (p for p in (_OPEN_CLIP, _XL_OPEN_CLIP) if any(key.startswith(p) for key in weights))
    prefix = next(layouts, None)
    if prefix is None:
        bare = {k.removeprefix(_TEXT).removeprefix(_XL_TEXT): t for k, t in weights.items()}
        return {key.removeprefix("transformer."): tensor for key, tensor in bare.items()}
    from diffusers.loaders import single_file_utils

    convert: Any = single_file_utils.convert_open_clip_checkpoint
    converted: dict[str, Tensor] = convert(SimpleNamespace(config=config), weights, prefix=prefix)
    return converted


def _with_leftovers(
    weights: Mapping[str, Tensor], converted: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The converted weights and, under their old names, those that the conversion did not use."""
    used = {tensor.data_ptr() for tensor in converted.values()}
    left = {k: t for k, t in weights.items() if t.data_ptr() not in used}
    return {**left, **converted}


_CONVERTERS: dict[str, tuple[tuple[str, ...], Callable[..., dict[str, Tensor]]]] = {
    "unet": ((_UNET,), _convert_unet),
    "text_encoder": ((_TEXT, _XL_TEXT), _convert_text),
    "text_encoder_2": ((_XL_OPEN_CLIP,), _convert_text),
    "vae": (_VAES, _convert_vae),
}


def _tokenizer(folder: ModelFolder, part: str, name: str, cache_dir: Any) -> Any:
    """Return a tokenizer in a folder; where it has no vocabulary, with CLIP's, from the hub."""
    own = folder.part(part)
    with quiet():
        if folder.path not in PACKAGED.values():
            with blaming(part, name):
                return read_tokenizer(own)
        vocabulary = _vocabulary(name, cache_dir)
        with blaming(part, name):
            return read_tokenizer(vocabulary, settings=own)


def _vocabulary(name: str, cache_dir: Any) -> ModelFolder:
    """CLIP's vocabulary, of the first model on the hub, or in its cache, that has it."""
    failed = None
    for model, part in CLIP_VOCABULARIES:
        prefix = f"{part}/" if part else ""
        files = [f"{prefix}{file}" for file in ("vocab.json", "merges.txt")]
        try:
            folder = ModelFolder(fetch(model, files, None, cache_dir))
        except FileNotFoundError as error:
            failed = failed or error
            continue
        whole = folder.part(part) if part else folder
        if whole.has("vocab.json") and whole.has("merges.txt"):
            return whole
    raise FileNotFoundError(
        f"the tokenizer of {name} needs CLIP's vocabulary (vocab.json and merges.txt, 1.4 MB), "
        f"which is not in a checkpoint: {failed or 'the hub does not have it'}. Without a network, "
        "name a diffusers folder of the same kind by config="
    ) from failed


def _of_xl(header: Header) -> bool:
    return any(key.startswith(_XL) for key in header.shapes)


def _check_kind(name: str, header: Header, *, vae_given: bool) -> None:
    """Raise ValueError unless the header is that of a whole model of a supported kind."""
    xl = _of_xl(header)
    # What XL's UNet reads beside text and time is given to it.
    keys = [k for k in header.shapes if not (xl and k.startswith(f"{_UNET}label_emb."))]
    wanted = f"wanted a whole model; supported are {SUPPORTED}"
    for pattern, what in _KINDS:
        if any(re.match(pattern, key) for key in keys):
            size = f" (its weights need {2 * header.numbers / 1e9:.1f} GB in float16)"
            needs = size if pattern in (_JOINT, _FLUX) else ""
            raise ValueError(f"{name} is {what}{needs}; {wanted}")
    shape = header.shapes.get(_FIRST_LAYER)
    if shape is None or len(shape) < 2:
        raise ValueError(
            f"{name} is no Stable Diffusion checkpoint (it has no {_FIRST_LAYER}, but "
            f"{next(iter(keys), 'nothing')!r}); {wanted}"
        )
    if shape[1] != 4:
        raise channels_refused(name, shape[1])
    if xl and not any(key.startswith(_XL_OPEN_CLIP) for key in keys):
        raise ValueError(f"{name} is {REFINER}; {wanted}")
    for part, prefixes in _PLACES.items():
        if not any(key.startswith(prefixes) for key in keys) and not (part == "vae" and vae_given):
            hint = "; name one by vae=" if part == "vae" else ""
            raise ValueError(f"{name} holds no {part}; {wanted}{hint}")
