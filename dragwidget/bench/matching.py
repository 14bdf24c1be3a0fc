"""Where did the content of a point go? Match it by a network's features, where nothing else knows.

DIFT (Tang et al., arXiv 2306.03881), as DragBench's mean distance uses it: both images are noised
to one timestep, one pass gives features, and a handle is where they are most similar (cosine) in
the edited image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dragwidget.data.image import SourceImage, source_image
from dragwidget.data.image_reading import ReadImage
from dragwidget.diffusion.backbone import Backbone
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session.source import fitted

ROWS = 16  # of pixels, whose features are computed at one time


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """The features that points are matched by.

    Attributes:
        blocks: of the network, see ``Backbone.feature_block_count``.
        timestep: that images are noised to, in the model's training steps.
        ensemble: samples of noise that features are averaged over.
        at_own_size: the network sees images as large as they are; else as an edit fits them.
    """

    blocks: tuple[int, ...]
    timestep: int = 261
    ensemble: int = 8
    at_own_size: bool = True

    @classmethod
    def dift(cls) -> Matcher:
        """Return DragBench's choice: the second block of the decoder."""
        return cls(blocks=(2,))

    @classmethod
    def of_editing(cls, model: Backbone) -> Matcher:
        """Return the features that a model's own drags compare."""
        return cls(blocks=model.recommended.drag.feature_blocks, at_own_size=False)


@in_plain_torch
def match_points(
    model: Backbone,
    matcher: Matcher,
    source: ReadImage,
    edited: ReadImage,
    points_xy: npt.NDArray[np.float64],
    prompt: str = "",
) -> npt.NDArray[np.float64]:
    """Return where points of the source are in an edited image of the same size.

    Args:
        points_xy: (N, 2) xy, pixels of the source; the nearest pixel is taken.
        prompt: what the images show.

    Returns:
        (N, 2) xy, whole pixels.

    Raises:
        ValueError: the images differ in size.
    """
    height, width = source.pixels.shape[:2]
    if edited.pixels.shape != source.pixels.shape:
        raise ValueError(
            f"the images must be of one size, got {source.pixels.shape} and {edited.pixels.shape}"
        )
    columns = torch.arange(width)
    # Other noise for either, so that a place is not similar to itself for its noise alone.
    before, after = (
        _features(model, matcher, image, prompt, seed)
        for seed, image in enumerate((source, edited))
    )
    cells = np.rint(points_xy[:, ::-1]).clip(0, (height - 1, width - 1)).astype(int)
    wanted = torch.stack(
        [
            before.patch(torch.tensor([row]), torch.tensor([column]))[:, 0, 0]
            for row, column in cells
        ]
    )  # (N, C)
    wanted = normalize(wanted, dim=1)
    best = torch.full((len(cells),), -torch.inf)
    found = torch.zeros(len(cells), dtype=torch.long)
    for first in range(0, height, ROWS):
        rows = torch.arange(first, min(first + ROWS, height))
        patch = normalize(after.patch(rows, columns), dim=0).flatten(1)  # (C, rows * width)
        similarity, place = (wanted @ patch).max(dim=1)
        better = similarity.cpu() > best
        best = torch.where(better, similarity.cpu(), best)
        found = torch.where(better, place.cpu() + first * width, found)
    return np.stack([found % width, found // width], axis=1).astype(np.float64)


def _features(
    model: Backbone, matcher: Matcher, image: ReadImage, prompt: str, seed: int
) -> FeatureMap:
    """Return the features of an image on the grid of its pixels."""
    height, width = image.pixels.shape[:2]
    seen: SourceImage
    if matcher.at_own_size:
        multiple = model.image_multiple
        seen = source_image(image, multiple=multiple, max_side=max(height, width, multiple))
    else:
        seen = fitted(model, image, None, None)
    latent = model.encode(seen.pixels)
    condition = model.encode_text(prompt, seen.fitted_size)
    signal, noise = model.schedule(1).levels(matcher.timestep)
    generator = torch.Generator().manual_seed(seed)
    blocks: list[Tensor] = []
    with torch.no_grad():
        for _ in range(matcher.ensemble):
            drawn = torch.randn(latent.shape, generator=generator).to(latent.device)
            made = model(
                signal * latent + noise * drawn,
                matcher.timestep,
                condition,
                features=matcher.blocks,
                predict=False,
            ).features
            blocks = [
                new.float() if not blocks else old + new.float()
                for old, new in zip(blocks or made, made, strict=True)
            ]
    return FeatureMap(tuple(blocks), (height, width))
