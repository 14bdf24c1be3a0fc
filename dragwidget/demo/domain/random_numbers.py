"""Random numbers that depend on a seed and a position only: the same in every batch, for ever."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def uniform(seeds: Sequence[int], count: int, stream: int = 0) -> NDArray[np.float64]:
    """(B, count) numbers in [0, 1), row i a function of `seeds[i]` and `stream` alone.

    A counter hashed by splitmix64 (Steele, Lea, Flood 2014), not one of NumPy's generators: their
    streams can differ between versions, and their set-up costs more than an image's numbers.

    >>> bool((uniform([7, 8], 4)[1] == uniform([8], 4)[0]).all())
    True
    """
    with np.errstate(over="ignore"):
        start = _mix(np.asarray(seeds, dtype=np.uint64) + np.uint64(stream << 40))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(start[:, None] + steps)
    numbers: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) / 2.0**53
    return numbers


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
