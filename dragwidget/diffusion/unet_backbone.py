"""A backbone of diffusers' parts: a UNet, an autoencoder and the noise levels of DDPM.

What Stable Diffusion and Stable Diffusion XL share is here; what they do not is how a text is
read, which a subclass says (``sd``, ``sdxl``).
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dragwidget.data.settings import Settings
from dragwidget.diffusion import autoencoder
from dragwidget.diffusion.autoencoder import Encoding
from dragwidget.diffusion.backbone import (
    LOADED,
    Condition,
    Posterior,
    SelfAttention,
    Trainable,
)
from dragwidget.diffusion.costs import META, FusedAttention, bytes_of, without_weights
from dragwidget.diffusion.devices import first_parameter, placed_like
from dragwidget.diffusion.domain import Domain
from dragwidget.diffusion.few_step import guidance_embedding
from dragwidget.diffusion.fingerprint import digest_of, stamp_of
from dragwidget.diffusion.lora import (
    PARTS,
    UNET,
    GivenLoRA,
    LoRA,
    Part,
    StyleLoRAs,
    given_lora,
    switches_of_all,
)
from dragwidget.diffusion.low_memory import Memory, check_memory, checkpoints
from dragwidget.diffusion.switches import Switch, Turn, lock_of, run
from dragwidget.diffusion.unet import (
    PassDone,
    attention_switches,
    decoder_layers,
    feature_blocks,
    feature_taps,
    self_attention_layers,
)
from dragwidget.drag.evaluation import ModelOutput
from dragwidget.drag.noise_path import PredictionType, Schedule, Spacing, Time
from dragwidget.drag.torch_state import PlainTorch, in_plain_torch, ordinary, ordinary_weights

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["UNetBackbone"]

T = TypeVar("T")


class UNetBackbone(Trainable):
    """A UNet, an autoencoder and a noise schedule; a subclass adds the text.

    Weights never take gradients; latents are float32 whatever the weights are.

    Attributes:
        unet, vae: the networks; ``vae`` may wait on the CPU.
        alphas_cumprod: cumulative alphas of the forward process, (L,) float32.
        prediction_type: what the UNet predicts, noise or velocity.
        steps_offset: the last timestep of a run by leading spacing.
        spacing: where the timesteps of a run lie, see ``Schedule``.
        styles: LoRAs that are on in every pass, see ``with_styles``.
        preview_vae: a tiny autoencoder that draws previews, or ``None``; no render depends on it.
    """

    PARTS: tuple[str, ...] = (
        "unet", "vae", "alphas_cumprod", "prediction_type", "steps_offset", "name", "recommended",
        "memory", "loaded_with", "domain", "encoding", "preview_vae", "spacing", "few_step",
    )  # fmt: skip
    """All that the constructor takes."""

    styles: StyleLoRAs = ()
    _unstyled: Self | None = None  # the model without them
    _placed_styles: StyleLoRAs = ()  # on the UNet's device, in its number format

    @in_plain_torch
    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        alphas_cumprod: Tensor,
        prediction_type: PredictionType = "epsilon",
        steps_offset: int = 1,
        name: str = "model",
        recommended: Settings | None = None,
        memory: Memory = "normal",
        loaded_with: Mapping[str, Any] | None = None,
        domain: Domain | None = None,
        encoding: Encoding = "mean",
        preview_vae: Any = None,
        spacing: Spacing = "leading",
        few_step: str = "",
    ) -> None:
        # Any: diffusers and transformers do not say what their modules hold.
        if preview_vae is not None:
            preview_vae = ordinary_weights(preview_vae).eval().requires_grad_(False)
        self.preview_vae: Any = preview_vae
        self.unet: Any = ordinary_weights(unet).eval().requires_grad_(False)
        self.vae: Any = ordinary_weights(vae).eval().requires_grad_(False)
        self.alphas_cumprod = ordinary(alphas_cumprod).float().cpu()
        self.prediction_type: PredictionType = prediction_type
        self.steps_offset = steps_offset
        self.name = name
        self._known: tuple[object, str] | None = None
        self.recommended = recommended or Settings()
        self.memory = check_memory(memory)
        self.loaded_with = None if loaded_with is None else dict(loaded_with)
        self.domain = domain or Domain()
        self.encoding: Encoding = encoding
        self.spacing: Spacing = spacing
        self.few_step = few_step
        LOADED.add(self)

    def _inputs(self, condition: Condition, count: int) -> tuple[dict[str, Any], float]:
        """Return what a condition gives the UNet, and the guidance scale; 1 means none.

        Args:
            count: latents in the batch; with guidance as many follow, for the negative prompt
                first.

        Raises:
            TypeError: the condition is another backbone's.
        """
        raise NotImplementedError

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The UNet and the autoencoder, and what a subclass adds."""
        return {"unet": self.unet, "vae": self.vae}

    @property
    def tokenizers(self) -> Sequence[Any]:
        """What cuts a text into tokens, as far as the fingerprint must know."""
        return ()

    @property
    def text_settings(self) -> Mapping[str, object]:
        """What the reading of a text depends on beside networks and tokenizers, for JSON."""
        return {}

    @property
    def parts(self) -> dict[str, Any]:
        """All that the constructor takes."""
        return {name: getattr(self, name) for name in self.PARTS}

    def with_parts(self, **parts: Any) -> Self:
        """Return a model like this one with other parts; no name and options load it any more."""
        made = type(self)(**{**self.parts, "loaded_with": None, **parts})
        return made.with_styles(self.styles)

    @in_plain_torch
    def with_styles(self, styles: StyleLoRAs) -> Self:
        """Return this model with LoRAs that are on in every pass, after those it has now."""
        if not styles:
            return self
        for style, _ in styles:
            self.read_lora(style)  # refuses what does not fit
        made = copy.copy(self)
        made._unstyled, made.styles = self._unstyled or self, (*self.styles, *styles)
        made._placed_styles = [
            (style.only(UNET).map(lambda m: ordinary(m).to(self.device, self.dtype)), weight)
            for style, weight in made.styles
        ]
        return made

    def with_memory(self, memory: Memory) -> Self:
        """Return the same model with another choice of ``memory``."""
        return self.with_parts(memory=memory)

    def on_meta(self, like: Any = None) -> Self:
        """Return a model of the same shape on PyTorch's meta device; ``like`` shares networks."""
        names = ("unet", "vae")
        made = {name: without_weights(self.networks[name]) for name in names if like is None}
        return self.with_parts(**(made or {name: like.networks[name] for name in names}))

    @property
    def lock(self) -> threading.RLock:
        """Held during every pass of the UNet, by whatever model."""
        return lock_of(self.unet)

    @property
    def fingerprint(self) -> str:
        """Stands for the model wherever a result must remember what made it.

        A digest of every weight and setting, made when it is first asked for and again when the
        weights have been changed since, as ``fuse_lora`` or ``load_state_dict`` do. A few values
        written through ``weight.data`` may go unnoticed: make a new model then.
        """
        if self._unstyled is not None:
            styles = [[style.digest, weight] for style, weight in self.styles]
            described = json.dumps([self._unstyled.fingerprint, styles])
            return hashlib.sha256(described.encode()).hexdigest()
        stamp = stamp_of(self)
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, digest_of(self)
        return self._known[1]

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return first_parameter(self.unet).device

    @property
    def waiting_device(self) -> torch.device:
        """Where large tensors wait that are not used soon."""
        waits = self.memory == "low" and self.device != META
        return torch.device("cpu") if waits else self.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the UNet's weights."""
        return first_parameter(self.unet).dtype

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Bytes of the weights that stay on the device, and of those that visit it in turn."""
        each = {name: bytes_of(network) for name, network in self.networks.items()}
        for style, _ in self._placed_styles:
            each["unet"] += sum(m.nbytes for m in (*style.down.values(), *style.up.values()))
        if self.memory == "low" and self.device.type != "cpu":
            return each["unet"], each["vae"]
        return sum(each.values()), 0

    @property
    def trainable(self) -> Self:
        """This model: a LoRA can be trained on it."""
        return self

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
        return autoencoder.factor_of(self.vae)

    @property
    def feature_block_count(self) -> int:
        """Blocks that features can be read from: the mid block and every up block."""
        return len(feature_blocks(self.unet))

    @property
    def self_attention_count(self) -> int:
        """Self-attention layers of the UNet."""
        return len(self_attention_layers(self.unet))

    @property
    def decoder_attention(self) -> tuple[int, ...]:
        """Self-attention layers of the decoder."""
        return decoder_layers(self.unet)

    @property
    def attention_kernels(self) -> list[str]:
        """What computes attention: the user may have set other processors."""
        with self.lock:  # during a pass there may be ours
            processors = {
                type(module.processor).__qualname__
                for network in (self.unet, self.vae)
                for module in network.modules()
                if hasattr(module, "processor")
            }
        others = [n for name, n in self.networks.items() if name not in ("unet", "vae")]
        kinds = [str(getattr(n.config, "_attn_implementation", "")) for n in others]
        return [*sorted(processors), *kinds]

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

    def schedule(self, steps: int) -> Schedule:
        """Return DDIM with this many steps, on this model's noise levels."""
        return self.spaced(steps, "model")

    def spaced(self, steps: int, spacing: Spacing | Literal["model"]) -> Schedule:
        """Return DDIM with this many steps of this spacing; ``"model"``: the model's own."""
        where = self.spacing if spacing == "model" else spacing
        return Schedule(self.alphas_cumprod, steps, self.steps_offset, self.prediction_type, where)

    @property
    def embeds_guidance(self) -> bool:
        """Whether the UNet reads the guidance scale, as latent consistency models do."""
        return self.unet.config.get("time_cond_proj_dim") is not None

    def _refuse_negative(self, prompt: str) -> None:
        """Raise ValueError for a negative prompt that guidance would not steer away from."""
        if prompt:
            raise ValueError(
                f"{self.name} reads the guidance scale, and so no negative prompt: leave it empty, "
                f"got {prompt[:60]!r}"
            )

    def _guidance(self, scale: float, count: int) -> dict[str, Tensor]:
        """Return what a UNet that reads the guidance scale is given of it, for ``count`` rows."""
        if not self.embeds_guidance:
            return {}
        row = guidance_embedding(scale, self.unet.config["time_cond_proj_dim"])
        return {"timestep_cond": placed_like(self.unet, row).expand(count, -1)}

    @in_plain_torch
    def encode(
        self, pixels: npt.NDArray[np.uint8], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the latent (1, c, h, w) float32 of an image (H, W, 3).

        The mean of the autoencoder's posterior, or where ``encoding`` says so a sample of it, of
        one size always with the same noise; with ``generator``, a sample of it with new noise.
        """
        if generator is None and self.encoding == "sample":
            generator = torch.Generator().manual_seed(0)
        return autoencoder.scaled_sample(self.vae, self.posterior(pixels), generator)

    @in_plain_torch
    def posterior(self, pixels: npt.NDArray[np.uint8]) -> Posterior:
        """Return the autoencoder's distribution over latents for an image (H, W, 3)."""
        found: Posterior = autoencoder.posterior_of(self.vae, pixels, self.device)
        return found

    @in_plain_torch
    def sample_posterior(self, posterior: Posterior, generator: torch.Generator) -> Tensor:
        """Draw a latent (1, c, h, w) from the autoencoder's posterior, scaled."""
        return autoencoder.scaled_sample(self.vae, posterior, generator)

    @in_plain_torch
    def decode(self, latent: Tensor) -> Tensor:
        """Return the image (1, 3, H, W) float32 in [0, 1] of a latent (1, c, h, w)."""
        return autoencoder.decode(self.vae, latent, self.device)

    @in_plain_torch
    def decode_quickly(self, latent: Tensor) -> Tensor | None:
        """Return a rough image of a latent by the tiny autoencoder; ``None``: there is none."""
        if self.preview_vae is None:
            return None
        return autoencoder.decode(self.preview_vae, latent, self.device)

    def read_lora(self, given: GivenLoRA, alpha: float | None = None) -> LoRA | None:
        """Return a LoRA that a user gives, as weights or a file; see ``load_lora``."""
        parts: dict[Part, nn.Module] = {p: self.networks[p] for p in PARTS if p in self.networks}
        return given_lora(given, parts, alpha)

    def initial_lora(self, rank: int, generator: torch.Generator) -> LoRA:
        """Draw a LoRA that changes nothing yet."""
        return LoRA.initial(self.unet, rank, generator)

    def __call__(
        self,
        z: Tensor,
        t: Time | Tensor,
        condition: Condition,
        *,
        features: Sequence[int] = (),
        predict: bool = True,
        attention: SelfAttention | None = None,
        lora: LoRA | None = None,
    ) -> ModelOutput:
        """Run the UNet once, no other pass beside it; see ``Backbone``."""
        seen: dict[int, Tensor] = {}
        taps = feature_taps(self.unet, features, seen, stop=not predict)
        watching, states = attention_switches(self.unet, attention)
        own = [] if lora is None else [(lora, 1.0)]
        on = switches_of_all(self.unet, [*self._placed_styles, *own])
        if self.memory == "low":
            on += checkpoints(self.unet, [*on, *watching], self._again)
        plain, turn = PlainTorch(), Turn(self.unet, [*on, *taps, *watching])
        prediction: Tensor | None = None
        try:
            with plain, turn:
                given, scale = self._inputs(condition, len(z))
                batch = placed_like(self.unet, z)
                # A number would be copied to the device by diffusers, which waits for it.
                times = t.to(self.device) if isinstance(t, Tensor) else _filled(t, self.device)
                if scale > 1:
                    batch = torch.cat([batch, batch])
                    if isinstance(times, Tensor) and times.ndim:
                        times = torch.cat([times, times])
                with suppress(PassDone):
                    prediction = self.unet(batch, times, **given).sample
                maps = tuple(_guided_features(seen[block], scale) for block in features)
                if prediction is not None:
                    prediction = _guided(prediction.to(z.dtype), scale).to(z.device)
        except BaseException:
            turn.end()
            plain.end()
            raise
        inputs = tuple(states[layer] for layer in attention.layers) if attention and states else ()
        return ModelOutput(prediction if predict else None, maps, inputs)

    def _again(self, switches: list[Switch], work: Callable[[], T]) -> T:
        """Compute one layer a second time, for a gradient."""
        with FusedAttention() if self.device == META else nullcontext():
            return run(self.unet, switches, work)


def _filled(t: Time, device: torch.device) -> Time | Tensor:
    """Return a timestep as a tensor () that the device fills itself; MPS has other number types."""
    return t if device.type == "mps" else torch.full((), t, device=device)


def _guided(prediction: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598)."""
    if scale <= 1:
        return prediction
    negative, prompt = prediction.chunk(2)
    return negative + scale * (prompt - negative)


def _guided_features(features: Tensor, scale: float) -> Tensor:
    """Under guidance both branches are compared, each with its share of the prediction."""
    if scale <= 1:
        return features
    share = scale / (2 * scale - 1)
    negative, prompt = features.chunk(2)
    return torch.cat([(1 - share) * negative, share * prompt], dim=1)
