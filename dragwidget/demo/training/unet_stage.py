"""Stage 2: text encoder and UNet together, on encoded images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from dragwidget.demo.scenes import captions, sample_scenes
from dragwidget.demo.training import architecture
from dragwidget.demo.training.architecture import Model, Preset, autocast
from dragwidget.demo.training.autoencoder_stage import validation_images
from dragwidget.demo.training.export import RECOMMENDED_BASE, write_model, write_samples
from dragwidget.demo.training.feed import SCRIBBLE_CAPTION, VALIDATION_SEEDS, Bank, images
from dragwidget.demo.training.gradient_workers import SharedGradients, run_gradient_workers
from dragwidget.demo.training.loop import Training
from dragwidget.demo.training.tokenizer import write_tokenizer

MIN_SNR_GAMMA = 5.0  # Hang et al., arXiv 2303.09556
_SCRIBBLE_EVERY = 20
_CAPTION_DROPOUT = 0.1
# Edits live at t in 1 .. 600, most of them: half of the draws is kept for those.
_EDITED_SHARE, _EDITED_RANGE = 0.5, 600


def train_unet(
    preset: Preset,
    autoencoder: Model,
    folder: Path,
    device: torch.device,
    size: int,
    *,
    resume: bool,
    gradient_workers: int = 0,
    start: Model | None = None,
) -> Iterator[dict[str, float]]:
    """Train; yield records; write `folder/model` at each checkpoint and at the end.

    `start`: a pipeline from whose weights the training begins; its tokenizer is in `folder`.
    """
    torch.manual_seed(preset.seed + 10)
    if start is None:
        words = [SCRIBBLE_CAPTION, *captions(sample_scenes(range(2000)))]
        tokenizer = write_tokenizer(words, folder / "tokenizer")
    else:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    parts = make_parts(preset, tokenizer, device)
    if start is not None:
        for name, part in parts.items():
            part.load_state_dict(getattr(start, name).state_dict())
    training = Training("unet", parts, preset.unet, folder, preset.seed + 11)
    if resume:
        training.load()
    data = Data(parts, autoencoder, tokenizer, preset, device, size)

    def grow() -> None:
        data.bank.grow(preset.first_bank + training.step * preset.new_images)

    def loss() -> Tensor:
        grow()
        return data.loss(preset.unet.batch, training.generator)

    def export() -> None:
        states = training.averaged_states()
        tokenizer_folder = folder / "tokenizer"
        write_model(
            folder / "model", preset, states, autoencoder, tokenizer_folder, RECOMMENDED_BASE
        )

    if gradient_workers:
        training.shared = SharedGradients(list(training.parameters.values()))
        training.shared.publish(list(training.parameters.values()))
    arguments = (training.shared, list(training.parameters), preset, autoencoder, folder, size)
    with run_gradient_workers(gradient_workers, compute_gradients, *arguments):
        grow()  # before the clock of the training is started
        yield from training.run(loss, export)
    training.average()
    export()
    parts["unet"].eval()
    training.write_report(
        images=training.images,
        images_encoded=len(data.bank),
        validation_loss=data.validate(preset.measured),
    )
    write_samples(folder / "model", folder / "samples.png", device, preset.samples)


def make_parts(preset: Preset, tokenizer: CLIPTokenizer, device: torch.device) -> dict[str, Any]:
    """Return a new UNet and text encoder, laid out for training."""
    text_encoder = architecture.build_text_encoder(preset.networks, tokenizer)
    unet = architecture.build_unet(preset.networks).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # its backward pass is quicker there
    return {"unet": unet.to(device), "text_encoder": text_encoder.to(device)}


def compute_gradients(
    index: int,
    shared: SharedGradients,
    names: list[str],
    preset: Preset,
    autoencoder: Model,
    folder: Path,
    size: int,
) -> None:
    """Compute gradients of small batches of its own images on the newest weights, for ever."""
    cpu = torch.device("cpu")
    torch.manual_seed(preset.seed + 20 + index)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    parts = make_parts(preset, tokenizer, cpu)
    named = {f"{part}.{n}": p for part, m in parts.items() for n, p in m.named_parameters()}
    parameters = [named[n] for n in names]
    data = Data(parts, autoencoder, tokenizer, preset, cpu, size, 300_000 * (index + 1))
    generator = torch.Generator().manual_seed(preset.seed + 20 + index)
    batch, step = max(1, preset.unet.batch // 4), 0
    while True:
        data.bank.grow(preset.first_bank // 4 + step * preset.new_images // 4)
        shared.fetch(parameters)
        data.loss(batch, generator).backward()  # type: ignore[no-untyped-call]
        shared.give(parameters, batch)
        for p in parameters:
            p.grad = None
        step += 1


@dataclass(eq=False)
class Data:
    """Encoded images with their captions, noised and put to the networks."""

    parts: dict[str, Any]
    autoencoder: Model
    tokenizer: CLIPTokenizer
    preset: Preset
    device: torch.device
    size: int
    first_seed: int = 0

    def __post_init__(self) -> None:
        self.noising = Noising(self.device)
        self.bank = Bank(self.encode, min(256, self.preset.first_bank), self.first_seed)
        self._empty = token_ids(self.tokenizer, [""])

    def encode(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Posterior means, scaled, (B, 4, h, w) float32 and token ids (B, n), both on the CPU."""
        latents, texts = [], []
        for start in range(0, len(seeds), 32):
            part = seeds[start : start + 32]
            drawn, texts_drawn = images(
                part, self.size, scribble_every=_SCRIBBLE_EVERY, device=self.device
            )
            latents.append(encode_images(self.autoencoder, drawn, self.preset))
            texts += texts_drawn
        return torch.cat(latents), token_ids(self.tokenizer, texts)

    def loss(self, count: int, generator: torch.Generator) -> Tensor:
        """Of a random batch."""
        latents, tokens = self.bank.draw(count, generator)
        latents = latents + posterior_noise(latents, self.autoencoder, generator)
        dropped = torch.rand(count, generator=generator) < _CAPTION_DROPOUT
        tokens = torch.where(dropped[:, None], self._empty, tokens)
        times = self.noising.draw(count, generator)
        noise = torch.randn(latents.shape, generator=generator)
        with autocast(self.device, self.preset.precision):
            return self.noising.loss(
                **self.parts, latents=latents, tokens=tokens, times=times, noise=noise
            )

    @torch.no_grad()
    def validate(self, count: int) -> float:
        """Return the loss on images never trained on, timesteps spread evenly, in float32."""
        times = torch.linspace(1, 999, count).long()
        generator = torch.Generator().manual_seed(0)
        total = 0.0
        for start in range(0, count, 32):
            rows = slice(start, min(start + 32, count))
            drawn, texts = validation_images(VALIDATION_SEEDS[rows], self.size, self.device)
            latents = encode_images(self.autoencoder, drawn, self.preset)
            latents += posterior_noise(latents, self.autoencoder, generator)
            noise = torch.randn(latents.shape, generator=generator)
            loss = self.noising.loss(
                **self.parts,
                latents=latents,
                tokens=token_ids(self.tokenizer, texts),
                times=times[rows],
                noise=noise,
            )
            total += float(loss) * len(texts)
        return total / count


class Noising:
    """The forward process, and the loss under it."""

    def __init__(self, device: torch.device) -> None:
        self.alphas_cumprod = architecture.build_scheduler().alphas_cumprod
        self.device = device

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) timesteps."""
        last = len(self.alphas_cumprod)
        anywhere = torch.rand(count, generator=generator) * last
        edited = torch.rand(count, generator=generator) < _EDITED_SHARE
        return torch.where(edited, anywhere * _EDITED_RANGE / last, anywhere).long()

    def loss(
        self,
        unet: Any,
        text_encoder: Any,
        latents: Tensor,  # (B, 4, h, w)
        tokens: Tensor,  # (B, n)
        times: Tensor,  # (B,)
        noise: Tensor,  # as latents
    ) -> Tensor:
        """Mean squared error of the predicted noise, weighted by min(SNR, gamma) / SNR."""
        a: Tensor = self.alphas_cumprod[times]  # (B,)
        snr = a / (1 - a)
        a = a.view(-1, 1, 1, 1)
        noisy = (a.sqrt() * latents + (1 - a).sqrt() * noise).to(self.device)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        context = text_encoder(tokens.to(self.device)).last_hidden_state  # (B, n, width)
        predicted: Tensor = unet(noisy, times.to(self.device), context).sample
        error = (predicted.float() - noise.to(self.device)).square().mean((1, 2, 3))
        return (error * (snr.clamp(max=MIN_SNR_GAMMA) / snr).to(self.device)).mean()


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(B, n) int64, padded or cut to the tokenizer's length."""
    length = tokenizer.model_max_length
    out = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length)
    return torch.tensor(out["input_ids"])


@torch.no_grad()
def encode_images(autoencoder: Model, drawn: Tensor, preset: Preset) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> posterior means, scaled, (B, 4, H/4, W/4) on the CPU."""
    with autocast(drawn.device, preset.precision):
        mean = autoencoder.encode(drawn.to(memory_format=torch.channels_last)).latent_dist.mean
    latents: Tensor = mean.float() * autoencoder.config.scaling_factor
    return latents.cpu()


def posterior_noise(means: Tensor, autoencoder: Model, generator: torch.Generator) -> Tensor:
    """What makes samples of posteriors of their scaled means (B, 4, h, w), on the CPU."""
    log_variance = float(autoencoder.encoder.conv_out.bias[4].detach())
    deviation: float = math.exp(log_variance / 2) * autoencoder.config.scaling_factor
    return deviation * torch.randn(means.shape, generator=generator)
