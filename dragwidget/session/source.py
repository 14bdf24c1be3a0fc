"""Where an edit starts: an image that was given or generated, and its latents up to the edit."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass, field, replace
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
from dragwidget.drag.noise_path import NoisePath, Time, denoise, invert
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.progress import Key, Progress
from dragwidget.storage.image_files import EditedImage

__all__ = [
    "Call", "Generation", "Inversion", "Source", "TrainedLoRA", "fitted", "generating", "inverting",
]  # fmt: skip


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


@dataclass(frozen=True)
class Call:
    """The arguments of ``set_image`` and ``use_lora``, as far as they have a name.

    Attributes:
        image: absolute path of the image; ``None`` where it is no file, or that is not known.
        max_side, multiple: as given; ``None`` also where that is not known.
        lora: absolute path of the LoRA, likewise.
        alpha: of the LoRA, as given.
    """

    image: str | None = None
    max_side: int | None = None
    multiple: int | None = None
    lora: str | None = None
    alpha: float | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """The image being edited.

    Attributes:
        digest: of the pixels, and of how they were generated.
        trajectory: of a generated image: its latents from noise to clean, (steps + 1).
        lora: one that was given, in place of training it.
        call: how the image and the LoRA were given, for code that repeats the edit.
    """

    image: SourceImage
    prompt: str
    digest: str
    generation: Generation | None = None
    trajectory: tuple[Tensor, ...] = ()
    lora: LoRA | None = None
    call: Call = field(default_factory=lambda: Call())

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

    @property
    def pillow(self) -> Image.Image:
        """The image as it was given, upright, sRGB, with its alpha (mode RGBA) if it has any."""
        return EditedImage.of(self.image.pillow)

    def image_of(self, decoded: Tensor) -> Image.Image:
        """A decoded image (1, 3, h, w) in [0, 1] at the size of the source, carrying what it does.

        That is its alpha (mode RGBA), and EXIF, dpi and sRGB profile, which ``save`` writes.
        """
        return EditedImage.of(self.image.restore(to_pixels(decoded)))

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
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8, the nearest of 256 levels."""
    image = finite(decoded, "the decoded image")[0].permute(1, 2, 0)
    levels: npt.NDArray[np.uint8] = np.rint(image.float().cpu().numpy() * 255).astype(np.uint8)
    return levels


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
    schedule: NoisePath
    source: Source
    settings: Settings
    lora: LoRA | None

    @property
    def count(self) -> int:
        """Steps between clean and edited."""
        return len(self.latents) - 1

    @property
    def timestep(self) -> Time:
        """Where the drag starts."""
        return self.schedule.last(self.count)[0]

    def latent_at(self, timestep: Time) -> Tensor:
        """The source's latent at a timestep of the inversion, (1, c, h, w)."""
        walked = self.schedule.last(self.count)
        if timestep not in walked:
            raise ValueError(f"no latent at timestep {timestep}: the inversion has {walked}")
        return self.latents[self.count - list(walked).index(timestep)]

    @cached_property
    def linear_decoder(self) -> LinearDecoder:
        """Draws latents that are like this image's."""
        return LinearDecoder.fit(self.latents[0], self.source.image.pixels)


@dataclass(frozen=True, eq=False)
class TrainedLoRA:
    """A LoRA, and what it was trained on and with."""

    lora: LoRA
    source: Source
    settings: Settings


def conditioning(
    model: DiffusionModel,
    prompt: str,
    generation: Generation | None = None,
    lora: LoRA | None = None,
) -> Conditioning:
    """What a prompt asks of the network; only a generated image is guided."""
    text = model.embed(prompt, lora)
    if generation is None or generation.guidance_scale <= 1:
        return Conditioning(text)
    negative = model.embed(generation.negative_prompt, lora)
    return Conditioning(text, negative, generation.guidance_scale)


@in_plain_torch
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


@in_plain_torch
def inversion_from(
    latents: tuple[Tensor, ...],
    model: DiffusionModel,
    source: Source,
    settings: Settings,
    lora: LoRA | None,
) -> Inversion:
    """An inversion whose latents are known."""
    text = conditioning(model, source.prompt, source.generation, lora)
    predictor = model.predictor(text, lora)
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


@in_plain_torch
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
