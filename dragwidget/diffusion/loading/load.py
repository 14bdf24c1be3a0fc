"""``load_model``: from a name, a folder or a checkpoint file to a ``Backbone``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch

from dragwidget.data.presets import FEW_STEPS, with_preset
from dragwidget.data.quoting import quoted
from dragwidget.data.settings import DragSettings, RenderSettings, Settings
from dragwidget.data.user_warning import warn_user
from dragwidget.diffusion.autoencoder import Encoding, factor_of
from dragwidget.diffusion.devices import calculates_fast
from dragwidget.diffusion.domain import Domain
from dragwidget.diffusion.loading.checkpoint import (
    check_suffix,
    config_folder,
    is_checkpoint,
    read_checkpoint,
    read_vae_file,
)
from dragwidget.diffusion.loading.embeddings import GivenEmbeddings, add_embeddings
from dragwidget.diffusion.loading.folder import STEMS, ModelFolder
from dragwidget.diffusion.loading.hub import CONFIGS, VAE_CONFIGS, fetch, fetch_weights
from dragwidget.diffusion.loading.kinds import check_preview, check_sizes, preview_config
from dragwidget.diffusion.loading.noise_levels import check_prediction_type
from dragwidget.diffusion.loading.reading import (
    blaming,
    build,
    check_variant,
    read_configs,
    read_parts,
    read_vae,
    read_vae_config,
)
from dragwidget.diffusion.loading.sd3 import PIPELINE, check_fits, read_sd3, read_sd3_configs
from dragwidget.diffusion.loading.sources import locate
from dragwidget.diffusion.low_memory import Memory, check_memory
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.diffusion.sd3 import StableDiffusion3, flow_settings
from dragwidget.diffusion.sdxl import StableDiffusionXL
from dragwidget.diffusion.unet import paper_block, paper_layer
from dragwidget.drag.torch_state import in_plain_torch

__all__ = ["CRITTERS", "EMBEDDED", "LoadOptions", "choose_device", "choose_dtype", "load_model"]

CRITTERS = Path(__file__).parents[2] / "demo" / "critters"
EMBEDDED: dict[str, str | None] = {"critters": None, "critters-base": "base"}
"""The embedded models: which variant of CRITTERS each is. They share what has no variant."""


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device asked for; ``"auto"``: CUDA, else Apple's MPS, else the CPU.

    Intel's XPU has to be asked for: no edit was ever run on one.

    Raises:
        ValueError: not a device's name, or this machine does not have it.
    """
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = torch.device("meta")  # no name of ours either
    if chosen.type not in ("cpu", "cuda", "mps", "xpu"):
        raise ValueError(
            f"device must be 'auto', 'cuda', 'cuda:1', 'mps', 'xpu' or 'cpu', got {device!r}"
        )
    counts = {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count}
    there = counts.get(chosen.type, lambda: int(mps or chosen.type == "cpu"))()
    if (chosen.index or 0) >= there:
        raise ValueError(f"there is no {chosen} here: use device='auto', which takes what there is")
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the type asked for; ``"auto"``: float16 on CUDA, else float32.

    Warns where the device calculates in it without hardware for it, 50 to 100 times slower.
    """
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if named not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(
            f"dtype must be 'auto', 'float16', 'bfloat16', 'float32' or 'float64', got {dtype!r}"
        )
    if not calculates_fast(device, named):
        word = str(named).removeprefix("torch.")
        warn_user(
            f"this {device.type.upper()} has no instructions for {word}, which can make it 50 to "
            "100 times slower than float32: use dtype='auto'"
        )
    return named


class LoadOptions(TypedDict, total=False):
    """The options of ``load_model``, for those that pass them on."""

    vae: str | os.PathLike[str] | None
    device: str | torch.device
    dtype: str | torch.dtype
    revision: str | None
    variant: str | None
    cache_dir: str | os.PathLike[str] | None
    config: str | os.PathLike[str] | None
    prediction_type: str | None
    embeddings: GivenEmbeddings | None
    preview_vae: str | os.PathLike[str] | None
    memory: Memory


@in_plain_torch
def load_model(
    source: str | os.PathLike[str] = "critters",
    *,
    vae: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    prediction_type: str | None = None,
    embeddings: GivenEmbeddings | None = None,
    preview_vae: str | os.PathLike[str] | None = None,
    memory: Memory = "normal",
) -> StableDiffusion | StableDiffusionXL | StableDiffusion3:
    """Load a model of the kind of Stable Diffusion 1.x, 2.x or XL; as an experiment, 3.

    Args:
        source: the name of an embedded model (``EMBEDDED``, offline), a diffusers folder, a
            ``.safetensors`` checkpoint in the original layout, or a model's id ``"owner/model"``
            on the Hugging Face hub. ``~`` is the home folder; a URL is not fetched.
        vae: another autoencoder: a diffusers folder, of it alone or of a whole model; a
            ``.safetensors`` file in the original or diffusers' layout, whose settings are then
            those of the model's own; or a hub id.
        device: ``"auto"`` is CUDA, else MPS, else CPU.
        dtype: type of the weights: ``"float32"``, ``"float16"``, ``"bfloat16"``; ``"auto"`` is
            float16 on CUDA and float32 elsewhere. An XL autoencoder that overflows in float16, as
            its ``force_upcast`` says, has float32 then.
        revision: branch, tag or commit of a hub model.
        variant: which weights are read (and fetched) where a folder or hub model has several, as
            ``"fp16"`` or ``"non_ema"``: of each network those of this variant, or the plain ones
            where it has none of it; likewise of ``dragwidget.json``, ``dragwidget.VARIANT.json``.
            By default ``fp16`` for float16 and the plain ones otherwise,
            or else the only ones that there are.
        cache_dir: where hub models are kept; by default Hugging Face's own folder.
        config: for a checkpoint file, the diffusers folder or hub id whose layout it has; by
            default that of Stable Diffusion 1, 2 or XL, told by its text encoders.
        prediction_type: ``"epsilon"`` or ``"v_prediction"``: what the UNet predicts, noise or
            velocity. By default what the checkpoint itself says (the tensor ``v_pred``, or
            ``modelspec.prediction_type`` or ``modelspec.predict_key`` in its header), else the
            scheduler's configuration. Where neither does, and models of its kind do either, a
            warning says that it is a guess.
        embeddings: textual inversions, ``.safetensors`` files by the words that stand for them in a
            prompt, as ``{"<cat>": "cat.safetensors"}``; see ``loading.embeddings``.
        preview_vae: a tiny autoencoder (TAESD, diffusers' ``AutoencoderTiny``) that draws the
            previews, and nothing else: a folder or hub id, such as ``"madebyollin/taesd"``.
        memory: ``"low"``: less memory on the device, more time; see ``StableDiffusion``.

    Returns:
        The model, of the class of its family.

    Raises:
        FileNotFoundError: no such folder, file or hub model, or the hub cannot be reached.
        TypeError: a name that is neither text nor a path.
        ValueError: a model of a kind that is not supported, or a broken one; a device or type that
            does not exist; a name that is never looked up.

    Examples:
        >>> load_model("critters", device="cpu").image_side
        128
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    predicts = check_prediction_type(prediction_type)
    _check_words(variant=variant, revision=revision)
    waits = torch.device("cpu") if check_memory(memory) == "low" else device
    name = str(source)
    request = _Request(revision, variant or EMBEDDED.get(name), cache_dir, dtype)
    vae_path = None if vae is None else locate(vae, "a vae")
    here = CRITTERS if name in EMBEDDED else locate(source, "a model", EMBEDDED)
    if here is not None and is_checkpoint(str(here)):
        check_suffix(here)
        folder = config_folder(here, config, cache_dir)
        own_vae = folder.part("vae")
        other = None if vae is None else _read_vae(str(vae), vae_path, own_vae, request)
        parts = read_checkpoint(
            here,
            folder,
            cache_dir=cache_dir,
            vae=other,
            vae_name=str(vae or ""),
            prediction_type=predicts,
            dtype=dtype,
        )
        recommended, domain = _unet_settings(parts), Domain()
        encoding: Encoding = "mean"
    else:
        _refuse_config(config, name)
        folder = request.open(here, name)
        other = None
        if _is_sd3(folder, name):
            _refuse_options(
                name,
                vae=vae,
                prediction_type=prediction_type,
                embeddings=embeddings,
                preview_vae=preview_vae,
            )
            given = {"revision": revision, "variant": variant, "cache_dir": cache_dir}
            return _load_sd3(request, folder, name, device, memory, _words(given), here is None)
        if vae is not None:
            other = _read_vae(str(vae), vae_path, folder.part("vae"), request)
        configs = read_configs(
            folder, name, vae=None if other is None else other.config, vae_name=str(vae or "")
        )
        if here is None:
            request.weights(
                name, [p for p in STEMS if p in configs and (p != "vae" or other is None)], folder
            )
        parts = read_parts(folder, name, configs=configs, vae=other, prediction_type=predicts)
        recommended = _recommended(folder) or _unet_settings(parts)
        domain = _domain(folder) if other is None else Domain()
        encoding = _encoding(folder) if other is None else "mean"
    if embeddings is not None:
        add_embeddings(parts, embeddings, name)
    if preview_vae is not None:
        tiny = _read_preview_vae(str(preview_vae), parts, request, name)
        parts["preview_vae"] = torch.nn.Module.to(tiny, waits)
    family = StableDiffusionXL if "text_encoder_2" in parts else StableDiffusion
    for part in [stem for stem in STEMS if stem in parts]:
        # Not ``parts[part].to``: diffusers would log that it may not suit every model.
        parts[part] = torch.nn.Module.to(
            parts[part],
            device if part == "unet" else waits,
            _vae_dtype(parts["vae"], family, dtype) if part == "vae" else dtype,
        )
    scheduler = parts.pop("scheduler")
    return family(
        **parts,
        alphas_cumprod=scheduler.alphas_cumprod,
        prediction_type=scheduler.config["prediction_type"],
        steps_offset=scheduler.config["steps_offset"],
        spacing=scheduler.config["timestep_spacing"],
        name=name,
        recommended=recommended,
        memory=memory,
        domain=domain,
        encoding=encoding,
        loaded_with=_words(
            {
                "vae": vae,
                "revision": revision,
                "variant": variant,
                "cache_dir": cache_dir,
                "config": config,
                "prediction_type": prediction_type,
                "embeddings": embeddings and {w: str(file) for w, file in embeddings.items()},
                "preview_vae": preview_vae,
            }
        ),
    )


def _words(options: Mapping[str, object]) -> dict[str, Any]:
    """Return the options that were given, as words."""
    return {
        what: word if isinstance(word, dict) else str(word)
        for what, word in options.items()
        if word is not None
    }


def _is_sd3(folder: ModelFolder, name: str) -> bool:
    if not folder.has("model_index.json"):
        return False
    with blaming("index", name):
        return bool(folder.json("model_index.json").get("_class_name") == PIPELINE)


def _load_sd3(
    request: _Request,
    folder: ModelFolder,
    name: str,
    device: torch.device,
    memory: Memory,
    loaded_with: Mapping[str, str],
    fetch_it: bool,
) -> StableDiffusion3:
    """Load a folder of Stable Diffusion 3."""
    configs = read_sd3_configs(folder, name)
    if fetch_it:
        request.weights(name, list(configs), folder)
    check_variant(folder, name)
    check_fits(folder, name, device, request.dtype, memory)
    parts = read_sd3(folder, name, configs)
    waits = torch.device("cpu") if memory == "low" else device
    for part in configs:
        parts[part] = torch.nn.Module.to(parts[part], device if part == "transformer" else waits)
    return StableDiffusion3(
        **parts,
        name=name,
        recommended=_recommended(folder) or flow_settings(parts["transformer"]),
        memory=memory,
        domain=_domain(folder),
        encoding=_encoding(folder),
        loaded_with=loaded_with,
    )


def _refuse_options(name: str, **options: object) -> None:
    """Raise ValueError for options that a model of Stable Diffusion 3 does not take."""
    for what, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name} is of Stable Diffusion 3, for which {what}= is not supported: leave it out"
            )


def _vae_dtype(vae: Any, family: type, dtype: torch.dtype) -> torch.dtype:
    """Return the autoencoder's number format: float32 where it would overflow in float16.

    Its configuration says so by ``force_upcast``, in Stable Diffusion XL; in other models that word
    stands there by default.
    """
    overflows = family is StableDiffusionXL and vae.config["force_upcast"]
    return torch.float32 if overflows and dtype == torch.float16 else dtype


@dataclass(frozen=True)
class _Request:
    """How hub models are fetched and weights are chosen."""

    revision: str | None
    variant: str | None
    cache_dir: str | os.PathLike[str] | None
    dtype: torch.dtype

    def open(self, here: Path | None, name: str, files: Sequence[str] = CONFIGS) -> ModelFolder:
        """A folder here, or the small files of a hub model: it may not be worth the gigabytes."""
        path = fetch(name, files, self.revision, self.cache_dir) if here is None else here
        if not path.is_dir():
            raise ValueError(
                f"{name} is no model: wanted a diffusers folder, which holds a model_index.json, "
                "or a checkpoint, which is a .safetensors file"
            )
        return ModelFolder(path, self.variant, self.dtype)

    def weights(self, name: str, parts: Sequence[str], folder: ModelFolder) -> None:
        """Fetch the weights of a hub model's parts, of the same commit as its small files."""
        fetch_weights(
            name, parts, folder.path.name, self.cache_dir,
            variant=self.variant, half=self.dtype == torch.float16,
        )  # fmt: skip


def _read_vae(name: str, here: Path | None, own: ModelFolder, request: _Request) -> Any:
    """Return the autoencoder that a caller names, see ``load_model``.

    Args:
        own: the folder of the model's own, whose settings are those of a single file.
    """
    if here is not None and not here.is_dir():
        return read_vae_file(here, read_vae_config(own, str(own.path)), name)
    # The revision and the variant that are named are the model's; a vae may not have them.
    request = replace(request, revision=None, variant=None)
    folder = request.open(here, name, VAE_CONFIGS)
    part = "vae" if (folder.path / "vae").is_dir() else ""
    inside = folder.part(part) if part else folder
    config = read_vae_config(inside, name)
    if here is None:
        request.weights(name, [part], folder)
    return read_vae(inside, config, name)


def _read_preview_vae(
    name: str, parts: Mapping[str, Any], request: _Request, model: str
) -> torch.nn.Module:
    """Return the tiny autoencoder that a caller names for previews, see ``load_model``."""
    request = replace(request, revision=None, variant=None)
    here = locate(name, "a preview_vae")
    folder = request.open(here, name, VAE_CONFIGS)
    with blaming("preview_vae", name):
        config = folder.json("config.json")
        check_sizes(config)
        config = preview_config(config, name)
    check_preview(config, parts["unet"].config, factor_of(parts["vae"]), name, model)
    if here is None:
        request.weights(name, [""], folder)
    with blaming("preview_vae", name):
        made: torch.nn.Module = build("preview_vae", config, folder.weights("vae"), request.dtype)
    return made


def _refuse_config(config: object, name: str) -> None:
    if config is not None:
        raise ValueError(
            f"config= is for a checkpoint file, and {name} is a folder, which has its own "
            "configuration: leave it out"
        )


def _check_words(**words: str | None) -> None:
    """Raise ValueError for what is no name of a variant or a revision."""
    for what, word in words.items():
        if word is not None and not re.fullmatch(r"[A-Za-z0-9][\w./-]*", word):
            raise ValueError(f"{what} must be a name, got {quoted(word)}")


def _own_file(folder: ModelFolder) -> str:
    """Return the name of the file with what a model says of itself, which need not be there."""
    own = f"dragwidget.{folder.variant}.json"
    return own if folder.variant and folder.has(own) else "dragwidget.json"


def _recommended(folder: ModelFolder) -> Settings | None:
    """Return the settings that a model's folder recommends, if it does."""
    if folder.has(name := _own_file(folder)):
        try:
            return Settings.from_dict(folder.json(name)["recommended"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{folder.path / name} recommends no settings that can be read: {error!r}"
            ) from error
    return None


def _domain(folder: ModelFolder) -> Domain:
    """Return the images that a model's folder says it knows."""
    name = _own_file(folder)
    if not folder.has(name) or "domain" not in folder.json(name):
        return Domain()
    try:
        return Domain.from_dict(folder.json(name)["domain"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        file = folder.path / name
        raise ValueError(f"{file} describes no domain that can be read: {error!r}") from error


def _encoding(folder: ModelFolder) -> Encoding:
    """Return what a model's folder says ``encode`` takes of the autoencoder's posterior."""
    name = _own_file(folder)
    encoding = folder.json(name).get("encoding", "mean") if folder.has(name) else "mean"
    if encoding not in ("mean", "sample"):
        raise ValueError(
            f"{folder.path / name} names no encoding: accepted are mean and sample, got "
            f"{quoted(encoding)}"
        )
    return "sample" if encoding == "sample" else "mean"


def _unet_settings(parts: Mapping[str, Any]) -> Settings:
    """Return the paper's settings, counted in this network; those of few steps, where they suit."""
    settings = _paper_settings(parts["unet"])
    return with_preset(settings, FEW_STEPS) if parts["few_step"] else settings


def _paper_settings(unet: Any) -> Settings:
    """Return the paper's settings, counted in this network."""
    return Settings(
        drag=DragSettings(feature_blocks=(paper_block(unet),)),
        render=RenderSettings(start_layer=paper_layer(unet)),
    )
