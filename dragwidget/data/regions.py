"""A hierarchy of the regions of an image: what belongs to a clicked place, small to large.

Pixels that are alike are joined to small regions (Felzenszwalb, Huttenlocher: Efficient Graph-Based
Image Segmentation, IJCV 2004), and those step by step to larger ones, each time the two neighbours
whose union is the least mixed (Ward 1963). The regions around a place are nested; a click chooses
one of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import BoolArray

__all__ = ["Regions"]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int_]

SCALE = 10.0  # units of colour: how much a single pixel may differ from another that it joins
LEAST_CELLS = 3  # of a smallest region
LEAST_SHARE, MOST_SHARE = 0.004, 0.5  # of the image, that a click likely means
BY_SIZE, BY_LASTING, BY_BORDER = 0.3, 0.2, 5.0  # weights of what makes a region likely
MOST_CHANGE, LEEWAY = 3.0, 0.3  # by a correction: share of what is selected; of distinctness
BESIDE = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
SMALLEST_HEIGHT = 1e-4
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True, eq=False)
class Regions:
    """Nested regions of an image of (h, w) cells; the smallest come first, the whole is the last.

    Attributes:
        colours: of every cell, (h, w, 3) CIELAB.
        places: of every cell's smallest region, (h, w), in an order in which each region is a run.
        leaf: number of the smallest region of every cell, (h, w).
        first, after: where the run of each region begins, and what comes after it, (R,).
        parents: the region that each is joined to, (R,); the last one's is itself.
        heights: how mixed each region is, (R,): variance times share of the image; a parent's is
            greater.
    """

    colours: Floats
    places: Ints
    leaf: Ints
    first: Ints
    after: Ints
    parents: Ints
    heights: npt.NDArray[np.float64]

    @classmethod
    def of(cls, colours: Floats, description: Floats) -> Regions:
        """Make the hierarchy.

        Args:
            colours: (h, w, 3) CIELAB: what the smallest regions are made by.
            description: (h, w, C): what decides which of them belong together.
        """
        leaf = _smallest(colours)
        parents, heights = _joined(leaf, description)
        count = int(leaf.max()) + 1
        children: list[list[int]] = [[] for _ in parents]
        for child, parent in enumerate(parents[:-1]):
            children[parent].append(child)
        first, after = np.zeros(len(parents), dtype=int), np.zeros(len(parents), dtype=int)
        sizes = np.ones(len(parents), dtype=int)
        for region in range(count, len(parents)):
            sizes[region] = sum(sizes[child] for child in children[region])
        for region in reversed(range(len(parents))):  # parents before their children
            start = first[region]
            after[region] = start + sizes[region]
            for child in children[region]:
                first[child] = start
                start += sizes[child]
        return cls(colours, first[leaf], leaf, first, after, np.array(parents), np.array(heights))

    def likely(self, around: Sequence[int]) -> int:
        """Return the region, of nested ones, that a click on them most likely means.

        That is a distinct one that stays as it is for long while regions are joined.
        """
        return max(around, key=self._likeness)

    def _likeness(self, region: int) -> float:
        inside = self.cells(region)
        if inside.mean() < LEAST_SHARE:
            return -np.inf
        lasting = self.heights[self.parents[region]] / self.heights[region]
        return self.distinctness(inside) + BY_LASTING * float(np.log(lasting))

    def distinctness(self, inside: BoolArray) -> float:
        """Return how much a mask (h, w) looks like a whole thing; comparable within one image.

        That is a large one that differs from what is beside it and does not run along the border
        of the image. Of nothing, and of more than ``MOST_SHARE``, it is minus infinity.
        """
        share = float(inside.mean())
        if not 0 < share <= MOST_SHARE:
            return -np.inf
        steps = [
            np.linalg.norm(self.colours[here] - self.colours[there], axis=-1)[
                inside[here] != inside[there]
            ]
            for here, there in BESIDE
        ]
        contrast = float(np.concatenate(steps).mean()) + 1e-6
        frame = [inside[0], inside[-1], inside[:, 0], inside[:, -1]]
        along = float(np.concatenate(frame).mean())
        return float(np.log(contrast * share**BY_SIZE)) - BY_BORDER * along

    def likely_change(self, found: BoolArray, around: Sequence[int], is_on: bool) -> int | None:
        """Return the region, of nested ones, that a click to correct a mask most likely means.

        Adding it, or taking it away, leaves the most distinct mask, and changes at most
        ``MOST_CHANGE`` times as many cells as are selected. ``None``: each makes the mask less
        distinct.

        Args:
            found: the mask (h, w) before the click.
            around: the regions to choose from, the smallest first.
            is_on: whether the region is added.
        """
        selected, best, most = int(found.sum()), None, self.distinctness(found) - LEEWAY
        for region in around:
            changed = found.copy()
            changed[self.cells(region)] = is_on
            if abs(int(changed.sum()) - selected) > MOST_CHANGE * selected:
                break
            if (score := self.distinctness(changed)) > most:
                best, most = region, score
        return best

    def cells(self, region: int) -> BoolArray:
        """Return the cells of a region, (h, w)."""
        inside: BoolArray = (self.places >= self.first[region]) & (self.places < self.after[region])
        return inside

    def around(self, row: int, column: int) -> list[int]:
        """Return the regions that a cell lies in, the smallest first."""
        found = [int(self.leaf[row, column])]
        while (parent := int(self.parents[found[-1]])) != found[-1]:
            found.append(parent)
        return found


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


def _joined(leaf: Ints, description: Floats) -> tuple[list[int], list[float]]:
    """Return the parent of every region, smallest first, and how mixed each is."""
    flat = leaf.ravel()
    count = int(flat.max()) + 1
    size = np.bincount(flat).astype(float).tolist()
    sums = np.stack(
        [np.bincount(flat, channel) for channel in description.reshape(flat.size, -1).T]
    )
    means = list((sums / size).T)
    beside: list[set[int]] = [set() for _ in range(count)]
    for here, there in BESIDE:
        both = np.stack([leaf[here].ravel(), leaf[there].ravel()], axis=1)
        for a, b in np.unique(both, axis=0).tolist():
            if a != b:
                beside[a].add(b)
                beside[b].add(a)

    def mixing(a: int, b: int) -> float:
        apart = means[a] - means[b]
        return float(apart @ apart * size[a] * size[b] / (size[a] + size[b]) / flat.size)

    queue = [(mixing(a, b), a, b) for a in range(count) for b in beside[a] if a < b]
    heapq.heapify(queue)
    parents, heights, is_open = list(range(count)), [SMALLEST_HEIGHT] * count, [True] * count
    while queue:
        mixed, a, b = heapq.heappop(queue)
        if not (is_open[a] and is_open[b]):
            continue
        new = len(parents)
        parents[a] = parents[b] = new
        is_open[a] = is_open[b] = False
        parents.append(new)
        is_open.append(True)
        heights.append(max(mixed, 1.001 * heights[a], 1.001 * heights[b]))
        size.append(size[a] + size[b])
        means.append((means[a] * size[a] + means[b] * size[b]) / size[new])
        beside.append({c for c in beside[a] | beside[b] if is_open[c]})
        for c in beside[new]:
            beside[c].add(new)
            heapq.heappush(queue, (mixing(c, new), c, new))
    return parents, heights
