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

_SPREAD_WEIGHT = 1e-3  # of the mean square of the latents: what is left of the KL term
_SCRIBBLE_EVERY = 10


def make_autoencoder(preset: Preset, start: Model | None = None) -> Model:
    """Return an autoencoder to train, a new one or `start`; its posterior's deviation stays fixed.

    `settle` says what it is in the end.
    """
    model = build_autoencoder(preset.networks, start)
    head = model.encoder.conv_out
    with torch.no_grad():
        head.weight[4:] = 0
        head.bias[4:] = 2 * math.log(preset.posterior_deviation)

    @torch.utils.hooks.unserializable_hook  # type: ignore[untyped-decorator]
    def only_means(gradient: Tensor) -> Tensor:
        return torch.cat([gradient[:4], torch.zeros_like(gradient[4:])])

    head.weight.register_hook(only_means)
    head.bias.register_hook(only_means)
    return model.to(memory_format=torch.channels_last)


def train_autoencoder(
    preset: Preset,
    folder: Path,
    device: torch.device,
    size: int,
    *,
    resume: bool,
    start: Model | None = None,
) -> tuple[Model, Training, Iterator[dict[str, float]]]:
    """Return the model, its training, and the records to iterate over; finish with `settle`.

    `start`: an autoencoder whose weights the training begins from.
    """
    torch.manual_seed(preset.seed)
    model = make_autoencoder(preset, start).to(device)
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
            # In units of the latents' own size, or they would grow until the noise is nothing.
            spread: Tensor = mean.float().square().mean()
            deviation = preset.posterior_deviation * spread.sqrt()
            decoded: Tensor = model.decode(mean + deviation.to(mean) * noise).sample
        error = decoded.float() - drawn
        return error.abs().mean() + 4 * error.square().mean() + _SPREAD_WEIGHT * spread

    return loss


@torch.no_grad()
def settle(model: Model, preset: Preset, device: torch.device, size: int) -> None:
    """After training: scale the latents, fix the posterior, take out the mean colour error.

    The latents' means get the deviation 1 / `scaling_factor`, and the posterior the deviation
    `preset.posterior_deviation` in units of that. Measured on 256 training images, in float32.
    """
    model.eval().requires_grad_(False)
    encoded = []
    for start in range(0, 256, 16):
        drawn = _ordinary(range(start, start + 16), size, device)
        encoded.append(model.encode(drawn).latent_dist.mean)
    spread = float(torch.cat(encoded).square().mean().sqrt())
    scale = 1 / (spread * model.config.scaling_factor)
    deviation = preset.posterior_deviation / model.config.scaling_factor
    head = model.encoder.conv_out
    head.weight[:4] *= scale
    head.bias[:4] *= scale
    head.bias[4:] = 2 * math.log(deviation)
    model.decoder.conv_in.weight /= scale
    bias = torch.zeros(3, device=device)
    generator = torch.Generator().manual_seed(0)
    for start, mean in zip(range(0, 256, 16), encoded, strict=True):
        drawn = _ordinary(range(start, start + 16), size, device)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = model.decode(scale * mean + deviation * noise).sample
        bias += (decoded - drawn).mean((0, 2, 3)) / 16
    model.decoder.conv_out.bias -= bias


def _ordinary(seeds: range, size: int, device: torch.device) -> Tensor:
    """Training images without scribbles, (B, 3, size, size) in [-1, 1]."""
    drawn, _ = images(seeds, size, scribble_every=10**9, device=device)
    return drawn.to(memory_format=torch.channels_last)


@torch.no_grad()
def measure(model: Model, device: torch.device, size: int, count: int) -> dict[str, float]:
    """Round trip of validation images: PSNR (dB, mean over images), colour errors (of 255)."""
    ratios, errors = [], []
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, 20):
        seeds = VALIDATION_SEEDS[start : min(start + 20, count)]
        drawn, _ = validation_images(seeds, size, device)
        shown = (roundtrip(model, drawn, generator) * 255).round() / 255
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


def roundtrip(model: Model, drawn: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> a sample of its posterior, decoded, in [0, 1]."""
    posterior = model.encode(drawn).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    decoded: Tensor = model.decode(posterior.mean + posterior.std * noise).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def validation_images(seeds: range, size: int, device: torch.device) -> tuple[Tensor, list[str]]:
    """Images of the domain that are never trained on; (B, 3, size, size) in [-1, 1]."""
    from dragwidget.demo.scenes import captions, render, sample_scenes

    scenes = sample_scenes(seeds)
    return render(scenes.to(device), size) * 2 - 1, captions(scenes)
