"""Stage 3: the UNet learns what a warped latent means.

A drag may begin by warping the latent (``drag.warping``), a crude guess: faces shear, eyes are
torn, and behind what moved there is nothing. For tasks of training seeds, the domain knows the
image that was meant; here the UNet learns to paint it, while it attends to the source as a render
does.

It is the usual training under another noise. DDIM walks in a straight line: a latent at noise level
``a`` with the warped image B and the noise eps in it is one with the ground truth X and the noise
eps + k (B - X), k = sqrt(a / (1 - a)), and a network that says so stays on that line, where the
part of B shrinks to nothing. So each latent gets some of a warp's remains as noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor

from dragwidget.data.instructions import DragInstructions, on_grid
from dragwidget.data.settings import DragSettings
from dragwidget.demo.tasks import TASK_KINDS, drag_task
from dragwidget.demo.training import unet_stage
from dragwidget.demo.training.architecture import Model, Preset, autocast
from dragwidget.demo.training.export import RECOMMENDED, write_model, write_samples
from dragwidget.demo.training.feed import VALIDATION_SEEDS, Bank, shortened
from dragwidget.demo.training.loop import Training
from dragwidget.demo.training.unet_stage import Data, Noising
from dragwidget.diffusion.backbone import SelfAttention
from dragwidget.diffusion.switches import run
from dragwidget.diffusion.unet import attending, recorded, self_attention_layers
from dragwidget.drag.noise_path import Schedule, Time, invert
from dragwidget.drag.warping import in_latent, warp_latent

# Where edits are made: inversion strengths 0.35 to 0.7.
EARLIEST, LATEST = 341, 681
_ORDINARY = 1 / 3  # ordinary images beside each drag of a batch, so that nothing is unlearnt
_INVERTED = 0.5  # share of the drags whose noise is an inversion's; others get new noise
_INVERSION = (20, 12)  # DDIM steps, and how many of them are inverted: up to t = 551
_FIRST_SEED = 400_000  # of the tasks: apart from the first images of stage 2


def train_drags(
    preset: Preset,
    finished: Model,
    folder: Path,
    device: torch.device,
    size: int,
    *,
    resume: bool,
    data_workers: int = 0,
) -> Iterator[dict[str, float]]:
    """Go on with a finished pipeline; yield records; write ``folder/model``.

    Args:
        finished: a pipeline with ``unet``, ``vae``, ``text_encoder`` and ``tokenizer``.
        data_workers: processes that draw tasks ahead. What comes out is the same with any number.
    """
    torch.manual_seed(preset.seed + 30)
    unet = finished.unet.float().to(device, memory_format=torch.channels_last).train()
    before = copy.deepcopy(unet).eval().requires_grad_(False)  # inverts, as it was
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # its backward pass is quicker there
    autoencoder = finished.vae.float().to(device).eval().requires_grad_(False)
    text_encoder = finished.text_encoder.float().to(device).eval().requires_grad_(False)
    training = Training("drags", {"unet": unet}, preset.drags, folder, preset.seed + 31)
    if resume:
        training.load()
    parts = {"unet": unet, "text_encoder": text_encoder}
    ordinary = Data(parts, autoencoder, finished.tokenizer, preset, device, size)
    drawing = PrefetchedTasks(data_workers, size)
    drags = Drags(
        unet, before, text_encoder, autoencoder, finished.tokenizer, preset, device, drawing
    )
    count = max(1, round(preset.drags.batch * _ORDINARY))

    def loss() -> Tensor:
        drags.bank.grow(preset.first_drags + training.step * preset.new_drags)
        of_drags = drags.loss(preset.drags.batch, training.generator)
        of_images = ordinary.loss(count, training.generator)
        total = preset.drags.batch + count
        return (preset.drags.batch * of_drags + count * of_images) / total

    tokenizer_folder = folder / "tokenizer"
    finished.tokenizer.save_pretrained(tokenizer_folder)

    def export() -> None:
        states = {**training.averaged_states(), "text_encoder": text_encoder.state_dict()}
        write_model(folder / "model", preset, states, autoencoder, tokenizer_folder, RECOMMENDED)

    with drawing:
        ordinary.bank.grow(preset.first_bank)  # before the clock of the training is started
        drags.bank.grow(preset.first_drags)
        yield from training.run(loss, export)
    training.average()
    export()
    unet.eval()
    training.write_report(
        drags=training.images,
        drags_made=len(drags.bank),
        validation_loss=ordinary.validate(preset.measured),
    )
    write_samples(folder / "model", folder / "samples.png", device, preset.samples)


Drawn = tuple[list[DragInstructions], NDArray[np.float32]]


def draw_tasks(seeds: Sequence[int], size: int) -> Drawn:
    """Return what is asked for, and source and answer by turns, (2 B, 3, size, size) in [0, 1]."""
    tasks = [drag_task(TASK_KINDS[seed % len(TASK_KINDS)], seed, size) for seed in seeds]
    images = [image.numpy() for task in tasks for image in (task.source, task.target)]
    return [task.instructions for task in tasks], np.stack(images)


class PrefetchedTasks:
    """`draw_tasks` of consecutive chunks, which other processes begin with before they are needed.

    A task takes tens of milliseconds to draw; a GPU learns from one in two (340 ms for 192).
    """

    def __init__(self, processes: int, size: int) -> None:
        """`processes`: 0 draws here, when it is needed."""
        self._size, self._ahead = size, 2 * processes
        self._pool = ProcessPoolExecutor(
            max(1, processes),
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
        self._begun: dict[int, Future[Drawn]] = {}

    def __call__(self, seeds: Sequence[int]) -> Drawn:
        if not self._ahead:
            return draw_tasks(seeds, self._size)
        for chunk in range(self._ahead + 1):
            there = [seed + chunk * len(seeds) for seed in seeds]
            there = [seed % VALIDATION_SEEDS.start for seed in there]
            if there[0] not in self._begun:
                self._begun[there[0]] = self._pool.submit(draw_tasks, there, self._size)
        return self._begun.pop(seeds[0]).result()

    def __enter__(self) -> PrefetchedTasks:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass(eq=False)
class Drags:
    """Warped latents of training tasks, with source and ground truth, put to the UNet."""

    unet: Model
    before: Model
    text_encoder: Model
    autoencoder: Model
    tokenizer: Any
    preset: Preset
    device: torch.device
    drawn: Callable[[Sequence[int]], Drawn]

    def __post_init__(self) -> None:
        self.alphas_cumprod = Noising(self.device).alphas_cumprod
        first = RECOMMENDED["render"]["start_layer"]
        self.layers = tuple(range(first, len(self_attention_layers(self.unet))))
        chunk = min(128, max(1, self.preset.first_drags // 16))
        self.bank = Bank(self.make, chunk, _FIRST_SEED)

    @torch.no_grad()
    def make(self, seeds: Sequence[int]) -> tuple[Tensor, ...]:
        """Clean latents of source, answer, warped source; inverted noise (B, 4, h, w); tokens."""
        wrapped = [seed % VALIDATION_SEEDS.start for seed in seeds]
        instructions, images = self.drawn(wrapped)
        drawn = torch.from_numpy(images).to(self.device)
        means = unet_stage.encode_images(self.autoencoder, drawn * 2 - 1, self.preset)
        # Source and answer with the same noise: where nothing moves they must not differ.
        generator = torch.Generator().manual_seed(wrapped[0])
        noise = unet_stage.posterior_noise(means[::2], self.autoencoder, generator)
        source, target = means[::2] + noise, means[1::2] + noise
        warped = torch.cat(
            [warp(asked, latent[None]) for asked, latent in zip(instructions, source, strict=True)]
        )
        texts = shortened([asked.prompt for asked in instructions], wrapped)
        tokens = unet_stage.token_ids(self.tokenizer, texts)
        return source, target, warped, self.inverted_noise(source, tokens), tokens

    @torch.no_grad()
    def inverted_noise(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return what DDIM inversion takes for the noise of each, (B, 4, h, w)."""
        steps, count = _INVERSION
        schedule = Schedule(self.alphas_cumprod, steps)
        context = self.embed(tokens)

        def predict(z: Tensor, timestep: Time) -> Tensor:
            with autocast(self.device, self.preset.precision):
                out: Tensor = self.before(z, timestep, context).sample
            return out.float()

        walk = invert(predict, latents.to(self.device), schedule, count)
        z = next(islice(walk, count - 1, None)).cpu()
        a = schedule.alpha(schedule.timesteps[steps - count])
        return (z - a.sqrt() * latents) / (1 - a).sqrt()

    def embed(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            states: Tensor = self.text_encoder(tokens.to(self.device)).last_hidden_state
        return states

    def loss(self, count: int, generator: torch.Generator) -> Tensor:
        """Of a random batch; weighted as in stage 2."""
        source, target, warped, noise, tokens = self.bank.draw(count, generator)
        new_noise = torch.randn(noise.shape, generator=generator)
        inverted = torch.rand(count, generator=generator) < _INVERTED
        noise = torch.where(inverted.view(-1, 1, 1, 1), noise, new_noise)
        edited = torch.randint(EARLIEST, LATEST + 1, (count,), generator=generator)
        times = (1 + torch.rand(count, generator=generator) * edited).long()
        a = self.alphas_cumprod[edited].view(-1, 1, 1, 1)
        left = remains(noise, warped, target, a)
        a = self.alphas_cumprod[times].view(-1, 1, 1, 1)
        seen = self.at_noise(source, noise, a)
        shown = self.at_noise(target, left, a)
        context, wanted = self.embed(tokens), left.to(self.device)
        there = times.to(self.device)
        with autocast(self.device, self.preset.precision):
            recording, states = recorded(self.unet, self.layers)
            with torch.no_grad():
                run(self.unet, recording, lambda: self.unet(seen, there, context))
            mutual = attending(
                self.unet, SelfAttention(self.layers), [states[layer] for layer in self.layers]
            )
            predicted: Tensor = run(
                self.unet, mutual, lambda: self.unet(shown, there, context).sample
            )
        error = (predicted.float() - wanted).square().mean((1, 2, 3))
        snr = (a / (1 - a)).flatten().to(self.device)
        mean: Tensor = (error * (snr.clamp(max=unet_stage.MIN_SNR_GAMMA) / snr)).mean()
        return mean

    def at_noise(self, clean: Tensor, noise: Tensor, a: Tensor) -> Tensor:
        """Latents of noise level ``a`` (B, 1, 1, 1), laid out for the network."""
        noisy: Tensor = (a.sqrt() * clean + (1 - a).sqrt() * noise).to(self.device)
        return noisy.contiguous(memory_format=torch.channels_last)


def remains(noise: Tensor, warped: Tensor, answer: Tensor, a: Tensor) -> Tensor:
    """The noise by which a warped latent of level ``a`` is one of the ground truth; all alike.

    sqrt(a) warped + sqrt(1 - a) noise = sqrt(a) answer + sqrt(1 - a) remains
    """
    return noise + (a / (1 - a)).sqrt() * (warped - answer)


def warp(drawn: DragInstructions, clean: Tensor) -> Tensor:
    """Return a clean latent (1, 4, h, w), warped as a drag begins."""
    grid = DragSettings().grid(drawn.size[1], drawn.size[0])
    cells = on_grid(drawn, grid, (clean.shape[2], clean.shape[3]))
    handles, targets = (
        in_latent(torch.from_numpy(points), grid, clean)
        for points in (cells.handles_rc, cells.targets_rc)
    )
    protected = None if cells.mask is None else torch.from_numpy(~cells.mask)
    return warp_latent(clean, clean, torch.ones(()), handles, targets, protected)
