"""Reads thousands of corrupted inputs of every kind that strangers may send.

    python tests/support/fuzzing.py --count 10000 --heavy 300 [--only json] [--seed 0] [--first N]

Each is read, or refused with one of the documented exceptions and a message of bounded length.
Meanwhile nothing may be written, started, fetched or compiled, and memory stays below a limit. A
fault is told with the number of its input; ``--only KIND --first NUMBER --count 1`` repeats it.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MB = 2**20
MAX_MESSAGE = 3000  # characters
MAX_SECONDS = 20.0  # of one input, of the CPU's time
# Words of Python's own that tell a user nothing; where our own checks should have spoken.
UNCLEAR = re.compile(
    r"not supported between|object is not|positional argument|unexpected keyword|has no attribute"
    r"|object cannot be|integer string conversion|unhashable|must be real number|maximum recursion"
)


class Breach(BaseException):
    """Something was about to be done that no reading may do."""


FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn",
    "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request",
    "webbrowser.open", "shutil.", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir",
    "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.utime",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_breaches: list[str] = []
_watching = False
_hooked = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    bad = event.startswith(FORBIDDEN)
    bad |= event == "open" and bool(arguments[2] & _WRITING) and arguments[0] != os.devnull
    bad |= event == "compile" and arguments[1] == "<string>"
    if bad and not _is_in_own_temporary_folder(event, arguments):
        _breaches.append(f"{event} {arguments!r}"[:300])
        raise Breach(_breaches[-1])


def _is_in_own_temporary_folder(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event is about a file in a temporary folder that the package makes."""
    if event not in ("open", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        return False
    path, fd = str(arguments[0]), arguments[-1]
    if not os.path.isabs(path) and event != "open" and fd is not None and fd >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{fd}"), path)
    return os.path.realpath(path).startswith(os.path.join(tempfile.gettempdir(), "dragwidget-"))


@contextmanager
def watching() -> Iterator[list[str]]:
    """While this lasts, nothing is written or run; gives the list of what was tried."""
    global _watching, _hooked
    if not _hooked:  # there is no way to take an audit hook away
        sys.addaudithook(_audit)
        _hooked = True
    _breaches.clear()
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _watching = True
    try:
        yield _breaches
    finally:
        _watching = False
        sys.dont_write_bytecode = compiled


class Kind:
    """A kind of input.

    Attributes:
        documented: what refuses one.
        own_words: whether every message is of our own making.
        limit: bytes that reading one may take.
        heavy: whether reading one takes long.
    """

    documented: tuple[type[Exception], ...] = (ValueError,)
    own_words = False
    limit = 300 * MB
    heavy = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, chance: random.Random) -> Any:
        """An input, perhaps as files in ``folder``."""
        raise NotImplementedError

    def read(self, given: Any) -> object:
        """Read it, as the package does."""
        raise NotImplementedError


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    kind: str
    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0


def fuzz(name: str, kind: Kind, count: int, seed: int = 0, first: int = 0) -> Tally:
    """Read so many inputs; each is made by the seed and its number alone."""
    tally = Tally(name)
    start = time.monotonic()
    for number in range(first, first + count):
        given = kind.make(random.Random(f"{seed} {name} {number}"))
        tally.inputs += 1
        before, began = _forget_peak(), time.process_time()
        fault = _read(kind, given, tally)
        took, peak = time.process_time() - began, _peak() - before
        tally.slowest, tally.peak = max(tally.slowest, took), max(tally.peak, peak)
        if fault is None and took > MAX_SECONDS:
            fault = f"it took {took:.0f} s"
        if fault is None and peak > kind.limit:
            fault = f"it took {peak / MB:.0f} MB"
        if fault is not None:
            tally.faults.append(f"{name} {number}: {fault}")
        if number % 500 == 0:
            gc.collect()
    tally.seconds = time.monotonic() - start
    return tally


def _read(kind: Kind, given: Any, tally: Tally) -> str | None:
    """Read one input; what is wrong about how that went."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with watching() as breaches:
                kind.read(given)
        tally.accepted += 1
    except kind.documented as error:
        tally.refused[type(error).__name__] += 1
        said = str(error)
        if not said or len(said) > MAX_MESSAGE:
            return f"a message of {len(said)} characters: {said[:200]}"
        if kind.own_words and UNCLEAR.search(said):
            return f"an unclear message: {said[:300]}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        tally.refused[type(error).__name__] += 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
    return f"it tried {breaches[0]}" if breaches else None


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _forget_peak() -> int:
    """Resident bytes now, from which the peak is counted anew; 0 where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return 0


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return 0


@contextmanager
def bounded_memory(more: int) -> Iterator[None]:
    """Let what would take so many bytes more fail at once, and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        size = _status("VmSize")
    except OSError:
        size = 0
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def table(tallies: list[Tally]) -> str:
    lines = ["kind      inputs accepted  seconds  slowest  peak MB  faults  refused"]
    for t in tallies:
        refused = ", ".join(f"{name} {count}" for name, count in t.refused.most_common())
        lines.append(
            f"{t.kind:<9} {t.inputs:>6} {t.accepted:>8} {t.seconds:>8.0f} {t.slowest:>8.2f} "
            f"{t.peak / MB:>8.0f} {len(t.faults):>7}  {refused}"
        )
    return "\n".join(lines)


def main() -> int:
    from fuzz_files import FILES
    from fuzz_values import VALUES

    kinds = {**VALUES, **FILES}
    parser = argparse.ArgumentParser(description="Read corrupted inputs of every kind.")
    parser.add_argument("--count", type=int, default=10_000, help="of each kind")
    parser.add_argument("--heavy", type=int, help="of images, LoRAs and models; default: --count")
    parser.add_argument("--only", default=",".join(kinds), help="kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    args = parser.parse_args()
    tallies = []
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            kind = kinds[name](Path(folder))
            heavy = kind.heavy and args.heavy is not None
            count = args.heavy if heavy else args.count
            with bounded_memory(6 * 2**30):
                tallies.append(fuzz(name, kind, count, args.seed, args.first))
        sys.stdout.write(table(tallies[-1:]) + "\n")
        sys.stdout.write("".join(f"  {fault}\n" for fault in tallies[-1].faults[:40]))
        sys.stdout.flush()
    if len(tallies) > 1:
        sys.stdout.write("\n" + table(tallies) + "\n")
    return any(tally.faults for tally in tallies)


if __name__ == "__main__":
    sys.modules["fuzzing"] = sys.modules["__main__"]  # one watch, whoever imports it
    sys.exit(main())
