"""A linear stand-in for an autoencoder's decoder: a look at a latent for next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LinearDecoder"]

_KERNEL = 5  # latent cells; 3 loses 0.7 dB on the embedded model, more gain nothing
_RIDGE = 1e-3  # of the mean square of the regressors
_TRUSTED = 0.2  # a change of colour, 0..1, from which on nothing of the old image is kept


@dataclass(frozen=True, eq=False)
class LinearDecoder:
    """A map from latent cells to pixels, fitted to one image and its own latent.

    Each cell's pixels are a linear function of the cell and its neighbours. One image is enough
    to fit it, and what is dragged in that image has its colours.

    Attributes:
        weight: (3 f f, c, 5, 5), for f pixels a cell along a side.
        bias: (3 f f,).
        image: the one it was fitted to, (1, 3, H, W) in [0, 1].
        drawn: the same as this map draws it.
    """

    weight: Tensor
    bias: Tensor
    image: Tensor
    drawn: Tensor

    @classmethod
    def fit(cls, latent: Tensor, pixels: npt.NDArray[np.uint8]) -> LinearDecoder:
        """Fit the map by least squares, with a small ridge.

        Args:
            latent: of the image, (1, c, h, w).
            pixels: the image, (f h, f w, 3) uint8.
        """
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        channels, factor = latent.shape[1], image.shape[2] // latent.shape[2]
        around = F.unfold(_padded(latent.float().cpu()), _KERNEL)[0].T.double()  # (h w, c 25)
        wanted = F.pixel_unshuffle(image, factor)[0].flatten(1).T.double()  # (h w, 3 f f)
        means = around.mean(0), wanted.mean(0)
        around, wanted = around - means[0], wanted - means[1]
        gram = around.T @ around
        ridge = _RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        gram.diagonal().add_(ridge)
        solved = torch.linalg.solve(gram, around.T @ wanted)  # (c 25, 3 f f)
        weight = solved.T.reshape(-1, channels, _KERNEL, _KERNEL).float()
        bias = (means[1] - means[0] @ solved).float()
        drawn = _drawn(latent.float().cpu(), weight, bias, factor)
        return cls(weight, bias, image, drawn)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a latent (1, c, h, w) to an image (1, 3, H, W) float32 in [0, 1].

        Where the latent is the image's own, that is the image; where it differs a little, the
        image changed by the difference of what this map draws; where it differs much, what this
        map draws, which is smooth.
        """
        factor = self.image.shape[2] // latent.shape[2]
        drawn = _drawn(latent.detach().float().cpu(), self.weight, self.bias, factor)
        change = drawn - self.drawn
        widened = F.max_pool2d(change.abs().amax(1, keepdim=True), 5, 1, 2)
        new = (F.avg_pool2d(widened, 5, 1, 2) / _TRUSTED).clamp(0, 1)
        return torch.lerp(self.image + (1 - new) * change, drawn, new).clamp(0, 1)


def _drawn(latent: Tensor, weight: Tensor, bias: Tensor, factor: int) -> Tensor:
    return F.pixel_shuffle(F.conv2d(_padded(latent), weight, bias), factor)


def _padded(latent: Tensor) -> Tensor:
    return F.pad(latent, (_KERNEL // 2,) * 4, mode="replicate")
