"""Tells models distilled for a few steps, and embeds the guidance scale that some of them read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["LEAST_CHANNELS", "few_step_reason", "guidance_embedding"]

LEAST_CHANNELS = 4  # of an embedding: two frequencies
_SAMPLERS = ("LCMScheduler", "TCDScheduler")  # which no other models have
# SD-Turbo's and SDXL-Turbo's, with trailing timesteps.
_EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


def few_step_reason(unet: Mapping[str, Any], kind: str, spacing: Any, *, zero_snr: bool) -> str:
    """Return by what a model's files say that it was distilled for a few steps; empty: they don't.

    A name says nothing. Trailing timesteps alone do not either: models of zero terminal
    signal-to-noise ratio, which take as many steps as others, have them too (Lin et al., arXiv
    2305.08891).

    Args:
        unet: the settings of its UNet.
        kind: its scheduler's class.
        spacing: of that one's timesteps.
        zero_snr: whether its noise levels end in pure noise.
    """
    if unet.get("time_cond_proj_dim") is not None:
        return "its UNet reads the guidance scale (time_cond_proj_dim)"
    if kind in _SAMPLERS:
        return f"its scheduler is {kind}"
    if kind in _EULER and spacing == "trailing" and not zero_snr:
        return f"its scheduler is {kind} with trailing timesteps"
    return ""


def guidance_embedding(scale: float, channels: int) -> Tensor:
    """Return what a network reads of a guidance scale g, (1, channels) float32.

    Sines and cosines of 1000 w, w = g - 1, as diffusers' ``LatentConsistencyModelPipeline`` has
    them: w weighs what guidance adds, so that w = 0 is none (Luo et al., arXiv 2310.04378).

    Args:
        scale: g; below 1 it counts as 1.
        channels: ``LEAST_CHANNELS`` or more; the last one is 0 where they are odd.
    """
    half = channels // 2
    fall = torch.log(torch.tensor(10000.0)) / (half - 1)
    angles = 1000.0 * torch.tensor(max(scale, 1.0) - 1) * torch.exp(torch.arange(half) * -fall)
    waves = torch.cat([angles.sin(), angles.cos()])[None]
    return torch.nn.functional.pad(waves, (0, channels % 2))
