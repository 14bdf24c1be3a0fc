"""Point tracking: find where each handle's content moved (paper, section 3.3, equation 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dragwidget.drag.features import FeatureMap
from dragwidget.drag.supervision import Anchor, originals

__all__ = [
    "LOW_CONFIDENCE",
    "Candidates",
    "confidence",
    "distances",
    "low_confidence",
    "track_points",
]

Candidates = Literal["window", "nearer", "cone"]
"""Which cells of the window a handle may move to; see ``track_points``."""

LOW_CONFIDENCE = 0.3  # below this the content of a handle is told to be doubtful
CONE = math.cos(math.radians(30))

# Features that are compared at once: as many as a CPU's cache holds; a GPU wants many more.
AT_ONCE_ON_CPU, AT_ONCE = 2**20, 2**26


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
        features: features of the current latent.
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
        The new handle points, (N, 2), whole cells, where the features are. Of equal matches the
        first in row-major order is taken.

    Raises:
        ValueError: handles and anchors differ in number.
    """
    if len(handles) != len(anchors):
        raise ValueError(f"every handle needs an anchor, got {len(anchors)} for {len(handles)}")
    side = 2 * radius + 1
    with torch.no_grad():
        wanted = originals(anchors, 0)
        handles = handles.to(wanted.device, non_blocking=True)
        corners = handles.trunc() - radius
        gap = _differences(features, corners, side, wanted)
        allowed = features.inside(corners, side)
        offset = torch.arange(side * side, device=corners.device)
        if candidates != "window":
            assert targets is not None
            cells = corners[:, None] + torch.stack([offset // side, offset % side], -1)
            targets = targets.to(wanted.device, non_blocking=True)
            allowed = allowed & _allowed(cells, handles, targets, candidates)
        gap = gap.masked_fill(~allowed, torch.inf)
        best = gap.argmin(-1)
        found = corners + torch.stack([best // side, best % side], -1)
        if trace_back > 0:
            lost = gap.amin(-1) / wanted.shape[-1] > trace_back
            found = torch.where(lost[:, None], handles, found)
    return found


def _differences(features: FeatureMap, corners: Tensor, side: int, wanted: Tensor) -> Tensor:
    """Return sums of |A - B| over channels, (N, side * side).

    Args:
        corners: first cell of each window, (N, 2).
        wanted: what is looked for in each, (N, 1, C).
    """
    one = side * side * wanted.shape[-1]
    count = max(1, (AT_ONCE_ON_CPU if wanted.device.type == "cpu" else AT_ONCE) // one)
    found = [
        features.squares(some, side).sub_(this).abs_().sum(-1)
        for some, this in zip(torch.split(corners, count), torch.split(wanted, count), strict=True)
    ]
    return torch.cat(found)


def _allowed(cells: Tensor, handles: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
    """Return which cells (N, m, 2) each handle may move to, (N, m) bool; its own always."""
    here, targets = handles[:, None].floor(), targets[:, None]
    way, moves = targets - here, cells - here
    allowed: Tensor
    if candidates == "nearer":
        allowed = (targets - cells).norm(dim=-1) <= way.norm(dim=-1)
    else:  # with a little slack: a cell on the cone's edge is in it however its angle is rounded
        allowed = (moves * way).sum(-1) >= (CONE - 1e-6) * moves.norm(dim=-1) * way.norm(dim=-1)
    return allowed


def confidence(
    features: FeatureMap, handle: Tensor, original: FeatureMap, drawn: Tensor, *, radius: int
) -> float:
    """Return how surely what is under a handle is what it was drawn on, 0 to 1.

    The product of two numbers. Likeness: 1 - d / d_mean, where d is the difference of the features
    under the handle from those that it was drawn on, and d_mean is that of all cells of the
    original. Drag-back (after DragLoRA, Xia et al., 2025): what is under the handle is sought in
    the whole original; found e cells from where it was drawn, exp(-(e / 2 r_p)^2).

    It tells of the content, not of the distance to the target.

    Args:
        features: features of the current latent.
        handle: where it is there, (2,) as (row, column).
        original: features of the latent that it was drawn on.
        drawn: where it was drawn, (2,).
        radius: r_p, cells.
    """
    # The maps of the network are enough: the feature grid is finer than what they hold.
    size = (
        max(block.shape[2] for block in original.blocks),
        max(block.shape[3] for block in original.blocks),
    )
    scale = torch.tensor(original.grid) / torch.tensor(size)
    with torch.no_grad():
        whole = FeatureMap(original.blocks, size).full()
        here, there = (
            found.patch(place[:1], place[1:])
            for found, place in ((features, handle), (original, drawn))
        )
        from_there, from_here = ((whole - one).abs().mean(0) for one in (there, here))
        gap = float((here - there).abs().mean() / from_there.mean().clamp(min=1e-12))
        row, column = divmod(int(from_here.argmin()), size[1])
        back = (torch.tensor([row, column]) + 0.5) * scale - 0.5
        # A cell of the network's map has no place within it: half of one is no error.
        error = ((back - drawn).abs() - scale / 2).clamp(min=0).norm()
    return max(0.0, 1 - gap) * math.exp(-(float(error / max(1, 2 * radius)) ** 2))


def low_confidence(confidences: Sequence[float]) -> str:
    """Return the pairs whose confidence is low, with it; empty where none is."""
    return ", ".join(
        f"pair {k} ({value:.2f})"
        for k, value in enumerate(confidences, start=1)
        if value < LOW_CONFIDENCE
    )


def distances(handles: Tensor, targets: Tensor) -> Tensor:
    """Return the Euclidean distance of each handle to its target, (N,), cells."""
    distance: Tensor = (targets - handles).norm(dim=-1)
    return distance
