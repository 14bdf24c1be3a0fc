"""The autoencoder of a latent diffusion model: images to latents and back.

Every family that has diffusers' ``AutoencoderKL`` shares this. The network may wait on another
device; it is on the one that is asked for while it works.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dragwidget.diffusion.devices import placed_like
from dragwidget.diffusion.switches import run

__all__ = ["Encoding", "decode", "factor_of", "posterior_of", "scaled_sample"]

Encoding = Literal["mean", "sample"]
"""What is taken of the posterior: its mean, or a sample whose noise depends on its shape alone."""

# Any, below: diffusers does not say what its modules hold.


def factor_of(vae: Any) -> int:
    """Return the image pixels per latent cell, along one side."""
    return int(2 ** (len(vae.config["block_out_channels"]) - 1))


def posterior_of(vae: Any, pixels: npt.NDArray[np.uint8], device: torch.device) -> Any:
    """Return the distribution over latents for an image (H, W, 3): its ``mean`` and ``std``."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        return run(vae, (), lambda: vae.encode(placed_like(vae, image)).latent_dist, device=device)


def scaled_sample(vae: Any, posterior: Any, generator: torch.Generator | None) -> Tensor:
    """Return a latent (1, c, h, w) float32, scaled: the mean, or drawn with ``generator``."""
    latent = posterior.mean
    if generator is not None:
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        latent = latent + posterior.std * noise
    latent = latent.float()
    if shift := vae.config.get("shift_factor"):
        latent = latent - shift
    scaled: Tensor = latent * vae.config["scaling_factor"]
    return scaled


def decode(vae: Any, latent: Tensor, device: torch.device) -> Tensor:
    """Return the image (1, 3, H, W) float32 in [0, 1] of a latent (1, c, h, w)."""
    z = latent / vae.config["scaling_factor"]
    if shift := vae.config.get("shift_factor"):
        z = z + shift
    with torch.no_grad():
        image: Tensor = run(vae, (), lambda: vae.decode(placed_like(vae, z)).sample, device=device)
    return (image.float() / 2 + 0.5).clamp(0, 1)
