"""The regions of an image, and which of them a click means.

Pixels that are alike are joined to small regions (Felzenszwalb, Huttenlocher: Efficient Graph-Based
Image Segmentation, IJCV 2004). A random walk starts at the clicked one and crosses a border the
more likely, the longer it is and the more alike both sides are; it ends where it leaves the image,
or anywhere, seldom (Grady: Random Walks for Image Segmentation, IEEE TPAMI 2006). The regions in
the order of how often it visits them, up to each of them, are the candidates: some hundred, by
walks for which colours and features count differently. The click means the candidate that is most
likely by its border, its colours and where in it the click is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import BoolArray

__all__ = ["Regions"]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int_]
Measures = dict[str, Floats]  # of each of K candidates, (K,)
Cell = tuple[int, int]  # (row, column)

SCALE = 10.0  # units of colour: how much a single pixel may differ from another that it joins
LEAST_CELLS = 3  # of a smallest region
# How much both sides of a border differ where a walk crosses it e times less often: in units of
# CIELAB, and in features.
WALKS = ((10.0, 0.4), (10.0, 0.2), (20.0, 0.1), (30.0, 0.2))
FROM_ALL = (0, 2)  # the walks that start at earlier clicks, too
ENDS, LEAVES = 1e-4, 0.03  # how often a walk ends, by cells and by cells of the frame
MIDDLE = 0.1  # of the root of an area: so near to its middle, a click is in the middle
NEAR = 1  # cells: a click so near to the edge of what is selected means only the edge
WEAK = 4.0  # units of CIELAB: a border of so little contrast is none
LARGE = 0.3  # of the image: few mean more
BESIDE = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))

# How much each measure makes a candidate likely, fitted to parts of 60 scenes of the synthetic
# domain: of the first click; of a further one, by what it changes and by what is then selected.
FIRST = {"weak": -5.6, "frame": -5.8, "large": -4.3, "off": -18.0, "mixed": -0.45, "cut": -1.8}
CHANGE = {"weak": -5.1, "off": -2.5, "mixed": -0.26, "depth": 1.66, "size": -0.46}
WHOLE = {"weak": -2.2, "frame": -1.6, "large": -1.8, "cut": -0.86}


@dataclass(frozen=True, eq=False)
class Regions:
    """The small regions of an image of (h, w) cells, and how they are beside each other.

    Attributes:
        leaf: number of the region of every cell, (h, w), from 0.
        areas: cells of each region, (R,).
        frame: cells of each region along the border of the image, (R,).
        middles: of each region, (R, 2) as (row, column).
        colours: mean of each region, (R, 3) CIELAB.
        pairs: regions that touch, (E, 2).
        lengths: of the border between them, (E,) cells.
        steps: mean difference of colour along it, (E,).
        links: how easily a walk crosses it, (len(WALKS), E).
    """

    leaf: Ints
    areas: Floats
    frame: Floats
    middles: Floats
    colours: Floats
    pairs: Ints
    lengths: Floats
    steps: Floats
    links: Floats

    @classmethod
    def of(cls, colours: Floats, description: Floats) -> Regions:
        """Find the regions.

        Args:
            colours: (h, w, 3) CIELAB.
            description: (h, w, C): half the squared distance of two places is how their features
                differ.
        """
        leaf = _smallest(colours)
        flat = leaf.ravel()
        areas = np.bincount(flat).astype(float)

        def means(values: Floats) -> Floats:
            channels = values.reshape(flat.size, -1).T
            sums = np.stack([np.bincount(flat, channel) for channel in channels], axis=1)
            found: Floats = sums / areas[:, None]
            return found

        borders = [
            np.stack([leaf[here], leaf[there]], axis=-1)[leaf[here] != leaf[there]]
            for here, there in BESIDE
        ]
        apart = [
            np.linalg.norm(colours[here] - colours[there], axis=-1)[leaf[here] != leaf[there]]
            for here, there in BESIDE
        ]
        pairs, which = np.unique(
            np.sort(np.concatenate(borders), axis=1), axis=0, return_inverse=True
        )
        lengths = np.bincount(which.ravel(), minlength=len(pairs)).astype(float)
        mean, described = means(colours), means(description)
        a, b = pairs.T
        by_colour = np.linalg.norm(mean[a] - mean[b], axis=1)
        by_features = ((described[a] - described[b]) ** 2).sum(axis=1) / 2
        edge = np.concatenate([leaf[0], leaf[-1], leaf[:, 0], leaf[:, -1]])
        return cls(
            leaf,
            areas,
            np.bincount(edge, minlength=len(areas)).astype(float),
            means(np.moveaxis(np.indices(leaf.shape, dtype=float), 0, -1)),
            mean,
            pairs,
            lengths,
            np.bincount(which.ravel(), np.concatenate(apart), len(pairs)) / lengths,
            np.stack([lengths * np.exp(-by_colour / c - by_features / f) for c, f in WALKS]),
        )

    def meant(
        self,
        found: BoolArray,
        cell: Cell,
        is_on: bool,
        earlier: Sequence[tuple[Cell, bool]] = (),
        factor: float = 1.0,
    ) -> BoolArray:
        """Return the cells (h, w) that a click most likely means: to be added, or taken away.

        Args:
            found: what is selected so far, (h, w).
            cell: where the click is.
            is_on: whether what it means is added.
            earlier: the clicks before, and whether each added; what holds one of the other kind is
                not meant.
            factor: how many times as large the answer may be.
        """
        start, selected = int(self.leaf[cell]), self._mostly(found)
        same = [int(self.leaf[at]) for at, was_on in earlier if was_on == is_on]
        other = np.zeros(len(self.areas), dtype=bool)
        other[[int(self.leaf[at]) for at, was_on in earlier if was_on != is_on]] = True
        free = ~other & (selected != is_on)
        only = np.zeros_like(found)
        only[cell] = True
        if not free[start]:
            return only
        if selected.any() and factor <= 1 and _depths(free[None], self.leaf, cell)[0][0] <= NEAR:
            return only  # the edge of what is selected
        walks = [self._walk(walk, [start], free, other) for walk in range(len(WALKS))]
        if is_on and same:
            walks += [self._walk(walk, [start, *same], ~other, other) for walk in FROM_ALL]
        parts = np.concatenate(walks) & free
        likely = self._likeness(parts, selected, cell, is_on)
        best = int(likely.argmax())
        chosen: BoolArray = parts[best]
        if factor != 1:
            walk = np.repeat(range(len(walks)), [len(nested) for nested in walks])
            nested = parts[walk == walk[best]]
            fitting = nested[nested @ self.areas <= factor * (chosen @ self.areas)]
            chosen = fitting[-1] if len(fitting) else nested[0]
        cells: BoolArray = chosen[self.leaf]
        return cells

    def _mostly(self, mask: BoolArray) -> BoolArray:
        """Return the regions, (R,), that lie in a mask (h, w) by more than half."""
        inside = np.bincount(self.leaf.ravel(), mask.ravel(), len(self.areas))
        most: BoolArray = inside > self.areas / 2
        return most

    def _walk(
        self, walk: int, starts: Sequence[int], free: BoolArray, ends: BoolArray
    ) -> BoolArray:
        """Return candidates, each with one more region than the one before, (K, R).

        Args:
            walk: which of ``WALKS``.
            starts: regions where it starts.
            free: the regions that a walk may visit, (R,).
            ends: those where it ends, (R,).
        """
        links = np.zeros((len(self.areas),) * 2)
        a, b = self.pairs.T
        links[a, b] = links[b, a] = self.links[walk]
        index, known = np.nonzero(free)[0], np.isin(np.nonzero(free)[0], starts)
        within = links[np.ix_(index, index)]
        leaving = links[index][:, free | ends].sum(axis=1)
        leaving += ENDS * self.areas[index] + LEAVES * self.frame[index]
        system = (np.diag(leaving) - within)[np.ix_(~known, ~known)]
        visits = np.ones(len(index))
        visits[~known] = np.linalg.solve(system, within[np.ix_(~known, known)].sum(axis=1))
        order = np.append(np.nonzero(known)[0], np.nonzero(~known)[0][np.argsort(-visits[~known])])
        parts = np.zeros((len(index), len(self.areas)), dtype=bool)
        parts[:, index[order]] = np.tri(len(index), dtype=bool)
        return parts[max(int(known.sum()) - 1, 0) :]

    def _likeness(self, parts: BoolArray, selected: BoolArray, cell: Cell, is_on: bool) -> Floats:
        """Return how likely a click means each of the candidates (K, R); comparable, (K,).

        Args:
            selected: the regions selected so far, (R,).
            cell: where the click is.
            is_on: whether the candidate is added to them.
        """
        part = self._measures(parts)
        sizes = parts @ self.areas
        middles = parts @ (self.areas[:, None] * self.middles) / sizes[:, None]
        off = np.linalg.norm(middles - cell, axis=1) / np.sqrt(sizes)
        part["off"] = np.maximum(off - MIDDLE, 0)
        after = parts | selected if is_on else selected & ~parts
        some = after.any(axis=1) & ~after.all(axis=1)
        if not selected.any():
            return np.where(some, _weighted(part, FIRST), -np.inf)
        depth, deepest = _depths(parts, self.leaf, cell)
        part["depth"] = np.log(np.maximum(depth, 0.5) / np.maximum(deepest, 1))
        part["size"] = np.log(sizes / self.leaf.size + 1e-4)
        likely = _weighted(part, CHANGE) + _weighted(self._measures(after), WHOLE)
        return np.where(some, likely, -np.inf)

    def _measures(self, parts: BoolArray) -> Measures:
        """Return what can be said of masks (K, R): of their borders, colours and places.

        ``weak``: share of the border without contrast; ``cut``: how easily a walk leaves the mask,
        by how much it walks within, as a logarithm; ``mixed``: how colours vary, likewise;
        ``frame``: share of the frame of the image; ``large``: share of the image beyond ``LARGE``.
        """
        inside = parts.astype(np.float32)
        a, b = self.pairs.T
        crossed = (parts[:, a] != parts[:, b]).astype(np.float32)
        weak, links = self.lengths * np.exp(-self.steps / WEAK), self.links[0]
        border, weak, left = (crossed @ np.stack([self.lengths, weak, links], axis=1)).T
        walks = 2 * self.areas + np.bincount(
            self.pairs.ravel(), np.repeat(links, 2), len(self.areas)
        )
        sizes = np.maximum(inside @ self.areas, 1)
        mean = inside @ (self.areas[:, None] * self.colours) / sizes[:, None]
        squares = inside @ (self.areas * (self.colours**2).sum(axis=1)) / sizes
        walked = inside @ walks
        least = np.maximum(np.minimum(walked, walks.sum() - walked), 1)
        return {
            "weak": weak / np.maximum(border, 1),
            "cut": np.log(left / least + 1e-4),
            "mixed": np.log(np.maximum(squares - (mean**2).sum(axis=1), 0) + 10),
            "frame": inside @ self.frame / self.frame.sum(),
            "large": np.maximum(sizes / self.leaf.size - LARGE, 0),
        }


def _weighted(measures: Measures, weights: dict[str, float]) -> Floats:
    names, values = list(weights), np.array(list(weights.values()))
    found: Floats = values @ np.stack([measures[name] for name in names])
    return found


def _depths(masks: BoolArray, leaf: Ints, cell: Cell) -> tuple[Floats, Floats]:
    """Return how deep a cell lies in masks (K, R), and the deepest one, in cells, (K,) each.

    ``leaf`` (h, w) says which region a cell is of. The frame of the image is no border. Eight masks
    are eroded at once, as the bits of a byte.
    """
    bits = np.pad(np.packbits(masks, axis=0)[:, leaf], ((0, 0), (1, 1), (1, 1)), mode="edge")
    row, column = cell[0] + 1, cell[1] + 1
    depth, deepest = np.zeros(len(masks)), np.zeros(len(masks))
    for step in range(sum(leaf.shape)):
        left = np.bitwise_or.reduce(bits[:, 1:-1, 1:-1], axis=(1, 2))
        if not left.any():
            break
        depth += np.unpackbits(bits[:, row, column], count=len(masks))
        deepest += np.unpackbits(left, count=len(masks))
        smaller = bits.copy()
        smaller[:, 1:] &= bits[:, :-1]
        smaller[:, :-1] &= bits[:, 1:]
        across = smaller.copy() if step % 2 else bits  # in turn by corners and by sides: octagons
        smaller[:, :, 1:] &= across[:, :, :-1]
        smaller[:, :, :-1] &= across[:, :, 1:]
        bits = smaller
    return depth, deepest


def _smallest(colours: Floats) -> Ints:
    """Return the number of the smallest region of every cell, (h, w), from 0."""
    height, width = colours.shape[:2]
    index, values = np.arange(height * width).reshape(height, width), colours.reshape(-1, 3)
    pairs = []
    for down, across in NEIGHBOURS:
        here = index[: height - down, max(0, -across) : width - max(0, across)]
        pairs.append(np.stack([here, here + down * width + across], axis=-1).reshape(-1, 2))
    edges = np.concatenate(pairs)
    weights = np.linalg.norm(values[edges[:, 0]] - values[edges[:, 1]], axis=1)
    order = np.argsort(weights, kind="stable")
    sorted_edges, sorted_weights = edges[order].tolist(), weights[order].tolist()
    root, size, mixed = (
        list(range(height * width)),
        [1] * (height * width),
        [0.0] * (height * width),
    )

    def find(cell: int) -> int:
        while root[cell] != cell:
            root[cell] = root[root[cell]]
            cell = root[cell]
        return cell

    for (a, b), weight in zip(sorted_edges, sorted_weights, strict=True):
        a, b = find(a), find(b)
        if a != b and weight <= min(mixed[a] + SCALE / size[a], mixed[b] + SCALE / size[b]):
            root[b], mixed[a] = a, weight
            size[a] += size[b]
    for a, b in sorted_edges:  # a few cells of a blurred edge are no region
        a, b = find(a), find(b)
        if a != b and min(size[a], size[b]) < LEAST_CELLS:
            root[b] = a
            size[a] += size[b]
    roots = np.array([find(cell) for cell in range(height * width)])
    return np.unique(roots, return_inverse=True)[1].reshape(height, width)
