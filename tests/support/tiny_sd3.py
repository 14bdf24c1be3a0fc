"""A model of the shape of Stable Diffusion 3, made on the spot: real classes, a few channels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny_models import TOKENIZER, make_text_encoder, make_vae
from tiny_xl import POOLED, make_text_encoder_2, pad_with
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from dragwidget.diffusion.loading.reading import quiet

FIRST_POOLED, TEXT = 10, 40  # channels of the first CLIP's summary, and of text as it is read
WORDS = ("▁a", "▁cat", "▁dog", "▁", "!", "e", "t", "d", "o", "g", "c", "a", "h", "s")


def make_transformer(**changes: Any) -> SD3Transformer2DModel:
    """Four joint blocks, the first of which attends over the image alone, too (as in 3.5)."""
    options = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 4,
        "attention_head_dim": 8,
        "num_attention_heads": 3,
        "joint_attention_dim": TEXT,
        "caption_projection_dim": 24,
        "pooled_projection_dim": FIRST_POOLED + POOLED,
        "pos_embed_max_size": 24,
        "dual_attention_layers": (0, 2),
        "qk_norm": "rms_norm",
    }
    return SD3Transformer2DModel(**{**options, **changes})


def make_t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=64, d_model=TEXT, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
        )
    )  # fmt: skip


def make_t5_tokenizer() -> T5TokenizerFast:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    vocabulary += [(word, -1.0 - number / 10) for number, word in enumerate(WORDS)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)


def write_sd3(
    folder: Path,
    *,
    t5: bool = True,
    transformer: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    variant: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a whole model in the hub's layout; the dicts change its parts' configurations."""
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        first = make_text_encoder(projection_dim=FIRST_POOLED).config
        pipeline = StableDiffusion3Pipeline(
            transformer=make_transformer(**(transformer or {})),
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **(scheduler or {})}),
            vae=make_vae(
                **{
                    "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609,
                    "use_quant_conv": False, "use_post_quant_conv": False, **(vae or {}),
                }
            ),
            text_encoder=CLIPTextModelWithProjection(first),
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
            text_encoder_2=make_text_encoder_2(),
            tokenizer_2=CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!"),
            text_encoder_3=make_t5() if t5 else None,
            tokenizer_3=make_t5_tokenizer() if t5 else None,
        )  # fmt: skip
        # Random blocks start with closed gates otherwise, and every one would do nothing.
        for parameter in pipeline.transformer.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.15)
        pipeline.save_pretrained(folder, variant=variant)
    for part in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / part)
        shutil.copytree(TOKENIZER, folder / part)
    pad_with(folder / "tokenizer_2", "!")
    return folder


def sd3_pipeline(folder: Path) -> StableDiffusion3Pipeline:
    """diffusers' own pipeline of a folder."""
    none = (
        {}
        if (folder / "text_encoder_3").is_dir()
        else {"text_encoder_3": None, "tokenizer_3": None}
    )
    with quiet():
        pipeline = StableDiffusion3Pipeline.from_pretrained(folder, **none)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder,
                 pipeline.text_encoder_2, pipeline.text_encoder_3):  # fmt: skip
        if part is not None:
            for parameter in part.parameters():  # aligned: kernels round otherwise where it is not
                parameter.data = parameter.data.clone()
    return pipeline
