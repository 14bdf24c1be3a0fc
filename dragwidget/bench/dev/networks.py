"""The networks that ``bench speed`` measures: Stable Diffusion's exact shape, and the embedded one.

Of Stable Diffusion 1.5 nothing is downloaded: its weights are random, which takes the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dragwidget.diffusion.devices import free_memory
from dragwidget.diffusion.loading import CRITTERS, load_model
from dragwidget.diffusion.loading.checkpoint import PACKAGED
from dragwidget.diffusion.sd import StableDiffusion

_GB = 10**9


@dataclass(frozen=True)
class Size:
    """A network that can be measured.

    Attributes:
        make: builds it in float32 on a device, whole or with an autoencoder and a text encoder
            that only stand for theirs.
        side: of the image, pixels, where no other is asked for.
        multiple: sides must be one of it, so that every level divides them evenly, pixels.
        needs: bytes of weights and their gradients, float32.
    """

    make: Callable[[torch.device, bool], StableDiffusion]
    side: int
    multiple: int
    needs: float


def make_network(size: Size, name: str, device: torch.device, *, whole: bool) -> StableDiffusion:
    """Build a network in float32.

    Args:
        whole: with the autoencoder and the text encoder of its size.

    Raises:
        MemoryError: there is less memory than its weights and their gradients take.
    """
    free = free_memory(device)
    if free is not None and free < size.needs:
        raise MemoryError(
            f"--size {name} needs about {size.needs / _GB:.0f} GB of memory on {device}, weights "
            f"and their gradients, and {free / _GB:.1f} GB are free: end other programs, or take "
            "--size critters"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return size.make(device, whole)


def in_type(model: StableDiffusion, dtype: torch.dtype) -> StableDiffusion:
    """Return the same model with weights of another type, beside it."""
    if dtype == model.dtype:
        return model
    with torch.device("meta"):  # no second copy in the first type, not even for a moment
        unet = type(model.unet).from_config(model.unet.config)
    weights = {name: tensor.to(dtype) for name, tensor in model.unet.state_dict().items()}
    unet.load_state_dict(weights, assign=True)
    return model.with_parts(
        unet=unet,
        # Not ``vae.to``: diffusers would log that it may not suit every model.
        vae=torch.nn.Module.to(deepcopy(model.vae), dtype=dtype),
        text_encoder=torch.nn.Module.to(deepcopy(model.text_encoder), dtype=dtype),
    )


def _config(part: str) -> dict[str, Any]:
    """Return the configuration of a part of Stable Diffusion 1."""
    content: dict[str, Any] = json.loads(
        next((PACKAGED[1] / part).glob("*config.json")).read_text()
    )
    return content


def _stable_diffusion(device: torch.device, whole: bool) -> StableDiffusion:
    """Stable Diffusion 1.5's shape with random weights: 859.5 million in the UNet."""
    # Any: diffusers does not say what its classes take.
    network: Any = UNet2DConditionModel
    autoencoder: Any = AutoencoderKL
    schedule: Any = DDIMScheduler
    small_vae: dict[str, Any] = {}
    small_text: dict[str, Any] = {}
    if not whole:
        small_vae = {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4}
        small_text = {"intermediate_size": 64, "num_hidden_layers": 1}
    with torch.device(device):
        unet = network.from_config(_config("unet"))
        vae = autoencoder.from_config(_config("vae") | small_vae)
        text_encoder = CLIPTextModel(CLIPTextConfig(**_config("text_encoder") | small_text))
    # Its words are few, which a text encoder does not mind: a text is as long as any other.
    tokenizer = CLIPTokenizer.from_pretrained(CRITTERS / "tokenizer")
    tokenizer.model_max_length = 77
    scheduler = schedule.from_config(_config("scheduler"))
    return StableDiffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        alphas_cumprod=scheduler.alphas_cumprod,
        name="sd15",
    )


def _critters(device: torch.device) -> StableDiffusion:
    model = load_model("critters", device=device, dtype="float32")
    assert isinstance(model, StableDiffusion)
    return model


SIZES = {
    "sd15": Size(_stable_diffusion, side=512, multiple=64, needs=8 * _GB),
    "critters": Size(
        lambda device, _: _critters(device),
        side=128,
        multiple=16,
        needs=0.2 * _GB,
    ),
}
