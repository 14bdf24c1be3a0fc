"""The ink layer: what the page draws under the pointer at once, and its gestures, replayed here.

A page whose layer is at work (``ink.js``) draws a gesture itself and sends it whole, when it ends,
as one message of binary points. Here it is replayed as if each point had come as an event of its
own, so pairs and mask are the same bit for bit. The page shows what it drew until the state that
it gets from here says that the gesture is in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import XY, BoolArray, Size
from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas.overlay import colours
from dragwidget.ui.canvas.pointer import PointerController
from dragwidget.ui.canvas.scene import Scene
from dragwidget.ui.canvas.sketch import MAX_STROKE_POINTS
from dragwidget.ui.canvas.tools import TOOLS
from dragwidget.ui.canvas.viewport import Viewport

COLUMNS = 3  # of a gesture's points: x, y, diameter of the brush
LARGEST = 1e6  # canvas pixels, and a brush's image pixels
MESH = 64  # cells along the image's longer side, in which the page warps it
VIEWS = 16  # pages of one canvas that are answered at a time


class InkHost(Protocol):
    """What the layer needs of the canvas."""

    tool: str
    brush_size: float
    pairs: tuple[PointPair, ...]
    selected: int | None
    read_only: bool
    live_warp: tuple[str, float] | None

    @property
    def size(self) -> Size | None: ...
    @property
    def scene(self) -> Scene: ...


@dataclass(frozen=True)
class DrawnGesture:
    """One gesture, from its press to its release, as the page showed it.

    points: (N, 3), N >= 2: x and y in canvas pixels, and the diameter of the brush there, image
    pixels; the first is the press and the last the release. zoom, centre: of the viewport that it
    was drawn in. image: number of the image that it was drawn on, see ``state``.
    """

    tool: str
    points: npt.NDArray[np.float64]
    is_touch: bool
    zoom: float
    centre: XY
    image: int


def read_gesture(content: Mapping[str, Any], buffers: Sequence[Any]) -> DrawnGesture:
    """Return the gesture that a message holds; ValueError where it holds none."""
    tool, zoom, image = (content.get(name) for name in ("tool", "zoom", "image"))
    if not isinstance(tool, str) or tool not in TOOLS:
        raise ValueError(f"a gesture needs a tool, one of {', '.join(TOOLS)}, got {tool!r:.50}")
    if not _is_number(zoom):
        raise ValueError(f"the zoom of a gesture must be a finite number, got {zoom!r:.50}")
    centre = content.get("centre")
    if not (isinstance(centre, list) and len(centre) == 2 and all(map(_is_number, centre))):
        raise ValueError(f"the centre of a gesture must be two finite numbers, got {centre!r:.50}")
    if type(image) is not int:
        raise ValueError(f"the image of a gesture must be a whole number, got {image!r:.50}")
    if len(buffers) != 1:
        raise ValueError(f"a gesture needs one buffer, its points, got {len(buffers)}")
    data = bytes(buffers[0])
    if len(data) % (8 * COLUMNS) or not 2 <= len(data) // (8 * COLUMNS) <= MAX_STROKE_POINTS:
        raise ValueError(
            f"the points of a gesture must be (N, {COLUMNS}) float64 with N from 2 to "
            f"{MAX_STROKE_POINTS:,}, got {len(data)} bytes"
        )
    points = np.frombuffer(data, dtype="<f8").reshape(-1, COLUMNS)
    if not (np.isfinite(points).all() and np.abs(points).max() <= LARGEST):
        raise ValueError("the points of a gesture must be finite and within a million pixels")
    if not (points[:, 2] > 0).all():
        raise ValueError("the brush of a gesture must be larger than 0 pixels")
    is_touch = bool(content.get("touch"))
    return DrawnGesture(
        tool, points, is_touch, float(zoom), (float(centre[0]), float(centre[1])), image
    )


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(value)


def replay(pointer: PointerController, drawn: DrawnGesture) -> None:
    """Do what the events of this gesture would have done, in the viewport that it was drawn in."""
    scene = pointer.host.scene
    now = scene.viewport
    seen = scene.viewport = now.zoomed(drawn.zoom, drawn.centre)
    try:
        with scene.held():
            first, *moves, last = drawn.points.tolist()
            pointer.state.brush = first[2]
            pointer.press((first[0], first[1]), drawn.is_touch, tool=drawn.tool)
            for x, y, brush in moves:
                pointer.state.brush = brush
                pointer.move((x, y))
            pointer.state.brush = last[2]
            pointer.release((last[0], last[1]))
    finally:
        pointer.state.brush = None
        if scene.viewport is seen:  # the gesture did not move it
            scene.viewport = now


def state(
    host: InkHost, pointer: PointerController, image: int, answered: Mapping[str, int]
) -> dict[str, Any]:
    """Return all that the page needs to go on drawing by itself.

    Args:
        host: the canvas.
        pointer: what is half drawn on it.
        image: number of its image, up by one with each that is set; 0 while there is none.
        answered: of each page, the number of its last message that is in this state.
    """
    look = host.scene.look
    corners = pointer.state.unfinished.get("lasso")
    return {
        "image": image if host.size is not None else 0,
        "tool": host.tool,
        "tools": {tool.key: tool.name for tool in TOOLS.values() if tool.key},
        "readOnly": host.read_only,
        "view": _view(host.scene.viewport),
        "brush": float(host.brush_size),
        "style": look.style,
        "fill": colours("tint" if look.style == "hidden" else look.style, look.tint, look.opacity)[
            0
        ],
        "hasMask": host.scene.mask is not None,
        "pairs": [[*pair.handle, *pair.target] for pair in host.pairs],
        "selected": host.selected,
        "pending": pointer.pending,
        "corners": getattr(corners, "points", []).copy(),
        "warp": _warp(host),
        "answered": dict(answered),
    }


def mesh_of(size: Size) -> tuple[int, int]:
    """Return (h, w) of the mesh over an image of ``size`` (width, height)."""
    width, height = (max(1, round(MESH * side / max(size))) for side in size)
    return height, width


def protected_cells(mask: BoolArray | None) -> bytes:
    """Return the protected region of a mask (H, W) on the mesh, a byte a cell; empty: none."""
    if mask is None:
        return b""
    height, width = mask.shape
    rows, columns = (
        ((np.arange(count) + 0.5) * (side / count)).astype(np.intp)
        for count, side in zip(mesh_of((width, height)), mask.shape, strict=True)
    )
    return (~mask[np.ix_(rows, columns)]).astype(np.uint8).tobytes()


def _warp(host: InkHost) -> dict[str, Any] | None:
    if host.live_warp is None or host.size is None:
        return None
    combine, reach = host.live_warp
    return {"combine": combine, "reach": reach, "mesh": list(mesh_of(host.size))}


def _view(viewport: Viewport) -> dict[str, Any]:
    return {
        "size": viewport.size,
        "canvas": viewport.canvas,
        "fitted": viewport.fitted,
        "zoom": viewport.zoom,
        "centre": viewport.centre,
    }
