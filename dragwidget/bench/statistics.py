"""Error bars and tests for results of tasks, paired where the tasks are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import numpy as np

RESAMPLES = 4000  # of the bootstrap
FLIPS = 20_000  # of the signs


def bootstrap(values: Sequence[float]) -> dict[str, float]:
    """Return the mean and its 95 % interval by resampling the values."""
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(axis=1), [2.5, 97.5])
    return {"mean": float(array.mean()), "low": float(low), "high": float(high)}


def exact_interval(count: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a proportion, count of n (Clopper and Pearson, 1934).

    >>> [round(end, 3) for end in exact_interval(0, 10)]
    [0.0, 0.308]
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"count must be 0 to n and n at least 1, got {count} of {n}")

    def at_most(k: int, p: float) -> float:
        return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))

    def where(k: int, level: float) -> float:
        """The proportion at which ``k`` or fewer have this probability, which falls with it."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(k, middle) > level else (low, middle)
        return low

    low = 0.0 if count == 0 else where(count - 1, 0.975)
    return low, 1.0 if count == n else where(count, 0.025)


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p-value that paired differences are as likely of either sign.

    A permutation test of their mean: all flips of the signs where these are few, else a sample of
    them with the same seed always, so that no p-value is below about 1 / FLIPS.
    """
    array = np.asarray(differences, dtype=np.float64)
    array = array[array != 0]  # they have no sign
    n = len(array)
    if not n:
        return 1.0
    if 2**n <= FLIPS:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = np.random.default_rng(0).integers(2, size=(FLIPS, n))
    sums = np.abs((2 * bits - 1) @ array)
    found = int((sums >= abs(array.sum()) * (1 - 1e-9)).sum())
    return found / 2**n if 2**n <= FLIPS else (found + 1) / (FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many were tested (Holm, 1979), in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, p_values[k] * (len(p_values) - rank)))
        corrected[k] = largest
    return corrected


def differences(
    rows: Mapping[Any, Mapping[str, Any]], reference: Mapping[Any, Mapping[str, Any]], metric: str
) -> list[float]:
    """Return how much a metric of rows is above that of the reference, task by task."""
    return [
        row[metric] - reference[task][metric]
        for task, row in rows.items()
        if task in reference and not reference[task]["error"]
    ]


def add_gains(table: Sequence[tuple[dict[str, Any], Sequence[float]]]) -> None:
    """Give summaries their ``gain``: the mean of their paired differences with its 95 % interval.

    ``p`` in it is by ``sign_flip``, corrected by ``holm`` for all gains of the table (the intervals
    are not). A summary without differences stays as it is.
    """
    there = [(summary, differences) for summary, differences in table if len(differences)]
    corrected = holm([sign_flip(differences) for _, differences in there])
    for (summary, differences), p in zip(there, corrected, strict=True):
        summary["gain"] = {**bootstrap(differences), "p": p}
