"""Cases that take turns, so that whatever else a machine does falls on all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from dragwidget.bench.memory import Lap, Meter

BASELINE = "baseline"

Case = Callable[[Meter], object]
"""Sets something up, which is not timed, and measures laps of it."""


@dataclass(frozen=True)
class Compare:
    """A row to be: what it is called, our lap, and the reference's; ``unit``: a lap to count in."""

    variant: str
    ours: str
    reference: str = BASELINE
    unit: str | None = None
    reference_unit: str | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """Cases in their order within a round, and the rows that come of their laps."""

    name: str
    cases: tuple[Case, ...]
    rows: tuple[Compare, ...]


@dataclass(frozen=True)
class Row:
    """One line of the result; times are medians.

    Attributes:
        ratio: our seconds over the reference's: below 1 is quicker.
        ratio_range: lowest and highest of the rounds.
        peak: bytes over the weights, at most; weight gradients count. ``None`` where the system
            does not say.
        peak_ratio: our peak over the reference's.
        in_units: our seconds over those of one drag step of ours, where that is of interest.
        reference_in_units: likewise of the reference.
    """

    part: str
    variant: str
    ratio: float
    ratio_range: tuple[float, float]
    seconds: float
    reference_seconds: float
    cpu_seconds: float
    reference_cpu_seconds: float
    cpu_ratio: float | None
    peak: int | None
    reference_peak: int | None
    peak_ratio: float | None
    in_units: float | None = None
    reference_in_units: float | None = None


def measure(
    cases: Sequence[Case], rounds: int, device: torch.device, tick: Callable[[], object]
) -> dict[str, Lap]:
    """Run cases in turns; the median of every lap. Arguments as for ``in_turns``."""
    laps = in_turns(cases, rounds, device, tick)
    return {name: _median(found) for name, found in laps.items()}


def in_turns(
    cases: Sequence[Case], rounds: int, device: torch.device, tick: Callable[[], object]
) -> dict[str, list[Lap]]:
    """Run cases in turns; every lap of each round that counts.

    Args:
        rounds: that are counted; one more goes before them.
        tick: called after each case.
    """
    laps: dict[str, list[Lap]] = {}
    for turn in range(rounds + 1):
        for case in cases:
            meter = Meter(device)
            case(meter)
            for name, lap in meter.laps.items() if turn else ():
                laps.setdefault(name, []).append(lap)
            tick()
    return laps


def _median(laps: Sequence[Lap]) -> Lap:
    peaks = [lap.peak for lap in laps if lap.peak is not None]
    return Lap(
        median(lap.seconds for lap in laps),
        median(lap.cpu_seconds for lap in laps),
        int(median(peaks)) if len(peaks) == len(laps) else None,
    )


def run_part(
    part: Part, rounds: int, device: torch.device, tick: Callable[[], object] = lambda: None
) -> list[Row]:
    """Measure a part; one row for each of its comparisons."""
    laps = in_turns(part.cases, rounds, device, tick)
    return [_row(part.name, compare, laps) for compare in part.rows]


def _row(part: str, compare: Compare, rounds: Mapping[str, Sequence[Lap]]) -> Row:
    laps = {name: _median(found) for name, found in rounds.items()}
    ours, reference = laps[compare.ours], laps[compare.reference]
    ratios = [
        mine.seconds / its.seconds
        for mine, its in zip(rounds[compare.ours], rounds[compare.reference], strict=True)
    ]

    def over(numerator: float | None, denominator: float | None) -> float | None:
        return numerator / denominator if numerator is not None and denominator else None

    def in_laps(lap: Lap, unit: str | None) -> float | None:
        return None if unit is None else over(lap.seconds, laps[unit].seconds)

    return Row(
        part=part,
        variant=compare.variant,
        ratio=ours.seconds / reference.seconds,
        ratio_range=(min(ratios), max(ratios)),
        seconds=ours.seconds,
        reference_seconds=reference.seconds,
        cpu_seconds=ours.cpu_seconds,
        reference_cpu_seconds=reference.cpu_seconds,
        cpu_ratio=over(ours.cpu_seconds, reference.cpu_seconds),
        peak=ours.peak,
        reference_peak=reference.peak,
        peak_ratio=over(ours.peak, reference.peak),
        in_units=in_laps(ours, compare.unit),
        reference_in_units=in_laps(reference, compare.reference_unit),
    )
