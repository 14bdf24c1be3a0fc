"""Point tracking: find where each handle's content moved (paper, section 3.3, equation 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dragwidget.drag.features import FeatureMap
from dragwidget.drag.supervision import Anchor, cells_around

__all__ = ["Candidates", "distances", "track_points"]

Candidates = Literal["window", "nearer", "cone"]
"""Which cells of the window a handle may move to; see ``track_points``."""

CONE = math.cos(math.radians(30))


def track_points(
    features: FeatureMap,
    handles: Tensor,
    anchors: Sequence[Anchor],
    *,
    radius: int,
    targets: Tensor | None = None,
    candidates: Candidates = "window",
    trace_back: float = 0.0,
) -> Tensor:
    """Track each handle: the nearest feature in the window around its last position.

    Args:
        features: of the current latent.
        handles: last known handle points, (N, 2) as (row, column).
        anchors: what each handle tracks, (N).
        radius: r_p, cells; the window is cut at the grid's border.
        targets: (N, 2); needed unless all of the window is searched.
        candidates: all of the ``"window"``; only cells that are ``"nearer"`` to the target than the
            handle, or as near (CLIPDrag, Jiang et al., 2025); or only the handle's cell and
            those in a ``"cone"`` of 30 degrees around the direction to the target (DragLoRA, Xia et
            al., 2025).
        trace_back: a handle stays where the mean absolute difference of the nearest feature is
            larger than this (DragLoRA); 0: it never does for that.

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
            if candidates != "window":
                assert targets is not None
                cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
                allowed = _allowed(cells, handle, targets[len(found)], candidates)
                gap = torch.where(allowed.to(gap.device), gap, torch.inf)
            row, column = divmod(int(gap.argmin()), len(columns))
            cell = torch.stack([rows[row], columns[column]])
            lost = trace_back > 0 and float(gap.min()) / len(wanted) > trace_back
            found.append(handle if lost else cell)
    return torch.stack(found)


def _allowed(cells: Tensor, handle: Tensor, target: Tensor, candidates: Candidates) -> Tensor:
    """Return which cells (p, q, 2) a handle may move to, (p, q) bool; its own always."""
    here, way = handle.floor(), target - handle.floor()
    moves = cells - here
    if candidates == "nearer":
        return (target - cells).norm(dim=-1) <= way.norm()
    # A little slack, so that a cell on the cone's edge is in it however its angle is rounded.
    return (moves * way).sum(-1) >= (CONE - 1e-6) * moves.norm(dim=-1) * way.norm()


def distances(handles: Tensor, targets: Tensor) -> Tensor:
    """Return the Euclidean distance of each handle to its target, (N,), cells."""
    distance: Tensor = (targets - handles).norm(dim=-1)
    return distance
