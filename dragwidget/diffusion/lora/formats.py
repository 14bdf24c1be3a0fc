"""The formats of LoRA files: what each program calls the same matrices, and how it scales them.

Every file becomes one normal form, (part, path of the layer) -> down, up, scale. A new format is a
row of ``_KEYS``; what has no such form (DoRA, LoHa, another family's network, ..) is a row of
``_REFUSED``, so that it is refused by its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dragwidget.data.user_warning import warn_user
from dragwidget.diffusion.lora.families import family_of, of_xl, original_names
from dragwidget.diffusion.lora.peft_config import (
    PARTS,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    UNET,
    Layer,
    Part,
    PeftConfig,
)

__all__ = ["Delta", "LoRAFile", "parse_lora"]


@dataclass(frozen=True, eq=False)
class Delta:
    """What a LoRA adds to one layer: ``scale * up(down(x))``.

    Attributes:
        down: (r, inputs), or (r, inputs, kh, kw) of a convolution; float32.
        up: (outputs, r), or (outputs, r, 1, 1); float32.
        scale: alpha / r, or what else the file's writer multiplies by.
    """

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class LoRAFile:
    """A parsed LoRA file.

    Attributes:
        program: whose format it is, ``kohya``, ``diffusers`` or ``peft``.
        deltas: by part and path of the layer. The text encoders' paths lack ``text_model.``.
    """

    program: str
    deltas: Mapping[Layer, Delta]


# What is not a low-rank sum of two matrices, or of no model that is supported: a part of the key,
# and its name.
_XL = "a LoRA of Stable Diffusion XL"
_REFUSED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"dora_scale|lora_magnitude_vector", "a DoRA (weight-decomposed LoRA)"),
        (r"\.hada_", "a LoHa (Hadamard product)"),
        (r"\.lokr_", "a LoKr (Kronecker product)"),
        (r"\.lora_mid\.", "a LoCon with a third, middle matrix (CP or Tucker decomposition)"),
        (r"\b(?:oft_|boft_)|\.oft_", "an OFT (orthogonal fine-tuning)"),
        (r"\.[ab][12]\.weight$", "a GLoRA"),
        (r"\.on_input$|\bia3_", "an (IA)3"),
        (r"\bvera_", "a VeRA"),
        (r"\.diff(?:_b)?$|\.[wb]_norm$|\.modules_to_save\.", "an adapter with whole weights"),
        (r"\.lora_embedding_", "a LoRA of token embeddings"),
        (r"\.lora(?:_[AB]|_down|_up|\.down|\.up|_linear_layer).*\.bias$", "a LoRA with biases"),
        (r"^(?:bundle_emb|emb_params|string_to_param)", "a file with textual inversions"),
        (r"^diffusion_model\.(?:input_blocks|middle_block|output_blocks)",
         f"{_XL}, or of another network in the original layout"),
        (r"^transformer\.|^lora_transformer_|(?:double|single|joint|transformer)_blocks?_\d+_(?:img|txt|linear|x_block|context)|^lora_te3_",
         "a LoRA of a diffusion transformer (Flux, Stable Diffusion 3, ..)"),
        (r"^lora_controlnet$", "a Control-LoRA"),
    )
)  # fmt: skip
# What only the other of the two families has, by whether the model is of Stable Diffusion XL.
_OTHER_FAMILY = {
    False: (
        (re.compile(r"^lora_te[12]_|^text_encoder_2\."), _XL),
        (re.compile(r"^lora_unet_(?:input_blocks|middle_block|output_blocks)"),
         f"{_XL}, or of another network in the original layout"),
    ),
    True: ((re.compile(r"^lora_te_"), "a LoRA of Stable Diffusion 1 or 2"),),
}  # fmt: skip

# How each program names a matrix of the layer ``path``. The down matrix, the up matrix or alpha is
# what the group of that name has matched.
_KEYS = tuple(
    re.compile(pattern)
    for pattern in (
        # kohya's sd-scripts: the path's dots are underscores.
        r"(?P<kohya>lora_(?:unet|te[12]?)_\w+)\.(?:lora_(?P<matrix>down|up)\.weight|(?P<alpha>alpha))",
        # peft and diffusers since 0.22; a live network's keys also hold the adapter's name.
        r"(?P<path>.+?)\.lora_(?P<letter>[AB])(?:\.\w+)?\.weight",
        # diffusers before 0.22 and the authors; its text encoder; kohya's suffixes on these paths.
        r"(?P<path>.+?)\.(?:lora\.|lora_linear_layer\.|lora_)(?P<matrix>down|up)\.weight",
        # diffusers' attention layers of old.
        r"(?P<path>.+?)\.to_(?P<projection>q|k|v|out)_lora\.(?P<matrix>down|up)\.weight",
        r"(?P<path>.+)\.(?P<alpha>alpha)",
    )
)
_TEXT = re.compile(
    r"(?:text_encoder(?:_2)?\.)?text_model\.|text_encoder(?:_2)?\.|encoder\.layers\."
)
_MATRICES = {"A": "down", "B": "up"}
_TEXT_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
_PROJECTIONS: dict[Part, dict[str, str]] = {
    UNET: {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
    TEXT_ENCODER: _TEXT_PROJECTIONS,
    TEXT_ENCODER_2: _TEXT_PROJECTIONS,
}


def parse_lora(
    tensors: Mapping[str, Tensor],
    configs: Mapping[Part, PeftConfig],
    layers: Mapping[Part, Iterable[str]],
    name: str,
    alpha: float | None = None,
) -> LoRAFile:
    """Bring a LoRA file's tensors into the normal form.

    Args:
        configs: what peft's configuration says of each part; empty where there is none.
        layers: the paths of each network's layers, which kohya's names stand for.
        name: what to call the file in an error.
        alpha: of every layer, for a file that does not say it.

    Raises:
        ValueError: not a LoRA, of a kind that is not supported, damaged, or of unknown scale.
    """
    xl = of_xl(layers[UNET])
    for key in tensors:
        for pattern, what in (*_REFUSED, *_OTHER_FAMILY[xl]):
            if pattern.search(key):
                raise ValueError(
                    f"{name} is {what}, which is not supported: it holds {key[:200]!r}"
                )
    by_kohya = _kohya_names(layers, xl=xl)
    found: dict[str, dict[Layer, Tensor]] = {"down": {}, "up": {}, "alpha": {}}
    programs = set()
    unsure = False
    for key, tensor in tensors.items():
        program, layer, kind, bare = _read_key(key, by_kohya, name, family_of(tensors))
        if layer in found[kind]:
            raise ValueError(
                f"{name} holds two {kind} matrices of {'.'.join(layer)}, the second as "
                f"{key[:200]!r}: it is unclear which one counts"
            )
        found[kind][layer] = tensor
        programs.add(program)
        unsure = unsure or bare
    if len(programs) > 1:
        raise ValueError(
            f"{name} mixes the formats of {' and '.join(sorted(programs))}, which are scaled "
            "differently"
        )
    down, up = found["down"], found["up"]
    if not down or down.keys() != up.keys() or not found["alpha"].keys() <= down.keys():
        raise ValueError(f"{name} is not a whole LoRA: its down and up matrices do not pair up")
    for layer in down:
        _check(layer, *(found[kind].get(layer) for kind in found))
    program = programs.pop()
    scales = _Scales(program, configs, found["alpha"], alpha, unsure, name)
    deltas = {
        layer: Delta(matrix.float(), up[layer].float(), scales(layer, len(matrix)))
        for layer, matrix in down.items()
    }
    return LoRAFile(program, deltas)


def _kohya_names(layers: Mapping[Part, Iterable[str]], *, xl: bool) -> dict[str, Layer]:
    """Return the layers by kohya's names: the path's dots are underscores.

    Those of an XL UNet may be made of Stability AI's names, or of diffusers'.
    """
    named: dict[str, Layer] = {
        f"lora_unet_{path}": (UNET, layer)
        for names in ({p: p for p in layers[UNET]}, original_names(layers[UNET]) if xl else {})
        for path, layer in names.items()
    }
    for part, short in ((TEXT_ENCODER, "te1" if xl else "te"), (TEXT_ENCODER_2, "te2")):
        for path in layers.get(part, ()):
            inner = "" if path == "text_projection" else "text_model_"
            named[f"lora_{short}_{inner}{path}"] = part, path
    return {name.replace(".", "_"): layer for name, layer in named.items()}


def _read_key(
    key: str, by_kohya: Mapping[str, Layer], name: str, family: str
) -> tuple[str, Layer, str, bool]:
    """Program, layer, which of its tensors, and whether it is as a live network of peft has it."""
    rest = re.sub(r"^(unet\.|base_model\.model\.)+", "", key)
    program = "peft" if "base_model.model." in key[: len(key) - len(rest)] else "diffusers"
    part = UNET
    if text := _TEXT.match(rest):
        part = TEXT_ENCODER_2 if text[0].startswith(TEXT_ENCODER_2) else TEXT_ENCODER
        rest = rest[0 if text[0] == "encoder.layers." else text.end() :]
    match = next((m for m in (p.fullmatch(rest) for p in _KEYS) if m), None)
    if match is None:
        raise ValueError(
            f"{name} is not a LoRA as kohya's scripts, diffusers, peft or the authors' code write "
            f"it: it holds {key[:200]!r}"
        )
    groups = match.groupdict()
    kind = groups.get("matrix") or _MATRICES.get(str(groups.get("letter"))) or "alpha"
    if kohya := groups.get("kohya"):
        if kohya not in by_kohya:
            of_text = kohya.startswith("lora_te")
            asked = TEXT_ENCODER_2 if kohya.startswith("lora_te2") else TEXT_ENCODER
            if of_text and not any(part == asked for part, _ in by_kohya.values()):
                raise ValueError(
                    f"{name} changes the text encoder too ({kohya}), and none was given: give "
                    f"{asked}="
                )
            raise ValueError(
                f"{name} changes {kohya}, which is no linear or convolution layer of this model's "
                f"{'text encoder' if of_text else 'UNet'}: it belongs to another model"
                f"{f' ({family})' if family else ''}"
            )
        return "kohya", by_kohya[kohya], kind, False
    path = groups["path"].replace(".processor", "")
    if projection := groups.get("projection"):
        path = f"{path}.{_PROJECTIONS[part][projection]}"
    return program, (part, path), kind, bool(groups.get("letter")) and rest == key


def _check(layer: Layer, down: Tensor | None, up: Tensor | None, alpha: Tensor | None) -> None:
    """Raise ValueError unless the tensors of one layer can be multiplied."""
    assert down is not None
    assert up is not None
    path = layer[1]
    if (
        not down.numel()
        or down.ndim < 2
        or up.ndim < 2
        or (alpha is not None and alpha.numel() != 1)
    ):
        raise ValueError(
            f"this LoRA's {path} is not of one rank: its matrices are "
            f"{tuple(down.shape)} and {tuple(up.shape)}"
        )
    for tensor in (down, up, *(() if alpha is None else (alpha,))):
        if not tensor.dtype.is_floating_point and tensor is not alpha:
            raise ValueError(
                f"this LoRA's {path} is quantized ({tensor.dtype}); wanted floating-point numbers"
            )
        if not tensor.float().isfinite().all():
            raise ValueError(f"this LoRA's {path} holds NaN or infinity: the file is damaged")


@dataclass(frozen=True, eq=False)
class _Scales:
    """What the writer of a file multiplies each layer's change by."""

    program: str
    configs: Mapping[Part, PeftConfig]
    alphas: Mapping[Layer, Tensor]
    alpha: float | None
    unsure: bool
    name: str

    def __post_init__(self) -> None:
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be a number above 0, got {self.alpha!r}")
        sources = [
            word
            for word, there in (("configuration", self.configs), ("alpha", self.alphas))
            if there
        ]
        if len(sources) > 1 or (sources and self.alpha is not None):
            raise ValueError(
                f"{self.name} says its scale by its {' and its '.join(sources)}"
                + (", and alpha= was given" if self.alpha is not None else "")
                + ": one of them can count"
            )
        self._warn_of_mixed_alphas()
        if sources or self.alpha is not None:
            return
        if self.program == "peft":
            raise ValueError(
                f"{self.name} has no adapter_config.json beside it, which peft writes and which "
                "says its scale: put that file back, or give alpha= (its lora_alpha)"
            )
        if self.unsure:
            warn_user(
                f"{self.name} does not say its alpha. It counts as the rank, as diffusers "
                "does; where it was trained with another one, give alpha="
            )

    def _warn_of_mixed_alphas(self) -> None:
        for part in PARTS:
            those = "all attention layers" if part == UNET else "all layers"
            values = {float(alpha) for layer, alpha in self.alphas.items() if layer[0] == part}
            if self.program == "kohya" and len(values) > 1:
                warn_user(
                    f"{self.name} has alphas of {min(values):g} to {max(values):g} in its {part}: "
                    "each layer is scaled by its own here, while diffusers (0.42.1) scales "
                    f"{those} by the most frequent one"
                )

    def __call__(self, layer: Layer, rank: int) -> float:
        if self.configs:
            if layer[0] not in self.configs:
                raise ValueError(
                    f"the configuration of {self.name} says no scale of its {layer[0]}"
                )
            return self.configs[layer[0]](layer, rank)
        if self.alphas:
            if layer not in self.alphas:
                raise ValueError(
                    f"{self.name} says an alpha of some layers and none of {layer[1]}: programs "
                    "differ in what that means"
                )
            return float(self.alphas[layer]) / rank
        return 1.0 if self.alpha is None else self.alpha / rank
