"""A model of the shape of Stable Diffusion XL, made on the spot: real classes, a few channels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from tiny_models import TOKENIZER, make_scheduler, make_text_encoder, make_unet, make_vae
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from dragwidget.diffusion.loading.reading import quiet

POOLED, EACH = 12, 8  # channels of the pooled text, and of each number of the image's size


def make_xl_unet(**changes: Any) -> Any:
    """A UNet of three levels, the first without attention, the deepest with two layers each."""
    return make_unet(
        (8, 16, 16),
        **{
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (1, 2, 2),
            "use_linear_projection": True,
            "cross_attention_dim": 16 + 20,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": EACH,
            "projection_class_embeddings_input_dim": POOLED + 6 * EACH,
            **changes,
        },
    )


def make_text_encoder_2(**changes: Any) -> CLIPTextModelWithProjection:
    """Another width, another activation, and the end of the text found as the highest number."""
    options = {
        **make_text_encoder().config.to_dict(),
        "hidden_size": 20,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "projection_dim": POOLED,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    return CLIPTextModelWithProjection(CLIPTextConfig(**{**options, **changes}))


def write_xl(
    folder: Path,
    *,
    unet: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
    text_encoder_2: dict[str, Any] | None = None,
    zeros: bool = True,
    euler: bool = True,
    variant: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a whole model in diffusers' layout; the dicts change its parts' configurations.

    Args:
        zeros: what its index says of an empty negative prompt.
        euler: with the scheduler that the published model has.
        variant: of its weights, in float16 where it is ``fp16``.
    """
    scheduler: Any = make_scheduler()
    if euler:
        # Without diffusers' note of which values were defaults: it would take those out.
        own = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        scheduler = EulerDiscreteScheduler.from_config(
            {**own, "timestep_spacing": "leading", "interpolation_type": "linear"}
        )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        pipeline = StableDiffusionXLPipeline(
            unet=make_xl_unet(**(unet or {})),
            vae=make_vae(**{"scaling_factor": 0.13025, "force_upcast": True, **(vae or {})}),
            text_encoder=make_text_encoder(),
            text_encoder_2=make_text_encoder_2(**(text_encoder_2 or {})),
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
            tokenizer_2=CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!"),
            scheduler=scheduler,
            force_zeros_for_empty_prompt=zeros,
            add_watermarker=False,
        )
        if variant == "fp16":
            pipeline.to(torch.float16)
        pipeline.save_pretrained(folder, variant=variant)
    # As they were given, and not as a newer library would write them.
    for part in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / part)
        shutil.copytree(TOKENIZER, folder / part)
    pad_with(folder / "tokenizer_2", "!")
    return folder


def pad_with(tokenizer: Path, token: str) -> None:
    """Let a tokenizer fill up short texts with this token."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((tokenizer / file).read_text())
        (tokenizer / file).write_text(json.dumps({**content, "pad_token": token}))


def xl_pipeline(folder: Path, **scheduler: Any) -> StableDiffusionXLPipeline:
    """diffusers' own pipeline of a folder, with the DDIM that inverts."""
    with quiet():
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    for weight in pipeline.unet.parameters():  # in a file's memory, unaligned, sums round otherwise
        weight.data = weight.data.clone()
    pipeline.scheduler = make_scheduler(**scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
