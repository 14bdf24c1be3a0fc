"""What a click of the tool "select" makes of the mask.

The clicks of one selection belong together: a click outside the mask adds the thing that is there,
a click inside it takes the thing away, and all of them are weighed against each other. Clicks are
remembered by the mask that they made, so undo needs to know nothing of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import XY, BoolArray
from dragwidget.data.image import UInt8Array
from dragwidget.data.instructions import PointPair
from dragwidget.data.selection import select_by_colour, swept
from dragwidget.ui.canvas.raster import dilate

Segment = Callable[[UInt8Array, npt.NDArray[np.float64], BoolArray], npt.ArrayLike]
Select = Callable[[npt.NDArray[np.float64], BoolArray, npt.NDArray[np.float64]], BoolArray | None]

MARGIN = 0.04  # of the shorter side: a mask as tight as a thing holds it where it must give way
REMEMBERED = 200  # masks whose clicks are known


@dataclass(frozen=True, eq=False)
class Clicks:
    """The clicks of one selection: points (N, 2), labels and tolerances (N,), and the mask before.

    A label is True where the click adds.
    """

    base: BoolArray | None
    points: npt.NDArray[np.float64]
    labels: BoolArray
    tolerances: npt.NDArray[np.float64]

    @classmethod
    def none(cls, base: BoolArray | None) -> Clicks:
        return cls(base, np.zeros((0, 2)), np.zeros(0, dtype=bool), np.zeros(0))

    def and_one(self, xy: XY, adds: bool, tolerance: float) -> Clicks:
        return Clicks(
            self.base,
            np.concatenate([self.points, [xy]]),
            np.append(self.labels, adds),
            np.append(self.tolerances, tolerance),
        )


class Selector:
    """Selects what is clicked on one image after another.

    Attributes:
        segment: the user's own; ``None``: ours.
        by_features: asked first where ``segment`` is ``None``; it may return ``None``, and then
            colours decide.
    """

    def __init__(self) -> None:
        self.segment: Segment | None = None
        self.by_features: Select | None = None
        self._known: dict[bytes, Clicks] = {}

    def forget(self) -> None:
        """Forget all clicks: there is another image."""
        self._known.clear()

    def mask_after(
        self, image: UInt8Array, mask: BoolArray | None, xy: XY, tolerance: float
    ) -> tuple[BoolArray, Clicks]:
        """Return the mask (H, W) after a click on ``image`` (H, W, 3), and the clicks behind it."""
        adds = mask is None or not mask[int(xy[1]), int(xy[0])]
        known = Clicks.none(mask) if mask is None else self._known.get(_digest(mask))
        clicks = (known or Clicks.none(mask)).and_one(xy, adds, tolerance)
        return self._mask(image, clicks), clicks

    def parts(self, image: UInt8Array, pairs: Sequence[PointPair], room: float = 0.0) -> BoolArray:
        """Return the mask (H, W) of the things under the handles of ``pairs``, one at least.

        It has the room that they need, too: the straight line to their targets, and a margin.

        Args:
            room: added to the margin, in lengths of the pair.
        """
        mask = np.zeros(image.shape[:2], dtype=bool)
        for pair in pairs:
            one = Clicks.none(None).and_one(pair.handle, adds=True, tolerance=1.0)
            (x, y), (to_x, to_y) = pair.handle, pair.target
            part = self._selected(image, one, one.labels).copy()
            part[int(y), int(x)] = True  # whatever is found: a handle is to be editable
            margin = MARGIN * min(mask.shape) + room * hypot(to_x - x, to_y - y)
            mask |= dilate(swept(part, (to_x - x, to_y - y)), margin)
        return mask

    def remember(self, mask: BoolArray, clicks: Clicks) -> None:
        """Know from now on which clicks made ``mask``."""
        self._known[_digest(mask)] = clicks
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def _mask(self, image: UInt8Array, clicks: Clicks) -> BoolArray:
        whole = np.zeros(image.shape[:2], dtype=bool) if clicks.base is None else clicks.base
        if whole.any() and not clicks.labels.all():  # what is taken away was perhaps painted before
            whole = whole & ~self._selected(image, clicks, ~clicks.labels)
        if clicks.labels.any():
            whole = whole | self._selected(image, clicks, clicks.labels)
        return whole

    def _selected(self, image: UInt8Array, clicks: Clicks, labels: BoolArray) -> BoolArray:
        if self.segment is not None:
            return _checked(self.segment(image, clicks.points.copy(), labels.copy()), image)
        found = None
        if self.by_features is not None:
            found = self.by_features(clicks.points, labels, clicks.tolerances)
        if found is None:
            found = select_by_colour(image, clicks.points, labels, clicks.tolerances)
        return found


def _digest(mask: BoolArray) -> bytes:
    return hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()


def _checked(found: npt.ArrayLike, image: UInt8Array) -> BoolArray:
    """Return what a user's ``segment`` has found; TypeError or ValueError where it is no mask."""
    mask = np.asarray(found)
    if mask.dtype != np.bool_:
        raise TypeError(
            f"canvas.segment must return booleans, got {mask.dtype}: compare with a threshold, "
            "as in scores > 0"
        )
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"canvas.segment must return a mask of shape {image.shape[:2]} (height, width), got "
            f"{mask.shape}: resize it, or take one mask of several"
        )
    return mask
