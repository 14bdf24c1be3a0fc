"""The source of an edit: an image, given or generated, and its inversion."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dragwidget.data.frames import Size
from dragwidget.data.image import SourceImage, source_image
from dragwidget.data.image_reading import read_image
from dragwidget.data.instructions import check_prompt, check_size
from dragwidget.data.quoting import quoted
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import Between, InversionSettings, Settings, check_fields
from dragwidget.diffusion.attention import ReferenceBranch, record_inversion
from dragwidget.diffusion.backbone import Backbone, Condition, Predictor
from dragwidget.diffusion.linear_decoder import LinearDecoder
from dragwidget.diffusion.lora import GivenLoRA, LoRA, StyleLoRAs
from dragwidget.drag.cycle_sde import CycleSDE, inversion_steps
from dragwidget.drag.noise_path import NoisePath, Spacing, Time, denoise
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.progress import Key, Progress
from dragwidget.session.few_step_check import warn_of_guidance, warn_once
from dragwidget.storage.image_files import EditedImage

GUIDANCE = 7.5  # the scale of classifier-free guidance, by default; that of Stable Diffusion 1
GivenLoRAs: TypeAlias = GivenLoRA | Sequence[tuple[LoRA | str | os.PathLike[str], float]]


@dataclass(frozen=True)
class Generation:
    """How an image was generated.

    Attributes:
        guidance_scale: of classifier-free guidance, 0 to 1000; at most 1 means none. A network
            that reads the scale is told it.
        seed: of the noise.
        size: (width, height), pixels.
        steps: DDIM steps.
        spacing: of their timesteps, as in ``InversionSettings``.
    """

    prompt: str
    negative_prompt: str
    guidance_scale: Annotated[float, Between(0, 1000)]
    seed: Annotated[int, Between(0, 2**63 - 1)]
    size: Size
    steps: int
    spacing: Spacing | Literal["model"] = "model"

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        check_prompt(self.negative_prompt)
        check_fields(self)
        object.__setattr__(self, "size", check_size(self.size))


@dataclass(frozen=True, eq=False)
class GeneratedImage(SourceImage):
    """An image that the model made from text.

    Attributes:
        generation: how.
        trajectory: its latents from noise to clean, (steps + 1).
    """

    generation: Generation = field(kw_only=True)
    trajectory: tuple[Tensor, ...] = field(kw_only=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pixels, and of how they were generated."""
        return self._hash(self.generation)


def generation_of(request: EditRequest) -> Generation | None:
    """How the image was generated; ``None``: it was given."""
    return request.image.generation if isinstance(request.image, GeneratedImage) else None


def check_request(
    model: Backbone, request: EditRequest, before: EditRequest | None = None
) -> EditRequest:
    """Return a request as ``Backbone.check`` returns its settings; raise unless the model does it.

    Args:
        before: a request that was checked.

    Raises:
        ValueError: the model cannot do what is requested.
    """
    settings = model.check(request.settings)
    if any(side % model.least_multiple for side in request.image.fitted_size):
        raise ValueError(
            f"the image is fitted to {request.image.fitted_size}, and this model takes "
            f"multiples of {model.least_multiple} pixels: set_image() fits it"
        )
    warn_once(model, settings, None if before is None else before.settings)
    checked = [] if before is None else [before.lora, *(style for style, _ in before.styles)]
    for lora in (lora_of(request), *(style for style, _ in styles_of(request))):
        if not any(lora is one for one in checked):
            model.read_lora(lora)  # refuses what does not fit
    return request if settings == request.settings else request.replace(settings=settings)


def lora_of(request: EditRequest) -> LoRA | None:
    """The LoRA that was given; ``None``: none was."""
    assert request.lora is None or isinstance(request.lora, LoRA)
    return request.lora


def styles_of(request: EditRequest) -> StyleLoRAs:
    """The LoRAs that change the model itself, each with its weight."""
    assert all(isinstance(style, LoRA) for style, _ in request.styles)
    return request.styles  # type: ignore[return-value]


def read_loras(model: Backbone, given: GivenLoRAs, alpha: float | None) -> dict[str, Any]:
    """The change of a request that LoRAs make which a user gives, see ``DragSession.use_lora``."""
    if given is None or isinstance(given, LoRA | str | os.PathLike):
        return {"lora": model.read_lora(given, alpha)}
    if alpha is not None:
        raise ValueError("alpha is for one LoRA file: give load_lora(file, .., alpha=..) instead")
    pairs = list(given)
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] is None:
            raise TypeError(
                "several LoRAs are pairs of a LoRA or its file and a weight, as in "
                f'[("style.safetensors", 0.8)], got {quoted(pair)}'
            )
    return {"styles": tuple((model.read_lora(style), weight) for style, weight in pairs)}


def asked_of(
    image: SourceImage, prompt: str, settings: Settings, before: EditRequest | None
) -> EditRequest:
    """What is asked of another image at first: the LoRAs that change the model stay."""
    return EditRequest(image, prompt, settings=settings, styles=before.styles if before else ())


def inversion_settings(request: EditRequest) -> InversionSettings:
    """Those that hold for this image: a generated one keeps the timesteps it was made with."""
    made, settings = generation_of(request), request.settings.inversion
    if made is None:
        return settings
    return replace(settings, steps=made.steps, spacing=made.spacing, embedded_guidance=1.0)


def known_trajectory(request: EditRequest) -> tuple[Tensor, ...]:
    """The latents of a generated image from clean to where it is edited, (count + 1)."""
    if not isinstance(request.image, GeneratedImage):
        return ()
    return request.image.trajectory[::-1][: inversion_settings(request).count + 1]


# What makes each stage of an edit, exactly


def why_no_lora(request: EditRequest) -> str:
    """The reason why this image gets no LoRA; empty where it gets one."""
    if request.lora is not None:
        return ""
    if generation_of(request) is not None:
        return "a generated image needs none"
    return "" if request.settings.lora.steps else "LoRA steps are 0"


def lora_key(request: EditRequest) -> Key:
    """All that a LoRA depends on but the model's weights."""
    made_by = request.settings.lora if request.lora is None else request.lora.digest
    return (
        ("the image", request.image.digest),
        ("the prompt", request.prompt),
        ("the model's LoRAs", request.style_digests),
        ("the LoRA", None if why_no_lora(request) else made_by),
    )


def inversion_key(request: EditRequest) -> Key:
    """All that an inversion depends on but the model's weights."""
    return (*lora_key(request), ("inversion settings", inversion_settings(request)))


def reference_key(request: EditRequest) -> Key:
    """All that a reference branch depends on but the model's weights."""
    render = request.settings.render
    layers = render.start_layer if render.attends else None
    return (*inversion_key(request), ("the render's attention layers", layers))


def fitted(model: Backbone, image: Any, max_side: int | None, multiple: int | None) -> SourceImage:
    """An image at a size that suits the model; ``None``: what the model was trained on."""
    if multiple is None:
        multiple = model.image_multiple
    if multiple < 1 or multiple % model.least_multiple:
        raise ValueError(
            f"multiple must be {model.least_multiple}, the pixels of one latent cell of this "
            f"model, or a multiple of it, got {multiple}"
        )
    read = read_image(image)
    side = model.longer_side((read.pixels.shape[1], read.pixels.shape[0]))
    max_side = side if max_side is None else max_side
    return source_image(read, multiple=multiple, max_side=max_side, min_side=side)


def image_of(request: EditRequest, decoded: Tensor, cell: int | None = None) -> Image.Image:
    """A decoded image (1, 3, h, w) in [0, 1] at the size of the source, carrying what it does.

    That is its alpha (mode RGBA), and EXIF, dpi and sRGB profile, which ``save`` writes.

    Args:
        cell: pixels (h, w) of a latent cell's side, for the seam of ``keep_source_pixels``;
            ``None``: the image as it is decoded.
    """
    pixels, drawn = to_pixels(decoded), request.instructions
    if cell is None or drawn is None or not request.settings.render.keep_source_pixels:
        return EditedImage.of(request.image.restore(pixels))
    return EditedImage.of(request.image.restore(pixels, drawn.mask, cell))


def to_pixels(decoded: Tensor) -> npt.NDArray[np.uint8]:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8, the nearest of 256 levels."""
    image = finite(decoded, "the decoded image")[0].permute(1, 2, 0)
    levels: npt.NDArray[np.uint8] = np.rint(image.float().cpu().numpy() * 255).astype(np.uint8)
    return levels


@dataclass(frozen=True, eq=False)
class Inversion:
    """The inversion trajectory of an image, clean to edited timestep, and what made it.

    Attributes:
        latents: clean first, edited last, (count + 1), each (1, c, h, w) float32.
        predictor: the network with the text and LoRA of the inversion.
        schedule: its timesteps.
        request: what was asked for: image, prompt, and settings of LoRA and inversion.
        lora: the one that was given or trained; ``None`` where there is none.
    """

    latents: tuple[Tensor, ...]
    predictor: Predictor
    schedule: NoisePath
    request: EditRequest
    lora: LoRA | None

    @property
    def count(self) -> int:
        """Steps between clean and edited."""
        return len(self.latents) - 1

    @property
    def noises(self) -> tuple[Tensor, ...]:
        """Noise of each denoising step, the noisiest first (count); none where none was kept."""
        return tuple(self.schedule.noises.values()) if isinstance(self.schedule, CycleSDE) else ()

    @property
    def timestep(self) -> Time:
        """Where the drag starts."""
        return self.schedule.last(self.count)[0]

    def latent_at(self, timestep: Time) -> Tensor:
        """Return the latent of the trajectory at one of its timesteps, (1, c, h, w)."""
        return self.latents[self.count - list(self.schedule.last(self.count)).index(timestep)]

    @cached_property
    def linear_decoder(self) -> LinearDecoder:
        """Draws latents that are like this image's."""
        return LinearDecoder.fit(self.latents[0], self.request.image.pixels)


@dataclass(frozen=True, eq=False)
class TrainedLoRA:
    """A LoRA, and what was asked for when it was trained."""

    lora: LoRA
    request: EditRequest


def conditioning(
    model: Backbone,
    prompt: str,
    size: Size,
    generation: Generation | None = None,
    lora: LoRA | None = None,
    embedded_guidance: float = 1.0,
) -> Condition:
    """What a prompt asks of the network; only a generated image has classifier-free guidance.

    Args:
        embedded_guidance: what a given image's network is told, see ``InversionSettings``.
    """
    if generation is None:
        return model.encode_text(prompt, size, guidance_scale=embedded_guidance, lora=lora)
    return model.encode_text(
        prompt,
        size,
        negative_prompt=generation.negative_prompt,
        guidance_scale=generation.guidance_scale,
        lora=lora,
    )


def records_reference(request: EditRequest) -> bool:
    """Return whether the inversion of an image records its reference branch."""
    return request.settings.inversion.records_reference and generation_of(request) is None


def keeps_noises(request: EditRequest) -> bool:
    """Return whether the inversion of an image keeps the noise of each step."""
    return request.settings.inversion.method == "cycle_sde" and generation_of(request) is None


def inverting(
    model: Backbone, request: EditRequest, lora: LoRA | None
) -> Generator[Progress, None, tuple[Inversion, ReferenceBranch | None]]:
    """Invert an image; the trajectory of a generated one is known. To be driven in plain torch.

    The reference branch comes with it where the inversion records one and the render needs one.

    Raises:
        ArithmeticError: the network overflowed.
    """
    if known := known_trajectory(request):
        return inversion_from(known, model, request, lora), None
    settings, render = request.settings.inversion, request.settings.render
    clean = model.encode(request.image.pixels)
    inversion = inversion_from((clean,), model, request, lora)
    predictor, schedule, count = inversion.predictor, inversion.schedule, settings.count
    latents, branch = [clean], None
    noises: list[Tensor] = []
    if records_reference(request) and render.needs_reference:
        for branch in record_inversion(predictor, clean, schedule, count, settings, render):
            latents.append(finite(branch.latents[0], "a latent of the inversion"))
            noises = branch.noises
            yield Progress("inversion", len(latents) - 1, count)
    else:
        for latent, noise in inversion_steps(predictor.predict, clean, schedule, count, settings):
            latents.append(finite(latent, "a latent of the inversion"))
            if noise is not None:
                noises.insert(0, noise)
            yield Progress("inversion", len(latents) - 1, count)
    if noises:
        schedule = CycleSDE.of(schedule, tuple(noises))
    return replace(inversion, latents=tuple(latents), schedule=schedule), branch


@in_plain_torch
def inversion_from(
    latents: tuple[Tensor, ...],
    model: Backbone,
    request: EditRequest,
    lora: LoRA | None,
    noises: tuple[Tensor, ...] = (),
) -> Inversion:
    """An inversion whose latents, and noises if it keeps them, are known."""
    size = request.image.fitted_size
    settings = inversion_settings(request)
    text = conditioning(
        model, request.prompt, size, generation_of(request), lora, settings.embedded_guidance
    )
    predictor = model.predictor(text, lora)
    schedule = model.spaced(settings.steps, settings.spacing)
    if noises:
        schedule = CycleSDE.of(schedule, noises)
    return Inversion(latents, predictor, schedule, request.replace(instructions=None), lora)


def finite(tensor: Tensor, what: str) -> Tensor:
    """The tensor; raise ArithmeticError where it holds NaN or infinity."""
    if not tensor.isfinite().all():
        raise ArithmeticError(
            f"{what} is not finite: the network overflowed. Load the model with dtype='float32'; "
            "a LoRA that was given may hold extreme values"
        )
    return tensor


def asked_generation(
    model: Backbone,
    settings: Settings,
    prompt: str,
    negative_prompt: str = "",
    guidance_scale: float | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
) -> Generation:
    """Return what an image is to be generated from; see ``DragSession.generate``."""
    if guidance_scale is None:  # most models of a few steps hold their guidance already
        guidance_scale = 1.0 if model.few_step and not model.embeds_guidance else GUIDANCE
    side, inversion = model.image_side, settings.inversion
    return Generation(
        prompt, negative_prompt, guidance_scale, seed, size or (side, side),
        inversion.steps, inversion.spacing,
    )  # fmt: skip


@in_plain_torch
def generating(
    model: Backbone, generation: Generation
) -> Generator[Progress, None, GeneratedImage]:
    """Sample an image from text, keeping every latent of the trajectory.

    Raises:
        ValueError: a size that the model cannot make.
        ArithmeticError: the network overflowed.
    """
    width, height = generation.size
    factor, multiple = model.vae_factor, model.least_multiple
    if width < multiple or height < multiple or width % multiple or height % multiple:
        raise ValueError(
            f"size must be multiples of {multiple} pixels, got {width} x {height} (width x height)"
        )
    noise = torch.randn(
        (1, model.latent_channels, height // factor, width // factor),
        generator=torch.Generator().manual_seed(generation.seed),
    ).to(model.device)
    text = conditioning(model, generation.prompt, generation.size, generation)
    warn_of_guidance(model, generation.guidance_scale)
    predict = model.predictor(text).predict
    schedule = model.spaced(generation.steps, generation.spacing)
    latents = [noise]
    for latent in denoise(predict, noise, schedule, generation.steps):
        latents.append(finite(latent, "a latent of the generation"))
        yield Progress("generation", len(latents) - 1, generation.steps)
    pixels = to_pixels(model.decode(latents[-1]))
    pixels.setflags(write=False)
    return GeneratedImage(pixels, pixels, generation=generation, trajectory=tuple(latents))
