"""Whether a model knows images like this one, judged by the round trip through its autoencoder.

An image that is not of a model's domain comes back from encoding and decoding changed, and so it
does from an edit. The round trip takes two passes of the autoencoder; the image is reduced for it
to ``SIDE`` pixels at most, so that it is quick on a CPU too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import avg_pool2d, interpolate

from dragwidget.drag.torch_state import in_plain_torch

__all__ = ["SIDE", "Domain", "RoundTrip", "round_trip"]

SIDE = 256  # longest side for the round trip, pixels; the published numbers are measured at 256


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What the round trip gives for the images that a model knows.

    The default for ``psnr`` is two standard deviations below the mean of Stable Diffusion's first
    autoencoder on photographs, 23.4 +/- 3.8 dB (COCO 2017 at 256 pixels, from the model card of
    ``stabilityai/sd-vae-ft-mse``).

    Attributes:
        psnr: lowest peak signal-to-noise ratio, dB.
        gain: lowest gain over averaging the pixels of each latent cell, dB; ``None``: not judged.
            An autoencoder that is worse than that does not know what it sees, however smooth it is.
        images: the images that the model knows, in words.
    """

    psnr: float = 15.8
    gain: float | None = None
    images: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Domain:
        """Read it from the ``domain`` of a model's ``dragwidget.json``.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        gain = data.get("gain")
        psnr = float(data["psnr"])
        if not math.isfinite(psnr):
            raise ValueError(f"psnr must be a number of decibels, got {psnr}")
        return cls(
            psnr=psnr, gain=None if gain is None else float(gain), images=str(data["images"])
        )


@dataclass(frozen=True)
class RoundTrip:
    """How an image comes back from a model's autoencoder.

    Attributes:
        psnr: dB; minus infinity where the values are not finite.
        gain: over averaging the pixels of each latent cell and interpolating between cells, dB.
    """

    psnr: float
    gain: float

    def is_in(self, domain: Domain) -> bool:
        """Return whether it is as good as for the images of a domain."""
        return self.psnr >= domain.psnr and (domain.gain is None or self.gain >= domain.gain)


class Autoencoder(Protocol):
    """The part of a ``Backbone`` that the round trip needs."""

    @property
    def vae_factor(self) -> int: ...

    def encode(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor: ...

    def decode(self, latent: torch.Tensor) -> torch.Tensor: ...


@in_plain_torch
def round_trip(model: Autoencoder, pixels: npt.NDArray[np.uint8]) -> RoundTrip:
    """Encode and decode an image.

    Args:
        pixels: (H, W, 3) uint8, both sides multiples of what the model works at.
    """
    source = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    decoded = model.decode(model.encode(pixels)).cpu()
    cells = avg_pool2d(source, model.vae_factor)
    averaged = interpolate(cells, scale_factor=float(model.vae_factor), mode="bilinear")
    psnr = _psnr(source, decoded)
    return RoundTrip(psnr, psnr - _psnr(source, averaged))


def _psnr(source: torch.Tensor, other: torch.Tensor) -> float:
    """Peak signal-to-noise ratio, dB, at most 100."""
    error = float((source - other).square().mean())
    return -10 * math.log10(max(error, 1e-10)) if math.isfinite(error) else -math.inf
