"""Stage 1: the autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dragwidget.demo.training.architecture import Model, Preset, autocast, build_autoencoder
from dragwidget.demo.training.feed import VALIDATION_SEEDS, images
from dragwidget.demo.training.loop import Training

# The posterior's deviation is a constant rather than learned: the decoder is trained under exactly
# this noise, in units of raw latents (whose deviation is about 1), so it forgives small changes.
POSTERIOR_DEVIATION = 0.02
_SPREAD_WEIGHT = 1e-3  # of the mean square of the latents: what is left of the KL term
_SCRIBBLE_EVERY = 10


def make_autoencoder(preset: Preset) -> Model:
    """Return a new autoencoder, its log-variance head fixed to POSTERIOR_DEVIATION."""
    model = build_autoencoder(preset.networks)
    head = model.encoder.conv_out
    with torch.no_grad():
        head.weight[4:] = 0
        head.bias[4:] = 2 * math.log(POSTERIOR_DEVIATION)

    @torch.utils.hooks.unserializable_hook  # type: ignore[untyped-decorator]
    def only_means(gradient: Tensor) -> Tensor:
        return torch.cat([gradient[:4], torch.zeros_like(gradient[4:])])

    head.weight.register_hook(only_means)
    head.bias.register_hook(only_means)
    return model.to(memory_format=torch.channels_last)


def train_autoencoder(
    preset: Preset, folder: Path, device: torch.device, size: int, *, resume: bool
) -> tuple[Model, Training, Iterator[dict[str, float]]]:
    """Return the model, its training, and the records to iterate over; finish with `settle`."""
    torch.manual_seed(preset.seed)
    model = make_autoencoder(preset).to(device)
    training = Training(
        "autoencoder", {"autoencoder": model}, preset.autoencoder, folder, preset.seed + 1
    )
    if resume:
        training.load()
    return model, training, training.run(_loss(model, training, preset, device, size))


def _loss(
    model: Model, training: Training, preset: Preset, device: torch.device, size: int
) -> Callable[[], Tensor]:
    batch = preset.autoencoder.batch

    def loss() -> Tensor:
        seeds = range(training.step * batch, (training.step + 1) * batch)
        drawn, _ = images(seeds, size, scribble_every=_SCRIBBLE_EVERY, device=device)
        drawn = drawn.to(memory_format=torch.channels_last)
        with autocast(device, preset.precision):
            mean = model.encode(drawn).latent_dist.mean
            noise = torch.randn(mean.shape, generator=training.generator).to(mean)
            decoded: Tensor = model.decode(mean + POSTERIOR_DEVIATION * noise).sample
        error = decoded.float() - drawn
        spread: Tensor = mean.float().square().mean()
        return error.abs().mean() + 4 * error.square().mean() + _SPREAD_WEIGHT * spread

    return loss


@torch.no_grad()
def settle(model: Model, device: torch.device, size: int) -> None:
    """After training: take out the mean colour error, and store `scaling_factor` = 1 / deviation.

    Both are measured on 256 training images, in float32.
    """
    model.eval().requires_grad_(False)
    bias = torch.zeros(3, device=device)
    squares, count = 0.0, 0
    for start in range(0, 256, 16):
        seeds = range(start, start + 16)
        drawn, _ = images(seeds, size, scribble_every=10**9, device=device)
        mean = model.encode(drawn.to(memory_format=torch.channels_last)).latent_dist.mean
        bias += (model.decode(mean).sample - drawn).mean((0, 2, 3)) / 16
        squares += float(mean.square().sum())
        count += mean.numel()
    model.decoder.conv_out.bias -= bias
    model.register_to_config(scaling_factor=round(math.sqrt(count / squares), 5))


@torch.no_grad()
def measure(model: Model, device: torch.device, size: int, count: int) -> dict[str, float]:
    """Round trip of validation images: PSNR (dB, mean over images), colour errors (of 255)."""
    ratios, errors = [], []
    for start in range(0, count, 20):
        seeds = VALIDATION_SEEDS[start : min(start + 20, count)]
        drawn, _ = validation_images(seeds, size, device)
        shown = (roundtrip(model, drawn) * 255).round() / 255
        difference = shown - (drawn + 1) / 2
        ratios.append(-10 * difference.square().mean((1, 2, 3)).log10())
        errors.append(difference.mean((2, 3)))
    error = torch.cat(errors) * 255  # (count, 3)
    names = ("red", "green", "blue")
    return {
        "images": float(count),
        "psnr": float(torch.cat(ratios).mean()),
        "psnr_lowest": float(torch.cat(ratios).min()),
        **{f"error_{n}": float(e) for n, e in zip(names, error.mean(0), strict=True)},
    }


def roundtrip(model: Model, drawn: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> decoded again, in [0, 1]."""
    decoded: Tensor = model.decode(model.encode(drawn).latent_dist.mean).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def validation_images(seeds: range, size: int, device: torch.device) -> tuple[Tensor, list[str]]:
    """Images of the domain that are never trained on; (B, 3, size, size) in [-1, 1]."""
    from dragwidget.demo.scenes import captions, render, sample_scenes

    scenes = sample_scenes(seeds)
    return render(scenes.to(device), size) * 2 - 1, captions(scenes)
