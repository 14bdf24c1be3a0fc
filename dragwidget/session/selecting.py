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
COMPONENTS = 32  # of the features of a block


def regions_of(inversion: Inversion) -> Regions:
    """Return the regions of the source image; one forward pass."""
    pixels = inversion.request.image.pixels
    height, width = pixels.shape[:2]
    scale = min(0.5, MOST_CELLS / max(height, width))  # cells blur the edges of what they join
    grid = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = Image.fromarray(pixels).resize(grid[::-1], Image.Resampling.BOX)
    maps = _coarse_features(inversion)
    parts = [_directions(block, grid) / len(maps) ** 0.5 for block in maps]
    return Regions.of(lab(np.asarray(small)), np.concatenate(parts, axis=-1))


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


def _directions(block: Tensor, grid: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the features of a block (1, C, h, w) on a grid, as unit vectors, (rows, columns, c).

    Half the squared distance of two is one less their cosine, by which features tell parts far
    better than by their difference. Channels are brought to mean 0 and variance 1 before;
    ``COMPONENTS`` dimensions are kept.
    """
    flat = block.float().flatten(2)
    flat = (flat - flat.mean(2, keepdim=True)) / (flat.std(2, keepdim=True) + 1e-6)
    values = FeatureMap((flat.view(block.shape),), grid).full().cpu()
    units = torch.nn.functional.normalize(values.flatten(1), dim=0)
    main = torch.linalg.eigh(units @ units.T).eigenvectors[:, -COMPONENTS:]
    found: npt.NDArray[np.float32] = (units.T @ main).view(*grid, -1).numpy()
    return found
