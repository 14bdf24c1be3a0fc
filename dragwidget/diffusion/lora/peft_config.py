"""What peft's configuration of a LoRA says: its scale, or that it is more than a LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from dragwidget.data.quoting import quoted
from dragwidget.data.user_warning import warn_user

__all__ = [
    "PARTS", "TEXT_ENCODER", "TEXT_ENCODER_2", "TEXT_PARTS", "UNET", "Layer", "Part", "PeftConfig",
    "part_of", "read_configs",
]  # fmt: skip

Part: TypeAlias = Literal["unet", "text_encoder", "text_encoder_2"]
Layer: TypeAlias = tuple[Part, str]
Patterns: TypeAlias = tuple[tuple[re.Pattern[str], float], ...]
UNET: Part = "unet"
TEXT_ENCODER: Part = "text_encoder"
TEXT_ENCODER_2: Part = "text_encoder_2"  # of Stable Diffusion XL
TEXT_PARTS: tuple[Part, ...] = (TEXT_ENCODER, TEXT_ENCODER_2)
PARTS: tuple[Part, ...] = (UNET, *TEXT_PARTS)

_PATTERN = re.compile(r"\^?(?:[\w.]|\\\.){1,200}(?:\.\*(?:[\w.]|\\\.){1,200}){0,3}\$?")

# Ways to start a LoRA that leave the network's own weights as they are.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
# Those that cut the start out of the weights: the file goes with what is left, not with the model.
_CUT_OUT = {"pissa": "PiSSA", "olora": "OLoRA", "loftq": "LoftQ", "corda": "CorDA",
            "lora_ga": "LoRA-GA"}  # fmt: skip

# Fields of peft's configuration that change what a layer computes.
_VARIANTS = {
    "use_dora": "a DoRA (weight-decomposed LoRA)",
    "lora_bias": "a LoRA with biases",
    "modules_to_save": "an adapter with whole weights (modules_to_save)",
    "trainable_token_indices": "an adapter with token embeddings",
    "layer_replication": "an adapter that repeats layers",
    "target_parameters": "an adapter of bare parameters",
    "use_qalora": "a QALoRA",
    "use_bdlora": "a BD-LoRA",
    "alora_invocation_tokens": "an activated LoRA (aLoRA)",
    "arrow_config": "an Arrow router of LoRAs",
    "kasa_config": "a KaSA",
    "velora_config": "a VeLoRA",
    "monteclora_config": "a MonteCLoRA",
}
# Fields that are read here, and those that say how it was trained or only which layers it has.
_KNOWN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip


@dataclass(frozen=True)
class PeftConfig:
    """What peft's configuration says of one part's ranks and scales."""

    alpha: float
    rank: float | None
    alphas: Patterns
    ranks: Patterns
    rank_stabilized: bool

    @classmethod
    def read(cls, config: Mapping[str, Any], name: str) -> PeftConfig:
        """Read a configuration; refuse by name what is more than a LoRA.

        Raises:
            ValueError: it changes what a layer computes in a way that is not supported.
            KeyError, TypeError, AttributeError, OverflowError: a field is missing, or of another
                type or size.
        """
        kind = config.get("peft_type", "LORA")
        if kind != "LORA":
            raise ValueError(f"{name} is an adapter of peft's type {quoted(kind)}; wanted LORA")
        for field, what in _VARIANTS.items():
            if config.get(field):
                raise ValueError(f"{name} is {what}, which is not supported")
        if config.get("bias", "none") != "none":
            raise ValueError(
                f"{name} changes biases too (bias={quoted(config['bias'])}), which is not supported"
            )
        start = config.get("init_lora_weights", True)
        if start not in _STARTS:
            cut_out = next((_CUT_OUT[k] for k in _CUT_OUT if str(start).lower().startswith(k)), "")
            raise ValueError(
                f"{name} was started by {cut_out} (init_lora_weights={quoted(start)}), which also "
                "changes the network's own weights: it is no LoRA of the model as it is. Convert "
                "it where it was trained, with peft's save_pretrained(.., "
                "path_initial_model_for_weight_conversion=..)"
                if cut_out
                else f"{name} was started by init_lora_weights={quoted(start)}, which is not "
                "supported"
            )
        unknown = [key for key, value in config.items() if value and key not in _KNOWN]
        if unknown:
            warn_user(
                f"the configuration of {name} sets {', '.join(map(quoted, unknown[:5]))}, which "
                "is not known here and has no effect"
            )
        rank = config.get("r")
        return cls(
            _number(config["lora_alpha"]),
            None if rank is None else _number(rank),
            _patterns(config, "alpha_pattern"),
            _patterns(config, "rank_pattern"),
            bool(config.get("use_rslora")),
        )

    def __call__(self, layer: Layer, rank: int) -> float:
        """Return the scale of a layer whose matrices have this rank."""
        given = _value_of(layer, self.ranks, self.rank)
        if given is not None and given != rank:
            raise ValueError(
                f"this LoRA's {layer[1]} has rank {rank}, and its configuration says {given:g}"
            )
        alpha = _value_of(layer, self.alphas, self.alpha)
        assert alpha is not None
        return alpha / (rank**0.5 if self.rank_stabilized else rank)


def _value_of(layer: Layer, patterns: Patterns, otherwise: float | None) -> float | None:
    """Return the value of the first pattern that a layer's path matches."""
    part, path = layer
    # Releases of transformers differ in whether this is part of a text encoder's paths.
    paths = (path, f"text_model.{path}") if part in TEXT_PARTS else (path,)
    found = (value for p, value in patterns if any(map(p.fullmatch, paths)))
    return next(found, otherwise)


def _patterns(config: Mapping[str, Any], field: str) -> Patterns:
    patterns = dict(config.get(field) or {})
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(
                f"{field} holds {quoted(pattern)}, and only names of layers with at most "
                "three .* between them are read: any other may take for ever to compare"
            )
    return tuple((re.compile(rf"(.*\.)?({p})"), _number(value)) for p, value in patterns.items())


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{quoted(value)} is not a number")
    return float(value)


def read_configs(config: Mapping[str, Any], name: str, *, prefixed: bool) -> dict[Part, PeftConfig]:
    """Return what peft's configuration says of each part.

    Args:
        prefixed: each field's name begins with its part, as in the header that diffusers writes;
            without a part it is the UNet's. Otherwise, one configuration stands for all parts.
    """
    if not prefixed:
        read = PeftConfig.read(config, name)
        return dict.fromkeys(PARTS, read)
    parts: dict[Part, dict[str, Any]] = {}
    for key, value in config.items():
        part = part_of(key)
        parts.setdefault(part, {})[key.removeprefix(f"{part}.")] = value
    return {part: PeftConfig.read(fields, name) for part, fields in parts.items()}


def part_of(path: str) -> Part:
    """Return the part that a path names first; without one it is the UNet's."""
    return next((part for part in TEXT_PARTS if path.startswith(f"{part}.")), UNET)
