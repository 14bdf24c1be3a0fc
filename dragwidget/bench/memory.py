"""How long a piece of work takes, and how much memory at most."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dragwidget.diffusion.devices import in_table

_PROC = Path("/proc/self")
_MMAP_THRESHOLD, _OF_ITS_OWN = -3, 65536  # of glibc's malloc.h; bytes


@dataclass(frozen=True)
class Lap:
    """What a piece of work took.

    Attributes:
        seconds: wall time.
        cpu_seconds: of all threads of this process.
        peak: bytes, at most at one time, over what was held when its ``Meter`` was made; ``None``
            where the system does not say.
    """

    seconds: float
    cpu_seconds: float
    peak: int | None


class Meter:
    """Measures laps, which may lie in one another.

    Memory is counted from where the meter is made: what is prepared before a lap and held in it
    counts, what was there before the meter does not. On CUDA it is what torch has allocated there,
    on Linux the resident memory of the process; elsewhere nothing is known.

    Attributes:
        laps: by name.
    """

    def __init__(self, device: torch.device) -> None:
        self.laps: dict[str, Lap] = {}
        self._device = device
        _settle(device)
        self._base = _held(device)
        self._peaks: dict[str, int] = {}  # of the laps that are going on

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Measure what happens while this lasts.

        Raises:
            ValueError: there is a lap of this name.
        """
        if name in self.laps or name in self._peaks:
            raise ValueError(f"there is a lap {name!r} already: name this one otherwise")
        self._note_peak()
        known = _forget_peak(self._device)
        self._peaks[name] = 0
        _wait(self._device)
        started, cpu_started = time.perf_counter(), time.process_time()
        try:
            yield
            _wait(self._device)
            seconds = time.perf_counter() - started
            cpu_seconds = time.process_time() - cpu_started
            self._note_peak()
            over = None if self._base is None else max(0, self._peaks[name] - self._base)
            self.laps[name] = Lap(seconds, cpu_seconds, over if known else None)
        finally:
            del self._peaks[name]

    def _note_peak(self) -> None:
        """Tell all laps that are going on what was held at most since the last time."""
        peak = _peak(self._device) or 0
        for name in self._peaks:
            self._peaks[name] = max(self._peaks[name], peak)


def held_memory(device: torch.device) -> int | None:
    """Bytes that are held for good, counted as ``Meter`` does; ``None`` where nobody says."""
    _settle(device)
    return _held(device)


def give_back_at_once() -> None:
    """Let every tensor be memory of its own, from here on, which goes when the tensor goes.

    Else the C library keeps holes between them, more at one time than at another: as much as 3 % of
    what a small model's edit takes. Work takes longer with it.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(_MMAP_THRESHOLD, _OF_ITS_OWN)


def _settle(device: torch.device) -> None:
    """Give back what is held by nothing any more."""
    gc.collect()
    _wait(device)
    if sys.platform == "linux":
        # Not every C library on Linux has it.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xpu":
        torch.xpu.synchronize(device)


def _held(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return in_table(_PROC / "status", "VmRSS") if device.type == "cpu" else None


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return in_table(_PROC / "status", "VmHWM") if device.type == "cpu" else None


def _forget_peak(device: torch.device) -> bool:
    """Count the peak from now on; whether the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type != "cpu":
        return False
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return True
