"""Point tracking: find where each handle's content moved (paper, section 3.3, equation 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dragwidget.drag.features import FeatureMap
from dragwidget.drag.supervision import Anchor, cells_around

__all__ = ["distances", "track_points"]


def track_points(
    features: FeatureMap, handles: Tensor, anchors: Sequence[Anchor], *, radius: int
) -> Tensor:
    """Track each handle: the nearest feature in the window around its last position.

    Args:
        features: of the current latent.
        handles: last known handle points, (N, 2) as (row, column).
        anchors: what each handle tracks, (N).
        radius: r_p, cells; the window is cut at the grid's border.

    Returns:
        The new handle points, (N, 2), whole cells. Of equal matches the first in row-major order
        is taken.
    """
    found = []
    with torch.no_grad():
        for handle, anchor in zip(handles, anchors, strict=True):
            here = anchor.position.floor()
            wanted = anchor.features.patch(here[:1], here[1:])
            rows, columns = cells_around(handle, radius, features.grid)
            gap = (features.patch(rows, columns) - wanted).abs().sum(0)
            row, column = divmod(int(gap.argmin()), len(columns))
            found.append(torch.stack([rows[row], columns[column]]))
    return torch.stack(found)


def distances(handles: Tensor, targets: Tensor) -> Tensor:
    """Return the Euclidean distance of each handle to its target, (N,), cells."""
    distance: Tensor = (targets - handles).norm(dim=-1)
    return distance
