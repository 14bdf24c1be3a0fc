"""The networks of the embedded model, and how long and with what each preset trains them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dragwidget.demo.training.tokenizer import MAX_TOKENS

# What diffusers and transformers make: their types hide the methods of the module within.
Model = Any
IMAGE_SIZE = 128  # pixels
LATENT_SIZE = 32  # cells; the autoencoder shrinks by 4


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Sizes. The packed model must stay under 25 MB in float16."""

    autoencoder_channels: tuple[int, ...] = (16, 48, 96)
    unet_channels: tuple[int, ...] = (64, 128, 176)
    text_width: int = 96
    text_layers: int = 2
    norm_groups: int = 8


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How one network is trained.

    The learning rate warms up over `warmup` steps and falls as a cosine to zero at `steps`, or when
    `minutes` of training have passed, whichever comes first; `minutes` None: by `steps` alone.
    """

    steps: int
    minutes: float | None
    batch: int
    learning_rate: float
    warmup: int
    weight_decay: float = 0.0
    ema: float = 0.998
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that decides what `train` makes.

    `first_bank` images are encoded before the UNet's first step, `new_images` a step during it;
    each step draws from all that are there, with new noise; likewise `first_drags` and `new_drags`
    tasks for stage 3. `posterior_deviation` is the autoencoder's, in units of the latents' own
    deviation. It is a constant rather than learned, and the noise floor of the latents: DDIM
    inversion must find some noise to make the noise of other timesteps of. From 50 steps it makes
    0.87 of it with 0.2, 0.71 with 0.1, 0.22 with 0.02. At the end, `measured` images that were
    never trained on are put to each network, and `samples` images drawn by the whole model.
    """

    networks: Networks = Networks()
    autoencoder: Stage
    unet: Stage
    drags: Stage
    first_bank: int
    new_images: int
    first_drags: int
    new_drags: int
    posterior_deviation: float = 0.25
    measured: int = 512
    samples: int = 16
    precision: str = "bfloat16"  # of autocast; "float32" is exact
    seed: int = 0


PRESETS = {
    "cpu": Preset(
        autoencoder=Stage(
            steps=20_000, minutes=20, batch=4, learning_rate=2e-3, warmup=50, ema=0.995
        ),
        unet=Stage(
            steps=50_000, minutes=68, batch=16, learning_rate=1.5e-3, warmup=100, weight_decay=0.01
        ),
        drags=Stage(
            steps=50_000, minutes=60, batch=12, learning_rate=7e-4, warmup=100, weight_decay=0.01
        ),
        first_bank=2048,
        new_images=3,
        first_drags=512,
        new_drags=1,
    ),
    "gpu": Preset(
        autoencoder=Stage(
            steps=40_000, minutes=None, batch=16, learning_rate=2e-3, warmup=200, ema=0.999
        ),
        unet=Stage(
            steps=100_000,
            minutes=None,
            batch=128,
            learning_rate=2e-3,
            warmup=500,
            weight_decay=0.01,
            ema=0.9995,
        ),
        drags=Stage(
            steps=30_000,
            minutes=None,
            batch=192,
            learning_rate=1e-3,
            warmup=300,
            weight_decay=0.01,
            ema=0.9995,
        ),
        first_bank=16_384,
        new_images=4,
        first_drags=4096,
        new_drags=3,
    ),
}


def build_autoencoder(networks: Networks, like: Model | None = None) -> Model:
    """f = 4, four latent channels, no attention; a copy of `like` in float32 if there is one."""
    depth = len(networks.autoencoder_channels)
    model: Model = AutoencoderKL(  # type: ignore[no-untyped-call]
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=networks.autoencoder_channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=networks.norm_groups,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0 if like is None else like.config.scaling_factor,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    if like is not None:
        model.load_state_dict(like.state_dict())
    return model


def build_unet(networks: Networks) -> Model:
    """Stable Diffusion's layout with one layer a block; attention at the two lower resolutions."""
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=networks.unet_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=networks.text_width,
        attention_head_dim=4,  # the number of heads, in spite of its name
        norm_num_groups=networks.norm_groups,
    )


def build_text_encoder(networks: Networks, tokenizer: CLIPTokenizer) -> Model:
    """Return a new text encoder for the tokens of a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=networks.text_width,
            intermediate_size=2 * networks.text_width,
            num_hidden_layers=networks.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=networks.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> Any:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(  # type: ignore[no-untyped-call]
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def autocast(device: torch.device, precision: str) -> Any:
    """Autocast to `precision` on `device`; does nothing for "float32"."""
    return torch.autocast(
        device.type, dtype=getattr(torch, precision), enabled=precision != "float32"
    )
