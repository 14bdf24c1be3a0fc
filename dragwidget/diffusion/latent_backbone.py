"""A backbone of diffusers' parts: one large network, and the autoencoder that it works behind.

What all families share is here: weights, fingerprint, memory, and images to latents and back. What
the network is, how it reads a text and which noise path it walks, a subclass says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dragwidget.data.settings import Settings
from dragwidget.diffusion import autoencoder
from dragwidget.diffusion.autoencoder import Encoding
from dragwidget.diffusion.backbone import LOADED, Backbone, Condition, Posterior, SelfAttention
from dragwidget.diffusion.costs import META, FusedAttention, bytes_of, without_weights
from dragwidget.diffusion.devices import first_parameter, placed_like
from dragwidget.diffusion.domain import Domain
from dragwidget.diffusion.fingerprint import digest_of, stamp_of
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.low_memory import Memory, check_memory, checkpoints
from dragwidget.diffusion.switches import PassDone, Switch, Turn, lock_of, run
from dragwidget.drag.evaluation import ModelOutput
from dragwidget.drag.noise_path import Time
from dragwidget.drag.torch_state import PlainTorch, in_plain_torch, ordinary_weights

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LatentBackbone"]

T = TypeVar("T")


class LatentBackbone(Backbone):
    """A network behind an autoencoder.

    Weights never take gradients; latents are float32 whatever the weights are.

    Attributes:
        vae: the autoencoder; it may wait on the CPU.
    """

    PARTS: tuple[str, ...] = (
        "vae", "name", "recommended", "memory", "loaded_with", "domain", "encoding",
    )  # fmt: skip
    """All that the constructor takes."""

    NETWORK: str
    """Which of ``networks`` every pass runs through."""

    @in_plain_torch
    def __init__(
        self,
        *,
        vae: Any,
        name: str = "model",
        recommended: Settings | None = None,
        memory: Memory = "normal",
        loaded_with: Mapping[str, Any] | None = None,
        domain: Domain | None = None,
        encoding: Encoding = "mean",
    ) -> None:
        # Any: diffusers and transformers do not say what their modules hold.
        self.vae: Any = ordinary_weights(vae).eval().requires_grad_(False)
        self.name = name
        self._known: tuple[object, str] | None = None
        self.recommended = recommended or Settings()
        self.memory = check_memory(memory)
        self.loaded_with = None if loaded_with is None else dict(loaded_with)
        self.domain = domain or Domain()
        self.encoding: Encoding = encoding
        LOADED.add(self)

    @property
    def network(self) -> Any:
        """The network that every pass runs through."""
        return self.networks[self.NETWORK]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The autoencoder, and what a subclass adds."""
        return {"vae": self.vae}

    @property
    def tokenizers(self) -> Sequence[Any]:
        """What cuts a text into tokens, as far as the fingerprint must know."""
        return ()

    @property
    def path_settings(self) -> Mapping[str, object]:
        """What the noise path depends on: tensors, and what is ready for JSON."""
        raise NotImplementedError

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
        return type(self)(**{**self.parts, "loaded_with": None, **parts})

    def with_memory(self, memory: Memory) -> Self:
        """Return the same model with another choice of ``memory``."""
        return self.with_parts(memory=memory)

    def on_meta(self, like: Any = None) -> Self:
        """Return a model of the same shape on PyTorch's meta device; ``like`` shares networks."""
        names = (self.NETWORK, "vae")
        made = {name: without_weights(self.networks[name]) for name in names if like is None}
        return self.with_parts(**(made or {name: like.networks[name] for name in names}))

    @property
    def lock(self) -> threading.RLock:
        """Held during every pass of the network, by whatever model."""
        return lock_of(self.network)

    @property
    def fingerprint(self) -> str:
        """Stands for the model wherever a result must remember what made it.

        A digest of every weight and setting, made when it is first asked for and again when the
        weights have been changed since, as ``fuse_lora`` or ``load_state_dict`` do. A few values
        written through ``weight.data`` may go unnoticed: make a new model then.
        """
        stamp = stamp_of(self)
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, digest_of(self)
        return self._known[1]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return first_parameter(self.network).device

    @property
    def waiting_device(self) -> torch.device:
        """Where large tensors wait that are not used soon."""
        waits = self.memory == "low" and self.device != META
        return torch.device("cpu") if waits else self.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the network's weights."""
        return first_parameter(self.network).dtype

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Bytes of the weights that stay on the device, and of those that visit it in turn."""
        each = {name: bytes_of(network) for name, network in self.networks.items()}
        if self.memory == "low" and self.device.type != "cpu":
            return each[self.NETWORK], each["vae"]
        return sum(each.values()), 0

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, c."""
        return int(self.network.config["in_channels"])

    @property
    def vae_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return autoencoder.factor_of(self.vae)

    @property
    def attention_kernels(self) -> list[str]:
        """What computes attention: the user may have set other processors."""
        with self.lock:  # during a pass there may be ours
            processors = {
                type(module.processor).__qualname__
                for network in (self.network, self.vae)
                for module in network.modules()
                if hasattr(module, "processor")
            }
        others = [n for name, n in self.networks.items() if name not in (self.NETWORK, "vae")]
        kinds = [str(getattr(n.config, "_attn_implementation", "")) for n in others]
        return [*sorted(processors), *kinds]

    @property
    def image_side(self) -> int:
        """Longer side that the model was trained on, image pixels."""
        size = self.network.config["sample_size"]
        return int(max(size) if isinstance(size, (list, tuple)) else size) * self.vae_factor

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
        """Run the network once, no other pass beside it; see ``Backbone``."""
        network, seen = self.network, dict[int, Tensor]()
        taps = self._taps(features, z, seen, stop=not predict)
        watching, states = self._watched(attention)
        on = self._adapted(lora)
        if self.memory == "low":
            on += checkpoints(network, [*on, *watching], self._again)
        plain, turn = PlainTorch(), Turn(network, [*on, *taps, *watching])
        prediction: Tensor | None = None
        try:
            with plain, turn:
                given, scale = self._inputs(condition, len(z))
                batch = placed_like(network, z)
                # A number would be copied to the device by diffusers, which waits for it.
                times = t if isinstance(t, Tensor) else torch.full((), t, device=self.device)
                times = times.to(self.device).expand(len(z))
                if scale > 1:
                    batch, times = torch.cat([batch, batch]), torch.cat([times, times])
                with suppress(PassDone):
                    prediction = network(batch, timestep=times, **given).sample
                maps = tuple(_guided_features(seen[block], scale) for block in features)
                if prediction is not None:
                    prediction = _guided(prediction.to(z.dtype), scale).to(z.device)
        except BaseException:
            turn.end()
            plain.end()
            raise
        inputs = tuple(states[layer] for layer in attention.layers) if attention and states else ()
        return ModelOutput(prediction if predict else None, maps, inputs)

    def _inputs(self, condition: Condition, count: int) -> tuple[dict[str, Any], float]:
        """Return what a condition gives the network, and the guidance scale; 1 means none.

        Args:
            count: latents in the batch; with guidance as many follow, for the negative prompt
                first.

        Raises:
            TypeError: the condition is another backbone's.
        """
        raise NotImplementedError

    def _adapted(self, lora: LoRA | None) -> list[Switch]:  # noqa: ARG002 - the family has none
        """Return what puts LoRAs into a pass."""
        return []

    def _taps(
        self, blocks: Sequence[int], z: Tensor, seen: dict[int, Tensor], *, stop: bool
    ) -> list[Switch]:
        """Return what puts the features behind ``blocks`` of a pass into ``seen``, by number.

        Args:
            stop: leave the pass, by ``PassDone``, once the last one has been seen.
        """
        raise NotImplementedError

    def _watched(self, attention: SelfAttention | None) -> tuple[list[Switch], dict[int, Tensor]]:
        """Return what does this in a pass, and where the inputs that it records are, by layer."""
        raise NotImplementedError

    def _again(self, switches: list[Switch], work: Callable[[], T]) -> T:
        """Compute one layer a second time, for a gradient."""
        with FusedAttention() if self.device == META else nullcontext():
            return run(self.network, switches, work)


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
