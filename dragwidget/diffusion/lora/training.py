"""Fine-tuning a LoRA on the one source image (paper, section 3.2, equation 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dragwidget.data.settings import LoRASettings
from dragwidget.diffusion.backbone import Backbone, Condition, Trainable
from dragwidget.diffusion.lora import LoRA
from dragwidget.drag.optimizer import loss_scale
from dragwidget.drag.torch_state import in_plain_torch, ordinary

__all__ = [
    "FixedNoiseLoss",
    "LoRABatch",
    "LoRAStep",
    "lora_steps",
    "loss_of",
    "noised_batches",
    "train_lora",
]


@dataclass(frozen=True, eq=False)
class LoRABatch:
    """What one training step sees.

    Attributes:
        latents: clean, (B, c, h, w) float32.
        noise: (B, c, h, w) float32.
        timesteps: how far each is noised, (B,) int64.
        random: state of the random generator after it was drawn, uint8; ``None``: not known.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    random: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LoRAStep:
    """One training step, and all that going on after it needs.

    Attributes:
        index: its number from 1.
        loss: before it.
        lora: after it, as the rest is.
        first: AdamW's first moment of each matrix.
        second: its second moment, likewise.
        random: state of the batches' random generator, uint8; ``None``: not known.
    """

    index: int
    loss: float
    lora: LoRA
    first: LoRA
    second: LoRA
    random: Tensor | None = None


@in_plain_torch
def noised_batches(
    model: Trainable,
    pixels: npt.NDArray[np.uint8],
    settings: LoRASettings,
    random: Tensor | None = None,
) -> Iterator[LoRABatch]:
    """Yield endless batches of the image (H, W, 3), sampled from the autoencoder and noised.

    The image is encoded once, whole; with ``settings.random_crop`` each item is a square crop as
    long as the shorter side, encoded again.

    Args:
        random: go on after the batch that has this state; by default from ``settings.seed``.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    if random is not None:
        generator.set_state(random.cpu())
    levels = model.training_steps
    size = settings.batch_size
    whole = None if settings.random_crop else model.posterior(pixels)
    for _ in count():
        latents = torch.cat(
            [
                model.sample_posterior(
                    model.posterior(_random_crop(pixels, generator)) if whole is None else whole,
                    generator,
                )
                for _ in range(size)
            ]
        )
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = torch.randint(levels, (size,), generator=generator)
        yield LoRABatch(latents, noise, timesteps, generator.get_state())


class FixedNoiseLoss:
    """Measures the validation loss of a training at fixed noise, over all noise levels.

    The loss of a single training step says little: its noise and timesteps differ every time.
    """

    _LEVELS = 8

    @in_plain_torch
    def __init__(
        self, model: Trainable, pixels: npt.NDArray[np.uint8], condition: Condition
    ) -> None:
        self._model, self._condition = model, condition
        clean = model.encode(pixels)
        noise = torch.randn(
            (self._LEVELS, *clean.shape[1:]), generator=torch.Generator().manual_seed(0)
        )
        levels = model.training_steps
        times = (torch.arange(self._LEVELS) * 2 + 1) * levels // (2 * self._LEVELS)
        self._batches = [
            LoRABatch(clean, noise[k, None].to(clean), times[k, None]) for k in range(self._LEVELS)
        ]
        self._without: float | None = None

    def ratio(self, lora: LoRA) -> float:
        """Return the loss with a LoRA divided by the loss without one."""
        means = []
        for each in (lora,) if self._without else (None, lora):
            total = 0.0
            for batch in self._batches:
                with torch.no_grad():
                    total += float(loss_of(self._model, self._condition, batch, each))
            means.append(total / len(self._batches))
        if self._without is None:
            self._without = means[0]
        return means[-1] / self._without


def _random_crop(
    pixels: npt.NDArray[np.uint8], generator: torch.Generator
) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (
        int(torch.randint(room + 1, (), generator=generator))
        for room in (height - side, width - side)
    )
    return pixels[top : top + side, left : left + side]


def lora_steps(
    model: Trainable,
    condition: Condition,
    batches: Iterable[LoRABatch],
    settings: LoRASettings,
    initial: LoRA | None = None,
    after: LoRAStep | None = None,
) -> Iterator[LoRAStep]:
    """Train a LoRA, one yielded ``LoRAStep`` for each of ``settings.steps``.

    The network's own weights take no gradient.

    Args:
        condition: what the prompt asks of the network.
        batches: at least ``settings.steps`` of them.
        initial: where to start; by default drawn with ``settings.seed``.
        after: go on after this step, in place of starting; ``batches`` begin with the next one.

    Raises:
        ArithmeticError: the loss is not finite.
    """
    if after is not None:
        initial = after.lora
    elif initial is None:
        generator = torch.Generator().manual_seed(settings.seed)
        initial = model.initial_lora(settings.rank, generator)
    lora = initial.map(lambda m: m.detach().float().to(model.device).clone().requires_grad_())
    matrices = [*lora.down.values(), *lora.up.values()]
    optimizer = torch.optim.AdamW(
        matrices,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    if after is not None:
        _set_moments(optimizer, lora, after)
    start = 1 if after is None else after.index + 1
    for index, batch in zip(range(start, settings.steps + 1), batches, strict=False):
        with torch.enable_grad():
            loss = loss_of(model, condition, batch, lora)
            scale = loss_scale(model.dtype)
            gradients = torch.autograd.grad(loss * scale, matrices)
        if not (loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)):
            raise ArithmeticError(
                f"LoRA step {index} was refused: its loss or gradient is not finite; try a smaller "
                f"learning rate than {settings.learning_rate:g}, or float32 in place of "
                f"{model.dtype}"
            )
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient / scale
        optimizer.step()
        yield LoRAStep(
            index,
            float(loss.detach()),
            lora.map(lambda m: m.detach().clone()),
            lora.map(lambda m: optimizer.state[m]["exp_avg"].clone()),
            lora.map(lambda m: optimizer.state[m]["exp_avg_sq"].clone()),
            batch.random,
        )


def _set_moments(optimizer: torch.optim.AdamW, lora: LoRA, after: LoRAStep) -> None:
    """Let AdamW go on as if it had taken the steps itself."""
    for part in ("down", "up"):
        for path, matrix in getattr(lora, part).items():
            optimizer.state[matrix] = {
                "step": torch.tensor(float(after.index)),
                "exp_avg": getattr(after.first, part)[path].to(matrix).clone(),
                "exp_avg_sq": getattr(after.second, part)[path].to(matrix).clone(),
            }


# The other is for callers that are in plain torch already.
train_lora = in_plain_torch(lora_steps)
"""Train a LoRA, as ``lora_steps`` does, whatever PyTorch settings the caller has."""


def loss_of(model: Backbone, condition: Condition, batch: LoRABatch, lora: LoRA | None) -> Tensor:
    """Return the mean squared error of the predicted noise (or velocity), float32."""
    clean, noise = ordinary(batch.latents), ordinary(batch.noise)
    noised, target = model.schedule(1).training_target(clean, noise, batch.timesteps)
    predicted = model(noised, batch.timesteps, condition, lora=lora).prediction
    assert predicted is not None
    return F.mse_loss(predicted.float(), target.float())
