"""What the user drew on the image, as plain data: point pairs and a mask.

Points are ``(x, y)`` in pixels of the image as it was given; ``frames`` states the convention,
and ``on_grid`` is the one door from there to the cells in which the model works.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import (
    XY,
    BoolArray,
    Grid,
    Size,
    from_grid,
    lost_cells,
    mask_to_latent,
    to_grid,
)
from dragwidget.data.instructions_json import read_json, write_json
from dragwidget.data.packed_mask import PackedMask, pack
from dragwidget.data.quoting import quoted
from dragwidget.data.user_warning import warn_user

__all__ = [
    "DragInstructions",
    "GridInstructions",
    "PointPair",
    "check_prompt",
    "check_size",
    "from_grid",
    "mask_to_latent",
    "on_grid",
    "to_grid",
]

MAX_PAIRS = 100


@dataclass(frozen=True)
class PointPair:
    """Drag what is at ``handle`` to ``target``; both ``(x, y)`` in image pixels.

    Raises:
        TypeError: a point is not two numbers.
        ValueError: a point is not finite.

    Examples:
        >>> PointPair((46, 79), (61, 79))
        PointPair(handle=(46.0, 79.0), target=(61.0, 79.0))
    """

    handle: XY
    target: XY

    def __post_init__(self) -> None:
        object.__setattr__(self, "handle", _point(self.handle, "handle"))
        object.__setattr__(self, "target", _point(self.target, "target"))


@dataclass(frozen=True, eq=False)
class DragInstructions:
    """What the user drew on one image: what goes where and what is editable.

    Immutable; equal and hashed by content.

    Args:
        pairs: 1 to 100 handle and target points, each inside the image.
        size: (width, height) of the image, pixels.
        mask: (H, W), bool or any number type; values > 0 are editable. Held packed, and given as a
            read-only bool array. ``None``: everything is editable. Parts thinner than a latent cell
            are widened to whole cells (``on_grid``); protected lines that thin are not kept.
        prompt: what the image shows; may be empty. An ``EditRequest`` takes it over, and keeps the
            prompt of its instructions equal to its own.

    Raises:
        TypeError: a value of the wrong kind.
        ValueError: a point outside the image, a mask of another size, an all-zero mask, no pair.

    Examples:
        >>> DragInstructions((PointPair((1, 2), (3, 4)),), size=(8, 8), prompt="a fox").targets_xy
        array([[3., 4.]])
    """

    pairs: tuple[PointPair, ...]
    _: KW_ONLY
    size: Size
    mask: BoolArray | None = None
    prompt: str = ""

    def __post_init__(self) -> None:
        size = check_size(self.size)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "pairs", _check_pairs(self.pairs, size))
        if self.mask is not None:
            object.__setattr__(self, "mask", pack(_check_mask(self.mask, size)))
        check_prompt(self.prompt)

    @classmethod
    def from_points(
        cls, points: Any, *, size: Size, mask: npt.ArrayLike | None = None, prompt: str = ""
    ) -> DragInstructions:
        """Return instructions made of points ``(x, y)`` in image pixels.

        ``points`` is either flat, ``[handle, target, handle, target, ...]``, or nested,
        ``[(handle, target), ...]``; lists, tuples, ``PointPair`` and arrays (2N, 2) or (N, 2, 2).

        Examples:
            >>> DragInstructions.from_points([(1, 2), (3, 4)], size=(8, 8)).pairs
            (PointPair(handle=(1.0, 2.0), target=(3.0, 4.0)),)
        """
        array = None if mask is None else np.asarray(mask)
        return cls(_pairs_from_points(points), size=size, mask=array, prompt=prompt)

    def with_pairs(self, pairs: Any) -> DragInstructions:
        """Return the same with other pairs, in any form that ``from_points`` takes."""
        return self.replace(pairs=_pairs_from_points(pairs))

    def with_mask(self, mask: npt.ArrayLike | None) -> DragInstructions:
        """Return the same with another mask (H, W), or with none."""
        return self.replace(mask=mask)

    def with_prompt(self, prompt: str) -> DragInstructions:
        """Return the same with another prompt; points and mask are neither copied nor checked."""
        check_prompt(prompt)
        other = copy(self)
        object.__setattr__(other, "prompt", prompt)
        return other

    def replace(self, **changes: Any) -> DragInstructions:
        """Return the same with the named fields changed, and validated."""
        return dataclasses.replace(self, **changes)

    @property
    def handles_xy(self) -> npt.NDArray[np.float64]:
        """Handle points (N, 2), ``(x, y)``, image pixels."""
        return np.array([pair.handle for pair in self.pairs], dtype=np.float64)

    @property
    def targets_xy(self) -> npt.NDArray[np.float64]:
        """Target points (N, 2), ``(x, y)``, image pixels."""
        return np.array([pair.target for pair in self.pairs], dtype=np.float64)

    @property
    def protected_handles(self) -> list[XY]:
        """The handles in the protected region, whose content stays; none without a mask."""
        mask = self.mask
        if mask is None:
            return []
        handles = (pair.handle for pair in self.pairs)
        return [(x, y) for x, y in handles if not mask[int(y), int(x)]]

    def _content(self) -> tuple[Any, ...]:
        return self.pairs, self.size, vars(self)["_mask"], self.prompt

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DragInstructions):
            return NotImplemented
        return self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def to_json(self) -> str:
        """Return one JSON object in ASCII, versioned, the mask as run lengths."""
        return write_json(
            points=[(pair.handle, pair.target) for pair in self.pairs],
            size=self.size,
            mask=self.mask,
            prompt=self.prompt,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> DragInstructions:
        """Return the instructions that ``to_json`` wrote.

        Safe on text from anyone. Raises ValueError where it is not such an object.
        """
        fields = read_json(text)
        try:
            return cls.from_points(**fields)
        except TypeError as error:
            raise ValueError(f"not drag instructions: {error}") from error


class _MaskField:
    """Keeps the mask of instructions packed, and gives it as an array (H, W), or ``None``."""

    def __get__(self, instructions: DragInstructions, _: object = None) -> Any:
        mask = vars(instructions)["_mask"]
        return mask.unpack() if isinstance(mask, PackedMask) else mask

    def __set__(self, instructions: DragInstructions, mask: Any) -> None:
        vars(instructions)["_mask"] = mask


DragInstructions.mask = _MaskField()  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class GridInstructions:
    """Instructions in the model's frame; see ``on_grid``.

    handles_rc: (N, 2) float32, ``(row, col)``, whole feature cells.
    targets_rc: (N, 2) float32, likewise.
    mask: (h, w) bool, latent cells, True = editable; ``None``: everything is editable.
    grown: cells that were added to the mask for parts of it that are thinner than a cell.
    """

    handles_rc: npt.NDArray[np.float32]
    targets_rc: npt.NDArray[np.float32]
    mask: BoolArray | None
    grown: int = 0


def on_grid(
    instructions: DragInstructions, feature_grid: Grid, latent_grid: Grid
) -> GridInstructions:
    """Take instructions from image pixels to the model's cells. Nothing else converts.

    Args:
        instructions: in pixels of the image as it was given.
        feature_grid: (rows, columns) of the features that supervise and track the points.
        latent_grid: (rows, columns) of the latent.

    Warns (UserWarning) where parts of the mask are so thin that sampling it would lose them: whole
    cells are then editable there.
    """
    mask, grown = instructions.mask, 0
    if mask is not None:
        lost = lost_cells(mask, feature_grid, latent_grid)
        mask = mask_to_latent(mask, feature_grid, latent_grid) | lost
        grown = int(lost.sum())
        if grown:
            width, height = instructions.size
            rows, columns = latent_grid
            warn_user(
                "part of the mask is thinner than one latent cell "
                f"({width / columns:.3g} x {height / rows:.3g} pixels of the image), so {grown} "
                "whole cells were made editable there: draw a wider mask to choose them"
            )
    return GridInstructions(
        handles_rc=to_grid(instructions.handles_xy, instructions.size, feature_grid),
        targets_rc=to_grid(instructions.targets_xy, instructions.size, feature_grid),
        mask=mask,
        grown=grown,
    )


def _point(value: Any, name: str) -> XY:
    value = _as_list(value)
    if not (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(number, Real) and not isinstance(number, bool) for number in value)
    ):
        raise TypeError(f"a {name} point must be two numbers (x, y), got {quoted(value)}")
    try:
        x, y = float(value[0]), float(value[1])
    except OverflowError:  # an int too large for a float
        x = y = math.inf
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"a {name} point must be finite, got {quoted(value)}")
    return x, y


def _pairs_from_points(points: Any) -> tuple[PointPair, ...]:
    """``PointPair``s from points in flat or nested form; see ``DragInstructions.from_points``."""
    points = _as_list(points)
    if not isinstance(points, Sequence) or isinstance(points, str | bytes):
        raise TypeError(
            f"points must be a list of (x, y) or of pairs of them, got {quoted(points)}"
        )
    if len(points) > 2 * MAX_PAIRS:  # before much is made of them
        raise ValueError(
            f"at most {MAX_PAIRS} pairs can be dragged at once, got {len(points)} points"
        )
    points = [_as_list(point) for point in points]
    if points and isinstance(points[0], Sequence) and points[0] and isinstance(points[0][0], Real):
        if len(points) % 2:
            raise ValueError(
                f"a flat list of points alternates handle and target, so its length must be even, "
                f"got {len(points)} points: add the last target or drop the last handle"
            )
        points = list(zip(points[::2], points[1::2], strict=True))
    return tuple(_pair(item) for item in points)


def _as_list(points: Any) -> Any:
    """Return an array of points, or of one, as lists; anything else as it is."""
    if not isinstance(points, np.ndarray):
        return points
    if points.size > 4 * MAX_PAIRS:  # before a list is made of them
        raise ValueError(
            f"at most {MAX_PAIRS} pairs can be dragged at once, got shape {points.shape}"
        )
    return points.tolist()


def _pair(item: Any) -> PointPair:
    if isinstance(item, PointPair):
        return item
    if not isinstance(item, Sequence) or isinstance(item, str | bytes) or len(item) != 2:
        raise TypeError(f"a pair must be (handle, target), each (x, y), got {quoted(item)}")
    return PointPair(item[0], item[1])


def check_size(size: Any) -> Size:
    """(width, height) as two ints; raise TypeError or ValueError where it is no such thing."""
    if not (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(side, Integral) and not isinstance(side, bool) for side in size)
    ):
        raise TypeError(f"size must be two whole numbers (width, height), got {quoted(size)}")
    width, height = int(size[0]), int(size[1])
    if width < 1 or height < 1:
        raise ValueError(f"size must be at least 1 x 1 pixel, got {quoted(size)}")
    return width, height


def _check_pairs(pairs: Any, size: Size) -> tuple[PointPair, ...]:
    if not isinstance(pairs, Sequence) or not all(isinstance(pair, PointPair) for pair in pairs):
        raise TypeError(
            f"pairs must be a tuple of PointPair, got {quoted(pairs)}: "
            "DragInstructions.from_points takes plain numbers"
        )
    if not pairs:
        raise ValueError("no pair of points: give at least one handle and its target")
    if len(pairs) > MAX_PAIRS:
        raise ValueError(f"at most {MAX_PAIRS} pairs can be dragged at once, got {len(pairs)}")
    width, height = size
    targets: dict[XY, XY] = {}
    for number, pair in enumerate(pairs, start=1):
        for name, (x, y) in (("handle", pair.handle), ("target", pair.target)):
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(
                    f"the {name} of pair {number}, ({x}, {y}), is outside the image: "
                    f"x must be in [0, {width}) and y in [0, {height})"
                )
        if targets.setdefault(pair.handle, pair.target) != pair.target:
            x, y = pair.handle
            warn_user(f"the handle ({x}, {y}) has two targets: it will be pulled between them")
    return tuple(pairs)


def _check_mask(mask: Any, size: Size) -> BoolArray:
    values = np.asarray(mask)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"a mask must hold booleans or numbers, got dtype {values.dtype}")
    if values.ndim != 2:
        raise ValueError(
            f"a mask must be (height, width), got shape {values.shape}: "
            "pass one channel, for example mask[..., 0]"
        )
    width, height = size
    if values.shape != (height, width):
        raise ValueError(
            f"the mask is {values.shape[1]} x {values.shape[0]} but the image is "
            f"{width} x {height} (width x height): draw it on the image itself"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("a mask must be finite, got NaN or infinity: use 0 and 1")
    allowed: BoolArray = values > 0
    if not allowed.any():
        raise ValueError(
            "the mask is zero everywhere, so the whole image is protected: "
            "draw the editable region, or pass None to make everything editable"
        )
    allowed.setflags(write=False)
    return allowed


def check_prompt(prompt: Any) -> None:
    """Raise TypeError or ValueError where this is no text."""
    if not isinstance(prompt, str):
        raise TypeError(f"the prompt must be a string, got {quoted(prompt)}")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # half an emoji: no tokenizer takes it
        raise ValueError(f"the prompt is not valid text: {error}") from error
