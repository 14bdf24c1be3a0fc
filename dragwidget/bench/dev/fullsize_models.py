"""Writes folders as the hub has them, with random weights: whole models without a download.

A folder has every file of the published one's fp16 variant that diffusers' pipeline reads, under
the same names and of the same size. Its tokenizers have as many words as CLIP's, and none of them:
a text is as long as any other, which is all that time and memory depend on.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from dragwidget.diffusion.loading.checkpoint import PACKAGED
from dragwidget.diffusion.loading.folder import STEMS
from dragwidget.diffusion.loading.reading import quiet

__all__ = ["FAMILIES", "Family", "check_space", "weights_size", "write_folder"]

_GB = 10**9
_TEXT = "text_model."
_BYTES = 256  # of which CLIP's vocabulary begins with one token each, inside and at a word's end
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")

# The noise levels of all of Stable Diffusion 1 and XL, as their scheduler_config.json has them.
_LEVELS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "steps_offset": 1, "trained_betas": None, "clip_sample": False,
    "set_alpha_to_one": False, "skip_prk_steps": True,
}  # fmt: skip
# OpenAI's CLIP ViT-L/14 (Radford et al., arXiv 2103.00020), whose images the checker reads.
_SAFETY = {
    "architectures": ["StableDiffusionSafetyChecker"],
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {},
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "projection_dim": 768,
    },
}  # fmt: skip
_FEATURES = {
    "feature_extractor_type": "CLIPFeatureExtractor",
    "crop_size": 224, "size": 224, "resample": 3, "do_center_crop": True, "do_convert_rgb": True,
    "do_normalize": True, "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A kind of model, in the shape of a published one.

    Attributes:
        published: the model on the hub whose layout it is.
        configs: folder with the settings of its parts, in diffusers' layout.
        scheduler: settings of its noise levels.
        checked: it lists a safety checker and a feature extractor.
        changes: settings of parts that differ from ``configs``; none in the published shape.
    """

    published: str
    configs: Path
    scheduler: Mapping[str, Any]
    checked: bool = False
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def config(self, part: str) -> dict[str, Any]:
        """Return the settings of a part."""
        if part == "safety_checker":
            content: dict[str, Any] = _SAFETY
        else:
            content = json.loads(next((self.configs / part).glob("*config.json")).read_text())
        return {**content, **self.changes.get(part, {})}

    @property
    def index(self) -> dict[str, Any]:
        """What its ``model_index.json`` says."""
        content: dict[str, Any] = json.loads((self.configs / "model_index.json").read_text())
        content["scheduler"] = ["diffusers", self.scheduler["_class_name"]]
        if self.checked:
            content["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
            content["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        return content

    @property
    def networks(self) -> list[str]:
        """The parts with weights."""
        parts = [part for part in STEMS if part in self.index]
        return [*parts, "safety_checker"] if self.checked else parts

    @property
    def tokenizers(self) -> list[str]:
        """The parts that cut a text into tokens."""
        return [part for part in self.index if part.startswith("tokenizer")]


FAMILIES = {
    "sd15": Family(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        PACKAGED[1],
        {"_class_name": "PNDMScheduler", **_LEVELS},
        checked=True,
    ),
    "sdxl": Family(
        "stabilityai/stable-diffusion-xl-base-1.0",
        PACKAGED["xl"],
        {
            "_class_name": "EulerDiscreteScheduler", **_LEVELS, "interpolation_type": "linear",
            "prediction_type": "epsilon", "timestep_spacing": "leading", "sample_max_value": 1.0,
            "use_karras_sigmas": False,
        },
    ),
}  # fmt: skip


def write_folder(folder: Path, family: Family, report: Callable[[str], None] = print) -> None:
    """Write a model into a folder, which is made; its weights are the same every time.

    Args:
        report: told the name of each part that is begun.

    Raises:
        OSError: there is too little space, told before anything is written.
    """
    check_space(folder, family)
    _write_json(folder / "model_index.json", family.index)
    _write_json(folder / "scheduler" / "scheduler_config.json", family.scheduler)
    if family.checked:
        _write_json(folder / "feature_extractor" / "preprocessor_config.json", _FEATURES)
    for part in family.tokenizers:
        _write_tokenizer(folder / part, family, part)
    for part in family.networks:
        report(part)
        _write_json(folder / part / "config.json", family.config(part))
        file = folder / part / f"{STEMS.get(part, 'model')}.fp16.safetensors"
        save_file(_weights(family, part), file, metadata={"format": "pt"})


def weights_size(family: Family) -> int:
    """Return how many bytes of weights a folder has."""
    with torch.device("meta"):
        made = [_network(family, part) for part in family.networks]
    weights = [weight for network in made for weight in network.state_dict().values()]
    return 2 * sum(int(weight.numel()) for weight in weights)


def check_space(folder: Path, family: Family) -> None:
    """Raise OSError where a folder's disk has no room for a model."""
    needed = weights_size(family) + 2**24  # beside the weights: vocabularies, settings
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the model takes {needed / _GB:.1f} GB and {free / _GB:.1f} GB are free: name a "
            "folder on another disk by --folder",
            str(folder),
        )


def _network(family: Family, part: str) -> nn.Module:
    config = family.config(part)
    # Any: diffusers does not say what its classes take.
    makers: dict[str, Callable[[], Any]] = {
        "unet": lambda: _of(UNet2DConditionModel).from_config(config),
        "vae": lambda: _of(AutoencoderKL).from_config(config),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**config)),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        "safety_checker": lambda: _of(StableDiffusionSafetyChecker)(CLIPConfig(**config)),
    }
    with quiet():
        made: nn.Module = makers[part]()
    return made


def _of(network: Any) -> Any:
    return network


def _weights(family: Family, part: str) -> dict[str, Tensor]:
    """Return a part's weights in float16, random but for the checker's, which nothing reads."""
    if part == "safety_checker":
        with torch.device("meta"):
            shapes = _network(family, part).state_dict()
        return {name: torch.zeros(w.shape, dtype=torch.float16) for name, w in shapes.items()}
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float16)  # so that there is never a second copy, in float32
        try:
            network = _network(family, part)
        finally:
            torch.set_default_dtype(before)
    weights = {name: w.half().contiguous() for name, w in network.state_dict().items()}
    return {_published(name, part): weight for name, weight in weights.items()}


def _published(name: str, part: str) -> str:
    """Return a weight's name in a file: newer releases of transformers have shorter ones inside."""
    if not part.startswith("text_encoder") or name.startswith((_TEXT, "text_projection.")):
        return name
    return f"{_TEXT}{name}"


def _write_tokenizer(folder: Path, family: Family, part: str) -> None:
    settings = family.config(part)
    size = family.config(part.replace("tokenizer", "text_encoder"))["vocab_size"]
    vocabulary, merges = _vocabulary(size)
    _write_json(folder / "vocab.json", {word: number for number, word in enumerate(vocabulary)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    _write_json(folder / "tokenizer_config.json", settings)
    named = ("bos_token", "eos_token", "pad_token", "unk_token")
    _write_json(folder / "special_tokens_map.json", {name: settings[name] for name in named})


def _vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Return ``size`` tokens in CLIP's order, and the merges of those that have two letters."""
    letters = _letters()
    ends = [f"{letter}</w>" for letter in letters]
    count = size - 2 * _BYTES - len(_SPECIAL)
    pairs = list(islice(product(letters, [*letters, *ends]), count))
    vocabulary = [*letters, *ends, *(first + second for first, second in pairs), *_SPECIAL]
    return vocabulary, [f"{first} {second}" for first, second in pairs]


def _letters() -> Sequence[str]:
    """Return the characters that stand for bytes in GPT-2's and CLIP's vocabularies, in order."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = _BYTES - len(shown)
    return [chr(byte) for byte in shown] + [chr(_BYTES + k) for k in range(hidden)]


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), "utf-8")
