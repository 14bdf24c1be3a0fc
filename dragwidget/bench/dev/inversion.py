"""Measure how near to noise DDIM inversion comes, and how well a render finds back.

An edit needs a latent that is noise where the image does not fix it: noise that the network can
make anything of. Inversion stretches the noise that it finds in the clean latent; where there is
none, it ends in a blurred copy of the image that looks like noise to no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dragwidget.bench.metrics import psnr
from dragwidget.data.image import SourceImage
from dragwidget.demo.scenes import captions, render, sample_scenes
from dragwidget.diffusion.backbone import Backbone
from dragwidget.drag.noise_path import NoisePath, denoise, invert
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session.source import to_pixels


@dataclass(frozen=True)
class ImpliedNoise:
    """The noise that a latent of an inversion implies: (z - signal x clean) / noise level.

    Attributes:
        timestep: of the latent.
        deviation: standard deviation; 1 for noise; the root mean square of several images'.
        neighbours: correlation of cells side by side; 0 for noise.
    """

    timestep: float
    deviation: float
    neighbours: float


@dataclass(frozen=True)
class InversionResult:
    """One image, inverted and rendered.

    Attributes:
        noise: after each step of the inversion, the nearest to the image first.
        autoencoder_psnr: of the image, encoded and decoded, dB.
        psnr: of the image, encoded, inverted, rendered back and decoded, dB.
        inversion_psnr: the two decoded images compared: what inversion and render alone change, dB.
        latent_error: root mean square of what the latent rendered back differs by.
    """

    noise: tuple[ImpliedNoise, ...]
    autoencoder_psnr: float
    psnr: float
    inversion_psnr: float
    latent_error: float


def critters(seeds: Sequence[int], size: int) -> Iterator[tuple[SourceImage, str]]:
    """Yield images of the synthetic domain, of a side in pixels, each with its caption."""
    for seed in seeds:
        scenes = sample_scenes([seed])
        drawn = (render(scenes, size)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        yield SourceImage(drawn, drawn), captions(scenes)[0]


@in_plain_torch
def measure(
    model: Backbone, image: SourceImage, prompt: str, *, steps: int = 50, count: int = 35
) -> InversionResult:
    """Invert an image by ``count`` of ``steps`` DDIM steps and render it back, without guidance."""
    clean = model.encode(image.pixels)
    predict = model.predictor(model.encode_text(prompt, image.fitted_size)).predict
    schedule = model.schedule(steps)
    timesteps = list(reversed(schedule.last(count)))
    latents = list(invert(predict, clean, schedule, count))
    noise = tuple(
        implied_noise(schedule, z, clean, t) for z, t in zip(latents, timesteps, strict=True)
    )
    back = list(denoise(predict, latents[-1], schedule, count))[-1]
    source = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1).float() / 255
    decoded, rendered = _decoded(model, clean), _decoded(model, back)
    return InversionResult(
        noise=noise,
        autoencoder_psnr=psnr(decoded, source),
        psnr=psnr(rendered, source),
        inversion_psnr=psnr(rendered, decoded),
        latent_error=float((back - clean).square().mean().sqrt()),
    )


def implied_noise(schedule: NoisePath, z: Tensor, clean: Tensor, t: float) -> ImpliedNoise:
    """Return what a latent of an inversion implies, both (1, c, h, w)."""
    signal, level = (value.to(z) for value in schedule.levels(t))
    noise = (z - signal * clean) / level
    beside = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    return ImpliedNoise(float(t), float(noise.std()), float(beside))


def summarise(results: Sequence[InversionResult]) -> list[ImpliedNoise]:
    """Return the noise at each timestep over all images."""
    rows = []
    for column in zip(*(result.noise for result in results), strict=True):
        deviation = np.sqrt(np.mean([noise.deviation**2 for noise in column]))
        neighbours = np.mean([noise.neighbours for noise in column])
        rows.append(ImpliedNoise(column[0].timestep, float(deviation), float(neighbours)))
    return rows


def _decoded(model: Backbone, latent: Tensor) -> Tensor:
    """Return the image of a latent, (3, H, W) in [0, 1], rounded to 256 levels."""
    return torch.from_numpy(to_pixels(model.decode(latent)).copy()).permute(2, 0, 1).float() / 255
