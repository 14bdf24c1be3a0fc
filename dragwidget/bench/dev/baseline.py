"""The baseline: the paper's procedure with nothing cached and nothing left out.

``bench speed`` measures the project's own classes against this. It is written to be read beside the
paper (DragDiffusion, arXiv 2306.14435), and its numbers are those of the project's classes but for
rounding, which is tested.

What it does as the authors' released tool does: the network's weights keep their gradients while a
latent is dragged; every pass goes through the whole network; whole feature maps are brought to half
the image's size; the source is denoised again beside every render; a run begins with the whole
inversion. What it leaves out in its own favour: loading the weights, which that tool does in every
run. On CUDA that tool drags in float16 where autocast finds it safe, with a scaled loss: so does
``BaselineDrag`` where it is asked to.

It is the simplest form of LoRA training: the text is encoded in every step, and so is the image;
inside ``learning`` every weight gets a gradient. The authors' tool freezes the weights and encodes
the text once; outside ``learning`` these weights are frozen too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dragwidget.data.instructions import DragInstructions, on_grid
from dragwidget.data.settings import LoRASettings, Settings
from dragwidget.diffusion.lora import LoRA, enabled
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.drag.noise_path import Schedule, compose


@contextmanager
def learning(unet: Any) -> Iterator[None]:
    """Let all weights of a network take gradients while this lasts; none is left after it."""
    unet.requires_grad_(True)
    try:
        yield
    finally:
        unet.requires_grad_(False)
        unet.zero_grad(set_to_none=True)


@dataclass(frozen=True, eq=False)
class Baseline:
    """The network, its text and the settings.

    Attributes:
        model: its weights, noise levels, autoencoder and text encoder are used.
        text: embeddings of the prompt, (1, L, d).
        settings: of every stage.
    """

    model: StableDiffusion
    text: Tensor
    settings: Settings

    @property
    def schedule(self) -> Schedule:
        """The timesteps of inversion, drag and render."""
        inversion = self.settings.inversion
        return self.model.spaced(inversion.steps, inversion.spacing)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Those that are inverted, noisiest first; the first is where the latent is edited."""
        return self.schedule.last(self.settings.inversion.count)

    def predict(self, z: Tensor, timestep: int) -> Tensor:
        """Noise or velocity for latents (B, c, h, w), the same prompt for all."""
        text = self.text.expand(len(z), -1, -1).to(z)
        predicted: Tensor = self.model.unet(z, timestep, encoder_hidden_states=text).sample
        return predicted

    def predict_with_features(
        self, z: Tensor, timestep: int, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The prediction for (1, c, h, w), and features brought to ``grid``, (1, C, rows, columns).

        Bilinear, ``align_corners=False``: the whole maps (section 3.3).
        """
        blocks = [self.model.unet.mid_block, *self.model.unet.up_blocks]
        seen: dict[int, Tensor] = {}

        def keep(index: int) -> Any:
            def hook(_block: Any, _inputs: Any, output: Any) -> None:
                seen[index] = output[0] if isinstance(output, tuple) else output

            return hook

        wanted = self.settings.drag.feature_blocks
        hooks = [blocks[index].register_forward_hook(keep(index)) for index in wanted]
        try:
            prediction = self.predict(z, timestep)
        finally:
            for hook in hooks:
                hook.remove()
        maps = [F.interpolate(seen[index], grid, mode="bilinear") for index in wanted]
        return prediction, torch.cat(maps, dim=1)

    def invert(self, z: Tensor) -> Tensor:
        """Return the latent at the edited timestep, from a clean one (1, c, h, w) (section 3.1)."""
        with torch.no_grad():
            for timestep in reversed(self.timesteps):
                z = self.schedule.inverse_step(z, self.predict(z, timestep), timestep)
        return z

    def render(self, inverted: Tensor, edited: Tensor) -> Tensor:
        """Denoise source and edit in one batch; the clean latent of the edit (section 3.4).

        In the later self-attention layers both items attend to the source's keys and values.
        """
        z = torch.cat([inverted, edited])
        with torch.no_grad():
            for index, timestep in enumerate(self.timesteps):
                late = index >= self.settings.render.start_step
                with self._attending_to_source() if late else nullcontext():
                    prediction = self.predict(z, timestep)
                z, _ = self.schedule.step(z, prediction, timestep)
        return z[1:]

    @contextmanager
    def _attending_to_source(self) -> Iterator[None]:
        unet = self.model.unet
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        layers = [
            module
            for block in blocks
            for name, module in block.named_modules()
            if name.rsplit(".", 1)[-1] == "attn1"
        ][self.settings.render.start_layer :]
        originals = [layer.processor for layer in layers]
        try:
            for layer, original in zip(layers, originals, strict=True):
                layer.set_processor(_SourceAttention(original))
            yield
        finally:
            for layer, original in zip(layers, originals, strict=True):
                layer.set_processor(original)


class _SourceAttention:
    """Self-attention of a batch [source, edit] whose keys and values are the source's."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, layer: Any, states: Tensor, *_: Any, **__: Any) -> Any:
        return self.inner(layer, states, states[:1].expand_as(states))


class BaselineDrag:
    """Motion supervision and point tracking (section 3.3).

    Args:
        latent: at the edited timestep, (1, c, h, w); it is not changed.
        instructions: in pixels of the image, which is as large as the model works at.
        autocast: type that the passes are computed in where it is safe; ``None``: the weights'.

    Attributes:
        latent: as it is now.
        handles: where the handles are now, (N, 2) as (row, column) feature cells.
        index: updates so far.
    """

    def __init__(
        self, baseline: Baseline, latent: Tensor, instructions: DragInstructions,
        *, autocast: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.baseline = baseline
        self._precision = torch.autocast(latent.device.type, autocast, autocast is not None)
        self._scaler = torch.amp.GradScaler(latent.device.type, enabled=autocast == torch.float16)
        self.settings = baseline.settings.drag
        self.timestep = baseline.timesteps[0]
        width, height = instructions.size
        self.grid = self.settings.grid(height, width)
        cells = on_grid(instructions, self.grid, (latent.shape[2], latent.shape[3]))
        self.starts = torch.from_numpy(cells.handles_rc)
        self.handles = self.starts.clone()
        self.targets = torch.from_numpy(cells.targets_rc)
        self.protected = None if cells.mask is None else torch.from_numpy(~cells.mask).to(latent)
        with torch.no_grad(), self._precision:
            prediction, self.first = baseline.predict_with_features(
                latent, self.timestep, self.grid
            )
            self.before, _ = baseline.schedule.step(latent, prediction, self.timestep)
        self.latent = latent.detach().clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.latent], lr=self.settings.learning_rate)
        self.index = 0

    def step(self) -> float | None:
        """One update; the loss before it, or ``None`` where every handle has arrived."""
        baseline, r = self.baseline, self.settings.motion_radius
        with torch.enable_grad(), self._precision:
            prediction, features = baseline.predict_with_features(
                self.latent, self.timestep, self.grid
            )
            previous, _ = baseline.schedule.step(self.latent, prediction, self.timestep)
            if self.index > 0:
                self._track(features)
            distances = (self.targets - self.handles).norm(dim=-1)
            if bool((distances < self.settings.stop_distance).all()):
                return None
            loss = torch.zeros((), device=self.latent.device)
            for handle, target, distance in zip(self.handles, self.targets, distances, strict=True):
                if distance < self.settings.stop_distance:
                    continue
                way = (target - handle) / distance
                rows, columns = self._around(handle, r)
                patch = features[:, :, slice(*rows), slice(*columns)].detach()
                moved = _shifted(features, rows, columns, way.tolist())
                loss = loss + (2 * r + 1) ** 2 * F.l1_loss(patch, moved)
            if self.protected is not None:
                kept = ((previous - self.before) * self.protected).abs().sum()
                loss = loss + self.settings.region_weight * kept
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        self.index += 1
        return float(loss.detach())

    def _track(self, features: Tensor) -> None:
        """Find every handle again, by the nearest feature around where it was (equation 5)."""
        with torch.no_grad():
            for k, (start, handle) in enumerate(zip(self.starts, self.handles, strict=True)):
                wanted = self.first[:, :, int(start[0]), int(start[1]), None, None]
                rows, columns = self._around(handle, self.settings.tracking_radius)
                window = features[:, :, slice(*rows), slice(*columns)]
                gap = (wanted - window).abs().sum(dim=(0, 1))
                row, column = divmod(int(gap.argmin()), gap.shape[1])
                self.handles[k] = torch.tensor([rows[0] + row, columns[0] + column])

    def _around(self, position: Tensor, radius: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and past-the-last row and column within ``radius``, cut at the border."""
        (row, column), (height, width) = position.int().tolist(), self.grid
        return (
            (max(0, row - radius), min(height, row + radius + 1)),
            (max(0, column - radius), min(width, column + radius + 1)),
        )


def _shifted(
    features: Tensor, rows: tuple[int, int], columns: tuple[int, int], way: list[float]
) -> Tensor:
    """Return the patch ``rows`` x ``columns`` shifted by ``way`` (row, column), bilinear."""
    down, across = int(np.floor(way[0])), int(np.floor(way[1]))
    total = torch.zeros((), device=features.device)
    for i, row_share in ((0, 1 - (way[0] - down)), (1, way[0] - down)):
        for j, column_share in ((0, 1 - (way[1] - across)), (1, way[1] - across)):
            top, bottom = (row + down + i for row in rows)
            left, right = (column + across + j for column in columns)
            total = total + row_share * column_share * features[:, :, top:bottom, left:right]
    return total


class BaselineTraining:
    """LoRA training, one ``step`` at a time (section 3.2, equation 2).

    Args:
        pixels: the image, (H, W, 3) uint8.

    Attributes:
        lora: as it is now.
    """

    def __init__(
        self,
        model: StableDiffusion,
        pixels: npt.NDArray[np.uint8],
        prompt: str,
        settings: LoRASettings,
    ) -> None:
        self.model, self.prompt, self.settings = model, prompt, settings
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        self.images = image.expand(settings.batch_size, -1, -1, -1).to(model.device, model.dtype)
        weights = LoRA.initial(
            model.unet, settings.rank, torch.Generator().manual_seed(settings.seed)
        )
        self.lora = weights.map(lambda matrix: matrix.to(model.device).requires_grad_())
        self.optimizer = torch.optim.AdamW(
            [*self.lora.down.values(), *self.lora.up.values()],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.generator = torch.Generator().manual_seed(settings.seed)

    def step(self) -> float:
        """One update; the loss before it."""
        model, generator = self.model, self.generator
        text = model.embed(self.prompt).expand(self.settings.batch_size, -1, -1)
        with torch.no_grad():
            posterior = model.vae.encode(self.images).latent_dist
        shape = (1, *posterior.mean.shape[1:])
        noises = [torch.randn(shape, generator=generator) for _ in self.images]
        latents = posterior.mean + posterior.std * torch.cat(noises).to(posterior.mean)
        latents = latents * model.vae.config["scaling_factor"]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = torch.randint(len(model.alphas_cumprod), (len(latents),), generator=generator)
        a = model.alphas_cumprod[timesteps][:, None, None, None].to(latents)
        wanted = noise
        if model.prediction_type == "v_prediction":
            wanted = a.sqrt() * noise - (1 - a).sqrt() * latents
        with torch.enable_grad(), enabled(model.unet, self.lora):
            predicted = model.unet(
                compose(latents, noise, a),
                timesteps.to(latents.device),
                encoder_hidden_states=text.to(latents),
            ).sample
            loss = F.mse_loss(predicted, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def run(
    model: StableDiffusion,
    pixels: npt.NDArray[np.uint8],
    instructions: DragInstructions,
    settings: Settings,
    lora: LoRA | None,
) -> Tensor:
    """Invert, drag, render: run the whole edit from the start.

    Args:
        pixels: the image at the size that the model works at, (H, W, 3) uint8.
        instructions: in its pixels, with the prompt.

    Returns:
        The edited image, (1, 3, H, W) in [0, 1].
    """
    baseline = Baseline(model, model.embed(instructions.prompt), settings)
    frozen = None if lora is None else lora.map(lambda matrix: matrix.detach())
    with enabled(model.unet, frozen):
        inverted = baseline.invert(model.encode(pixels))
        with learning(model.unet):
            drag = BaselineDrag(baseline, inverted, instructions)
            for _ in range(settings.drag.steps):
                if drag.step() is None:
                    break
        rendered = baseline.render(inverted, drag.latent.detach())
    return model.decode(rendered)
