"""Models of the shape of Stable Diffusion, made on the spot: real classes, a few channels."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.lora import LoRA

TOKENIZER = Path(__file__).parents[1] / "golden" / "tiny-sd" / "tokenizer"


def make_unet(channels: tuple[int, ...] = (8, 8, 16, 16), **changes: Any) -> UNet2DConditionModel:
    """A UNet with attention in all blocks but the deepest, as Stable Diffusion's is."""
    depth = len(channels) - 1
    options = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": channels,
        "down_block_types": ("CrossAttnDownBlock2D",) * depth + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * depth,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**{**options, **changes})


def make_vae(channels: tuple[int, ...] = (4, 8, 8), **changes: Any) -> AutoencoderKL:
    """An autoencoder of factor 4. Its weights are random: it gives numbers, not images."""
    options = {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 64,
    }
    return AutoencoderKL(**{**options, **changes})


def make_text_encoder(**changes: Any) -> CLIPTextModel:
    options = {
        "vocab_size": 534,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": 532,
        "eos_token_id": 533,
        "pad_token_id": 533,
    }
    return CLIPTextModel(CLIPTextConfig(**{**options, **changes}))


def make_scheduler(**changes: Any) -> DDIMScheduler:
    options = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**options, **changes})


def write_model(
    folder: Path,
    *,
    channels: tuple[int, ...] = (8, 8, 16, 16),
    unet: dict[str, Any] | None = None,
    text_encoder: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write a whole model in diffusers' layout; the dicts change its parts' configurations."""
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        pipeline = StableDiffusionPipeline(
            unet=make_unet(channels, **(unet or {})),
            vae=make_vae(),
            text_encoder=make_text_encoder(**(text_encoder or {})),
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
            scheduler=make_scheduler(**(scheduler or {})),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder)
    # As it was given, and not as a newer library would write it.
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    return folder


def random_lora(unet: Any, rank: int = 4) -> LoRA:
    """A LoRA that changes something."""
    initial = LoRA.initial(unet, rank, torch.Generator().manual_seed(1))
    shapes = {path: matrix.shape for path, matrix in initial.up.items()}
    up = {path: 0.5 * noise(*shape, seed=k) for k, (path, shape) in enumerate(shapes.items())}
    return LoRA(initial.down, up)


def kohya_names(lora: LoRA, alpha: float = 1.0) -> dict[str, torch.Tensor]:
    """The tensors of a UNet's LoRA as kohya's sd-scripts write them."""
    tensors = {}
    for path, down in lora.down.items():
        name = "lora_unet_" + path.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = lora.up[path]
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def edit_json(file: Path, **changes: Any) -> None:
    """Change fields of a JSON object in a file; ``...`` takes a field out."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


class _Trap:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def pickled_trap(canary: Path) -> bytes:
    """A pickle that makes the folder ``canary`` when it is opened."""
    return pickle.dumps({"state_dict": _Trap(canary)})


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
