"""Sessions on the tiny model, quick enough for a fresh one in every test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import InversionSettings, LoRASettings, Settings
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.progress import Progress
from dragwidget.session.session import DragSession

SIZE = (64, 48)  # (width, height) of the image
INVERSION = InversionSettings(steps=6, strength=0.5)
N = INVERSION.count  # passes of the network in an inversion, and in one branch of a render
FAR = ((12, 12), (50, 36))  # a pair that takes more steps than any test makes


def waves(width: int = SIZE[0], height: int = SIZE[1], seed: int = 0) -> np.ndarray:
    """Waves of a few colours, (H, W, 3) uint8."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (3, 2))
    rows, columns = np.indices((height, width))
    waves = [
        np.sin(2 * np.pi * (1 + channel) * columns / width + across)
        + np.cos(2 * np.pi * (3 - channel) * rows / height + down)
        for channel, (across, down) in enumerate(phases)
    ]
    return (np.stack(waves, axis=-1) * 55 + 128).round().astype(np.uint8)


def settings_of(model: StableDiffusion, *, lora_steps: int = 0, **drag: Any) -> Settings:
    """The model's own, with little to do."""
    return replace(
        model.recommended,
        inversion=INVERSION,
        lora=LoRASettings(steps=lora_steps, rank=2, batch_size=1, learning_rate=1e-2),
        drag=replace(model.recommended.drag, **{"steps": 3, **drag}),
    )


def session_on(
    model: StableDiffusion,
    *,
    prompt: str = "a cat",
    lora_steps: int = 0,
    progress: Callable[[Progress], None] | None = None,
    **drag: Any,
) -> DragSession:
    """A session with an image."""
    session = DragSession(model, progress=progress)
    session.settings = settings_of(model, lora_steps=lora_steps, **drag)
    session.set_image(waves(), prompt)
    return session


def ask(*pairs: Any, size: tuple[int, int] = SIZE, **more: Any) -> DragInstructions:
    """Instructions with these pairs, by default one that is far apart."""
    return DragInstructions.from_points(list(pairs) or [FAR], size=size, **more)


def left_half() -> np.ndarray:
    """A mask (H, W): only what is left is editable."""
    mask = np.zeros(SIZE[::-1], dtype=bool)
    mask[:, : SIZE[0] // 2] = True
    return mask


class Passes:
    """Counts the passes of a model's network while this lasts; may do something in each.

    Args:
        during: called in each pass, with its number from 1.
    """

    def __init__(self, model: StableDiffusion, during: Callable[[int], None] | None = None) -> None:
        self.count = 0
        self._unet = model.unet
        self._during = during

    def _hook(self, *_: object) -> None:
        self.count += 1
        if self._during is not None:
            self._during(self.count)

    def __enter__(self) -> Passes:
        self._handle = self._unet.register_forward_pre_hook(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def state(session: DragSession) -> dict[str, Any]:
    """All that a user can see of a session, to compare before and after a call that fails."""
    if session._request is None:
        return {"settings": session.settings, "ended": session.ended}
    return {
        "image": session.image.tobytes(),
        "prompt": session.prompt,
        "lora": session.lora,
        "instructions": session.instructions,
        "settings": session.settings,
        "ended": session.ended,
        "status": session.status,
        "edits": [
            (edit.history.nodes.copy(), edit.history.current, edit.history.tip)
            for edit in session.edits
        ],
    }


class BlockModel(StableDiffusion):
    """A network behind an exact autoencoder: a latent cell is the mean of its block of pixels.

    What the random weights of a tiny autoencoder give is no image; this one cannot shift, blur
    or turn anything by itself.
    """

    def posterior(self, pixels: Any) -> Any:
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        colours = avg_pool2d(image, self.vae_factor)
        mean = torch.cat([colours, torch.zeros_like(colours[:, :1])], dim=1)
        return SimpleNamespace(mean=mean, std=torch.zeros_like(mean))

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        colours = latent[:, :3] / self.vae.config["scaling_factor"]
        blocks = interpolate(colours, scale_factor=self.vae_factor, mode="nearest")
        return (blocks / 2 + 0.5).clamp(0, 1)


def blocks_of(model: StableDiffusion, *, noise_levels: int | None = None) -> BlockModel:
    """The same network behind an exact autoencoder."""
    return BlockModel(
        unet=model.unet,
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        alphas_cumprod=model.alphas_cumprod[:noise_levels],
        recommended=model.recommended,
    )
