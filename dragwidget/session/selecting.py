"""The regions of an inverted image, by the features of the network and the colours of the image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dragwidget.data.regions import Regions
from dragwidget.data.selection import lab
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session.source import Inversion, finite

__all__ = ["regions_of"]

MOST_CELLS = 128  # along the longest side
LEVEL = 0.36  # of the inversion trajectory from the image: a third of the noise tells parts best
COMPONENTS = 12  # of the features of a block
FEATURES = 0.5  # their share in a description; the rest is colour


def regions_of(inversion: Inversion) -> Regions:
    """Return the regions of the source image; one forward pass."""
    pixels = inversion.request.image.pixels
    height, width = pixels.shape[:2]
    scale = min(0.5, MOST_CELLS / max(height, width))  # cells blur the edges of what they join
    grid = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = Image.fromarray(pixels).resize(grid[::-1], Image.Resampling.BOX)
    colours = lab(np.asarray(small))
    parts = [_components(np.moveaxis(colours, -1, 0), 3) * (1 - FEATURES) ** 0.5]
    maps = _coarse_features(inversion)
    parts += [
        _components(FeatureMap((block,), grid).full().cpu().numpy(), COMPONENTS)
        * (FEATURES / len(maps)) ** 0.5
        for block in maps
    ]
    return Regions.of(colours, np.moveaxis(np.concatenate(parts), 0, -1))


@in_plain_torch
def _coarse_features(inversion: Inversion) -> list[Tensor]:
    """Return the maps (1, C, h, w) of the blocks that are coarser than the latent: they tell parts.

    The others follow the texture.
    """
    model = inversion.predictor.model
    index = max(1, round(LEVEL * inversion.count))
    timestep = inversion.schedule.last(inversion.count)[inversion.count - index]
    blocks = tuple(range(model.feature_block_count))
    with torch.no_grad():
        output = inversion.predictor(
            inversion.latents[index], timestep, blocks=blocks, predict=False
        )
    side = inversion.latents[0].shape[-1]
    coarse = [block for block in output.features if block.shape[-1] <= side / 2]
    for block in coarse:
        finite(block, "a feature map")
    return coarse or [output.features[0]]


def _components(maps: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """Return the main components of maps (C, h, w), ``count`` at most, of unit variance in all."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    if count < len(maps):
        flat /= flat.std(axis=1, keepdims=True) + 1e-6
        values, vectors = np.linalg.eigh(flat @ flat.T)
        flat = vectors[:, np.argsort(values)[::-1][:count]].T @ flat
    flat /= np.sqrt((flat**2).sum(axis=0).mean()) + 1e-6
    found: npt.NDArray[np.float32] = flat.reshape(-1, *maps.shape[1:]).astype(np.float32)
    return found
