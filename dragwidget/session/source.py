"""Where an edit starts: an image that was given or generated, and its latents up to the edit."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dragwidget.data.frames import Size
from dragwidget.data.image import SourceImage, source_image
from dragwidget.data.instructions import DragInstructions, check_prompt, check_size
from dragwidget.data.settings import InversionSettings, Settings, check_number
from dragwidget.diffusion.linear_decoder import LinearDecoder
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.model import Conditioning, DiffusionModel, Predictor
from dragwidget.drag.noise_path import Schedule, denoise, invert
from dragwidget.progress import Key, Progress

__all__ = ["Generation", "Inversion", "Source", "fitted", "generating", "inverting"]


@dataclass(frozen=True)
class Generation:
    """How an image was generated.

    Attributes:
        guidance_scale: of classifier-free guidance, 0 to 1000; at most 1 means none.
        seed: of the noise.
        size: (width, height), pixels.
        steps: DDIM steps.
    """

    prompt: str
    negative_prompt: str
    guidance_scale: float
    seed: int
    size: Size
    steps: int

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        check_prompt(self.negative_prompt)
        check_number(self, "guidance_scale", 0, 1000)
        check_number(self, "seed", 0, 2**63 - 1)
        object.__setattr__(self, "size", check_size(self.size))


@dataclass(frozen=True, eq=False)
class Source:
    """The image being edited.

    Attributes:
        digest: of the pixels, and of how they were generated.
        trajectory: of a generated image: its latents from noise to clean, (steps + 1).
        lora: one that was given, in place of training it.
    """

    image: SourceImage
    prompt: str
    digest: str
    generation: Generation | None = None
    trajectory: tuple[Tensor, ...] = ()
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt)

    @classmethod
    def of(
        cls,
        image: SourceImage,
        prompt: str,
        generation: Generation | None = None,
        trajectory: tuple[Tensor, ...] = (),
    ) -> Source:
        digest = hashlib.sha256(
            f"{image.original.shape} {image.pixels.shape} {generation}".encode()
        )
        digest.update(image.original.tobytes())
        return cls(image, prompt, digest.hexdigest(), generation, trajectory)

    def check(self, instructions: DragInstructions) -> None:
        """Raise unless these instructions are for this image."""
        if not isinstance(instructions, DragInstructions):
            raise TypeError(
                f"instructions must be DragInstructions, got {type(instructions).__name__}"
            )
        if instructions.size != self.image.size:
            (width, height), size = instructions.size, self.image.size
            raise ValueError(
                f"the instructions are for an image of {width} x {height}, this one is "
                f"{size[0]} x {size[1]} (width x height): draw them on this image"
            )

    def image_of(self, decoded: Tensor) -> Image.Image:
        """A decoded image (1, 3, h, w) in [0, 1] at the size of the one that was given."""
        return self.image.restore(to_pixels(decoded))

    def inversion(self, settings: Settings) -> InversionSettings:
        """Those that hold for this image: a generated one keeps the steps it was made with."""
        if self.generation is None:
            return settings.inversion
        return replace(settings.inversion, steps=self.generation.steps)

    def known_way(self, settings: Settings) -> tuple[Tensor, ...]:
        """Of a generated image: its latents from clean to where it is edited, (count + 1)."""
        return self.trajectory[::-1][: self.inversion(settings).count + 1]

    # What makes each stage of an edit of it, exactly

    def why_no_lora(self, settings: Settings) -> str:
        """The reason why this image gets no LoRA; empty where it gets one."""
        if self.lora is not None:
            return ""
        if self.generation is not None:
            return "a generated image needs none"
        return "" if settings.lora.steps else "LoRA steps are 0"

    def lora_key(self, settings: Settings) -> Key:
        made_by = settings.lora if self.lora is None else self.lora.digest
        return (
            ("the image", self.digest),
            ("the prompt", self.prompt),
            ("the LoRA", None if self.why_no_lora(settings) else made_by),
        )

    def inversion_key(self, settings: Settings) -> Key:
        return (*self.lora_key(settings), ("inversion settings", self.inversion(settings)))

    def reference_key(self, settings: Settings) -> Key:
        render = settings.render
        layers = render.start_layer if render.mutual_self_attention else None
        return (*self.inversion_key(settings), ("the render's attention layers", layers))


def fitted(
    model: DiffusionModel, image: Any, max_side: int | None, multiple: int | None
) -> SourceImage:
    """An image at a size that suits the model; ``None``: what the model was trained on."""
    if multiple is None:
        multiple = model.image_multiple
    if multiple < 1 or multiple % model.vae_factor:
        raise ValueError(
            f"multiple must be {model.vae_factor}, the pixels of one latent cell of this model, or "
            f"a multiple of it, got {multiple}"
        )
    side = model.image_side
    max_side = side if max_side is None else max_side
    return source_image(image, multiple=multiple, max_side=max_side, min_side=side)


def to_pixels(decoded: Tensor) -> npt.NDArray[np.uint8]:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    image = finite(decoded, "the decoded image")[0].permute(1, 2, 0)
    return (image.cpu().numpy() * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Inversion:
    """The image's own way from clean to where it is edited, and what made it.

    Attributes:
        latents: clean first, edited last, (count + 1), each (1, c, h, w) float32.
        predictor: the network with the text and LoRA that the way was walked with.
        schedule: its timesteps.
        source: the image, with its prompt.
        settings: of LoRA and inversion.
        lora: ``None`` where there is none.
    """

    latents: tuple[Tensor, ...]
    predictor: Predictor
    schedule: Schedule
    source: Source
    settings: Settings
    lora: LoRA | None

    @property
    def count(self) -> int:
        """Steps between clean and edited."""
        return len(self.latents) - 1

    @property
    def timestep(self) -> int:
        """Where the latent is edited."""
        return self.schedule.timesteps[self.schedule.steps - self.count]

    @cached_property
    def linear_decoder(self) -> LinearDecoder:
        """Draws latents that are like this image's."""
        return LinearDecoder.fit(self.latents[0], self.source.image.pixels)


def conditioning(
    model: DiffusionModel, prompt: str, generation: Generation | None = None
) -> Conditioning:
    """What a prompt asks of the network; only a generated image is guided."""
    text = model.embed(prompt)
    if generation is None or generation.guidance_scale <= 1:
        return Conditioning(text)
    negative = model.embed(generation.negative_prompt)
    return Conditioning(text, negative, generation.guidance_scale)


def inverting(
    model: DiffusionModel, source: Source, settings: Settings, lora: LoRA | None
) -> Generator[Progress, None, Inversion]:
    """Invert an image; of a generated one the way is known.

    Raises:
        ArithmeticError: the network overflowed.
    """
    if way := source.known_way(settings):
        return inversion_from(way, model, source, settings, lora)
    count = settings.inversion.count
    clean = model.encode(source.image.pixels)
    inversion = inversion_from((clean,), model, source, settings, lora)
    latents = [clean]
    for latent in invert(inversion.predictor.predict, clean, inversion.schedule, count):
        latents.append(finite(latent, "a latent of the inversion"))
        yield Progress("inversion", len(latents) - 1, count)
    return replace(inversion, latents=tuple(latents))


def inversion_from(
    latents: tuple[Tensor, ...],
    model: DiffusionModel,
    source: Source,
    settings: Settings,
    lora: LoRA | None,
) -> Inversion:
    """An inversion whose latents are known."""
    predictor = model.predictor(conditioning(model, source.prompt, source.generation), lora)
    schedule = model.schedule(source.inversion(settings).steps)
    return Inversion(latents, predictor, schedule, source, settings, lora)


def finite(tensor: Tensor, what: str) -> Tensor:
    """The tensor; raise ArithmeticError where it holds NaN or infinity."""
    if not tensor.isfinite().all():
        raise ArithmeticError(
            f"{what} is not finite: the network overflowed. Load the model with dtype='float32'; "
            "a LoRA that was given may hold extreme values"
        )
    return tensor


def generating(model: DiffusionModel, generation: Generation) -> Generator[Progress, None, Source]:
    """Sample an image from text, keeping every latent on the way.

    Raises:
        ValueError: a size that the model cannot make.
        ArithmeticError: the network overflowed.
    """
    width, height = generation.size
    factor = model.vae_factor
    if width < factor or height < factor or width % factor or height % factor:
        raise ValueError(
            f"size must be multiples of {factor} pixels, got {width} x {height} (width x height)"
        )
    noise = torch.randn(
        (1, model.latent_channels, height // factor, width // factor),
        generator=torch.Generator().manual_seed(generation.seed),
    ).to(model.device)
    predict = model.predictor(conditioning(model, generation.prompt, generation)).predict
    latents = [noise]
    for latent in denoise(predict, noise, model.schedule(generation.steps), generation.steps):
        latents.append(finite(latent, "a latent of the generation"))
        yield Progress("generation", len(latents) - 1, generation.steps)
    pixels = to_pixels(model.decode(latents[-1]))
    pixels.setflags(write=False)
    return Source.of(SourceImage(pixels, pixels), generation.prompt, generation, tuple(latents))
