"""A latent diffusion model as the method sees it: encode, embed, predict noise, read features."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dragwidget.data.settings import RenderSettings, Settings
from dragwidget.data.user_warning import warn_user
from dragwidget.diffusion.domain import Domain
from dragwidget.diffusion.fingerprint import digest_of, stamp_of
from dragwidget.diffusion.lora import TEXT_ENCODER, LoRA, switches_of
from dragwidget.diffusion.low_memory import Memory, check_memory, checkpoints
from dragwidget.diffusion.switches import Behind, Switch, lock_of, run
from dragwidget.drag.evaluation import ModelOutput
from dragwidget.drag.noise_path import PredictionType, Schedule, Time
from dragwidget.drag.torch_state import in_plain_torch, ordinary, ordinary_weights

__all__ = ["MAX_PROMPT", "Conditioning", "DiffusionModel", "Predictor", "loaded_models"]

T = TypeVar("T")

MAX_PROMPT = 8192  # characters that are tokenized; 75 tokens are some 400
_LOADED: weakref.WeakSet[DiffusionModel] = weakref.WeakSet()


def loaded_models() -> list[DiffusionModel]:
    """The models that this process holds."""
    return list(_LOADED)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the text asks of the network.

    Attributes:
        prompt: embeddings, (1, L, d).
        negative: embeddings of what to steer away from, (1, L, d), or ``None``.
        guidance_scale: g of classifier-free guidance; at most 1 means none, and ``negative`` is
            not used.
    """

    prompt: Tensor
    negative: Tensor | None = None
    guidance_scale: float = 1.0

    @property
    def guided(self) -> bool:
        """Whether a pass is of two prompts."""
        return self.guidance_scale > 1 and self.negative is not None

    @property
    def batch(self) -> Tensor:
        """Embeddings of one pass: [prompt], or [negative, prompt] with guidance."""
        if self.guided:
            assert self.negative is not None
            return torch.cat([self.negative, self.prompt])
        return self.prompt


class DiffusionModel:
    """A Stable-Diffusion-type model: UNet, autoencoder, text encoder, noise schedule.

    Weights never take gradients; latents are float32 whatever the weights are.

    Attributes:
        name: what it was loaded from.
        recommended: the settings that suit this model; the paper's unless it says otherwise.
        memory: ``"low"``: for gradients, activations are computed twice, not kept; autoencoder and
            text encoder may wait on the CPU, and so does what a render remembers. The results are
            the same, the time is more.
        domain: the images that the model knows.
        loaded_with: the options of ``load_model`` that were given: ``vae``, ``revision``,
            ``variant``, ``cache_dir``, ``config``, ``prediction_type``; ``None`` where the model
            was not loaded by name, or has other parts since. With ``name``, ``device``, ``dtype``
            and ``memory`` they load the same model again.
    """

    @in_plain_torch
    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        alphas_cumprod: Tensor,
        prediction_type: PredictionType = "epsilon",
        steps_offset: int = 1,
        name: str = "model",
        recommended: Settings | None = None,
        memory: Memory = "normal",
        loaded_with: Mapping[str, str] | None = None,
        domain: Domain | None = None,
    ) -> None:
        # Any: diffusers and transformers do not say what their modules hold.
        self.unet: Any = ordinary_weights(unet).eval().requires_grad_(False)
        self.vae: Any = ordinary_weights(vae).eval().requires_grad_(False)
        self.text_encoder: Any = ordinary_weights(text_encoder).eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        self.alphas_cumprod = ordinary(alphas_cumprod).float().cpu()
        self.prediction_type: PredictionType = prediction_type
        self.steps_offset = steps_offset
        self.name = name
        self._known: tuple[object, str] | None = None
        self.recommended = recommended or Settings()
        self.memory = check_memory(memory)
        self.loaded_with = None if loaded_with is None else dict(loaded_with)
        self.domain = domain or Domain()
        _LOADED.add(self)

    @property
    def parts(self) -> dict[str, Any]:
        """All that the constructor takes."""
        names = ("unet", "vae", "text_encoder", "tokenizer", "alphas_cumprod", "prediction_type")
        more = ("steps_offset", "name", "recommended", "memory", "loaded_with", "domain")
        return {name: getattr(self, name) for name in (*names, *more)}

    def with_parts(self, **parts: Any) -> DiffusionModel:
        """A model like this one, with other parts; no name and options load it any more."""
        return DiffusionModel(**{**self.parts, "loaded_with": None, **parts})

    @property
    def lock(self) -> threading.RLock:
        """Held during every pass of the UNet, by whatever model."""
        return lock_of(self.unet)

    @property
    def fingerprint(self) -> str:
        """Stands for the model wherever a result must remember what made it.

        A digest of every weight and setting, made when it is first asked for and again when the
        weights have been changed since, as ``fuse_lora`` or ``load_state_dict`` do. A few values
        written through ``weight.data`` may go unnoticed: make a new ``DiffusionModel`` then.
        """
        stamp = stamp_of(self)
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, digest_of(self)
        return self._known[1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return _first_parameter(self.unet).device

    @property
    def waiting_device(self) -> torch.device:
        """Where large tensors wait that are not used soon."""
        return torch.device("cpu") if self.memory == "low" else self.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return _first_parameter(self.unet).dtype

    @property
    def training_steps(self) -> int:
        """Noise levels that the network was trained on."""
        return len(self.alphas_cumprod)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, c."""
        return int(self.unet.config["in_channels"])

    @property
    def vae_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    @property
    def feature_block_count(self) -> int:
        """Blocks that features can be read from: the mid block and every up block."""
        return 1 + len(self.unet.up_blocks)

    @property
    def self_attention_count(self) -> int:
        """Self-attention layers of the UNet."""
        return sum(name.endswith(".attn1") for name, _ in self.unet.named_modules())

    @property
    def image_side(self) -> int:
        """Longer side that the model was trained on, image pixels."""
        size = self.unet.config["sample_size"]
        return int(max(size) if isinstance(size, (list, tuple)) else size) * self.vae_factor

    @property
    def image_multiple(self) -> int:
        """Image sides that are multiples of this are halved evenly at every level, pixels."""
        levels = len(self.unet.config["block_out_channels"])
        return int(self.vae_factor * 2 ** (levels - 1))

    def check(self, settings: Settings) -> None:
        """Raise unless these settings fit this model."""
        if not isinstance(settings, Settings):
            raise TypeError(f"settings must be Settings, got {type(settings).__name__}")
        if settings.inversion.steps > self.training_steps:
            raise ValueError(
                f"this model has {self.training_steps} noise levels, got "
                f"{settings.inversion.steps} DDIM steps: set InversionSettings.steps"
            )
        highest = self.feature_block_count - 1
        if max(settings.drag.feature_blocks) > highest:
            raise ValueError(
                f"this model's feature blocks are 0 (mid) to {highest}, got "
                f"{settings.drag.feature_blocks}: set DragSettings.feature_blocks"
            )
        self.check_layers(settings.render)

    def check_layers(self, settings: RenderSettings) -> None:
        """Raise ValueError where the render starts at a layer that this model does not have."""
        total = self.self_attention_count
        if settings.mutual_self_attention and settings.start_layer > total:
            raise ValueError(
                f"RenderSettings.start_layer is {settings.start_layer}, but this model has {total} "
                f"self-attention layers: take one of 0 to {total - 1}, {total} for none of them "
                f"({self.recommended.render.start_layer} is recommended)"
            )

    def schedule(self, steps: int) -> Schedule:
        """DDIM with this many steps, on this model's noise levels."""
        return Schedule(self.alphas_cumprod, steps, self.steps_offset, self.prediction_type)

    @in_plain_torch
    def encode(
        self, pixels: npt.NDArray[np.uint8], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Image (H, W, 3) uint8 -> latent (1, c, h, w) float32.

        The mean of the autoencoder's posterior; with ``generator``, a sample of it.
        """
        return self._scaled(self.posterior(pixels), generator)

    @in_plain_torch
    def posterior(self, pixels: npt.NDArray[np.uint8]) -> Any:
        """The autoencoder's distribution over latents for an image (H, W, 3) uint8."""
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return self._run_vae(lambda: self.vae.encode(self._to(self.vae, image)).latent_dist)

    @in_plain_torch
    def sample_posterior(self, posterior: Any, generator: torch.Generator) -> Tensor:
        """A latent (1, c, h, w) drawn from the autoencoder's posterior, scaled; for training."""
        return self._scaled(posterior, generator)

    def _scaled(self, posterior: Any, generator: torch.Generator | None) -> Tensor:
        latent = posterior.mean
        if generator is not None:
            noise = torch.randn(latent.shape, generator=generator).to(latent)
            latent = latent + posterior.std * noise
        scaled: Tensor = latent.float() * self.vae.config["scaling_factor"]
        return scaled

    @in_plain_torch
    def decode(self, latent: Tensor) -> Tensor:
        """Latent (1, c, h, w) -> image (1, 3, H, W) float32 in [0, 1]."""
        z = latent / self.vae.config["scaling_factor"]
        image: Tensor = self._run_vae(lambda: self.vae.decode(self._to(self.vae, z)).sample)
        return (image.float() / 2 + 0.5).clamp(0, 1)

    def _run_vae(self, work: Callable[[], T]) -> T:
        with torch.no_grad():
            return run(self.vae, (), work, device=self.device)

    @in_plain_torch
    def embed(self, prompt: str, lora: LoRA | None = None) -> Tensor:
        """Text -> embeddings (1, L, d) float32; a longer text is cut, with a warning.

        Of a text of more than ``MAX_PROMPT`` characters only that many are tokenized at all.

        Args:
            lora: switched on meanwhile, where it has a part for the text encoder.
        """
        # Some tokenizers set no limit of their own.
        limit = min(
            self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings
        )
        read = prompt[:MAX_PROMPT]
        tokens = self.tokenizer(
            read, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        ).input_ids
        # Asked for only past the limit: a second full tokenization is cheap, its own warning is not
        full = self.tokenizer(read, padding=False, truncation=False, verbose=False).input_ids
        if len(full) > limit or len(read) < len(prompt):
            of = "" if read == prompt else f" in the first {len(read)} of {len(prompt)} characters"
            warn_user(
                f"the prompt has {len(full) - 2} tokens{of} and this model reads {limit - 2}: "
                "the rest is not used"
            )
        lora = None if lora is None else self._placed(lora, self.text_encoder)
        network = self.text_encoder
        with torch.no_grad():
            embeddings: Tensor = run(
                network,
                switches_of(network, lora, part=TEXT_ENCODER),
                lambda: network(tokens.to(_first_parameter(network).device))[0],
                device=self.device,
            )
        return embeddings.float()

    def predictor(self, conditioning: Conditioning, lora: LoRA | None = None) -> Predictor:
        """This model with its text and, if there is one, its LoRA: what the method calls."""
        return Predictor(self, conditioning, lora)

    def _placed(self, lora: LoRA, network: nn.Module) -> LoRA:
        """A LoRA on the device, in a network's own number format."""
        dtype = _first_parameter(network).dtype
        return lora.map(lambda m: ordinary(m).to(self.device, dtype))

    def run_unet(
        self, lora: LoRA | None, work: Callable[[], T], switches: Sequence[Switch] = ()
    ) -> T:
        """Return ``work()``, one pass of the UNet with a LoRA, no other pass beside it.

        Args:
            lora: on the UNet's device.
            switches: what else is on in the UNet meanwhile.
        """
        on = switches_of(self.unet, lora)
        if self.memory == "low":
            on += checkpoints(self.unet, on, self._again)
        return run(self.unet, [*on, *switches], work)

    def _again(self, switches: list[Switch], work: Callable[[], T]) -> T:
        """Compute one layer a second time, for a gradient."""
        return run(self.unet, switches, work)

    @staticmethod
    def _to(module: nn.Module, tensor: Tensor) -> Tensor:
        parameter = _first_parameter(module)
        return tensor.to(parameter.device, parameter.dtype)


def _first_parameter(module: nn.Module) -> Tensor:
    """It stands for where the module is, and of what type."""
    return next(module.parameters())


class _PassDone(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a forward pass when all that was asked for has been seen."""


class Predictor:
    """A network with its text and LoRA, as a ``DragModel`` and as a noise predictor."""

    @in_plain_torch
    def __init__(
        self, model: DiffusionModel, conditioning: Conditioning, lora: LoRA | None = None
    ) -> None:
        self.model = model
        self.conditioning = conditioning
        self._lora = None if lora is None else model._placed(lora, model.unet)
        self._text = DiffusionModel._to(model.unet, ordinary(conditioning.batch))

    def predict(self, latent: Tensor, timestep: Time, attention: Sequence[Switch] = ()) -> Tensor:
        """Noise or velocity for a latent (1, c, h, w) at a timestep, float32."""
        prediction = self(latent, timestep, attention=attention).prediction
        assert prediction is not None
        return prediction

    @in_plain_torch
    def __call__(
        self,
        latent: Tensor,
        timestep: Time,
        *,
        blocks: Sequence[int] = (),
        predict: bool = True,
        attention: Sequence[Switch] = (),
    ) -> ModelOutput:
        """One pass of the network; see ``DragModel``.

        Args:
            attention: what is on in its self-attention layers meanwhile.
        """
        unet = self.model.unet
        batch = DiffusionModel._to(unet, latent)
        if self.conditioning.guided:
            batch = torch.cat([batch, batch])
        seen: dict[int, Tensor] = {}

        def work() -> Tensor | None:
            with suppress(_PassDone):
                output: Tensor = unet(batch, timestep, encoder_hidden_states=self._text).sample
                return output
            return None

        taps = _taps(unet, blocks, seen, stop=not predict)
        prediction = self.model.run_unet(self._lora, work, [*taps, *attention])
        features = tuple(self._guide_features(seen[block]) for block in blocks)
        if prediction is None or not predict:
            return ModelOutput(None, features)
        return ModelOutput(self._guide(prediction.to(latent.dtype)).to(latent.device), features)

    def _guide(self, prediction: Tensor) -> Tensor:
        """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598)."""
        if not self.conditioning.guided:
            return prediction
        negative, prompt = prediction.chunk(2)
        return negative + self.conditioning.guidance_scale * (prompt - negative)

    def _guide_features(self, features: Tensor) -> Tensor:
        """Under guidance both branches are compared, each with its share of the prediction."""
        if not self.conditioning.guided:
            return features
        g = self.conditioning.guidance_scale
        share = g / (2 * g - 1)
        negative, prompt = features.chunk(2)
        return torch.cat([(1 - share) * negative, share * prompt], dim=1)


def _taps(unet: Any, blocks: Sequence[int], seen: dict[int, Tensor], *, stop: bool) -> list[Switch]:
    """What puts the outputs of the mid block (0) and the up blocks (1, ..) of a pass into ``seen``.

    With ``stop`` the pass is left, by ``_PassDone``, once the last one has been seen.
    """
    modules = [unet.mid_block, *unet.up_blocks]
    unknown = [block for block in blocks if block >= len(modules) or modules[block] is None]
    if unknown:
        raise ValueError(
            f"this model has no feature block {unknown[0]}: its blocks are 0 (mid) to "
            f"{len(modules) - 1} (the last up block); set DragSettings.feature_blocks"
        )

    def collect(index: int) -> Callable[[Any], None]:
        def tap(output: Any) -> None:
            seen[index] = output[0] if isinstance(output, tuple) else output
            if stop and len(seen) == len(set(blocks)):
                raise _PassDone

        return tap

    return [Behind(modules[block], collect(block)) for block in set(blocks)]
