"""``dragwidget bench cold``: how long the command line takes from its start to the image."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tqdm import tqdm

from dragwidget.bench.options import add_json
from dragwidget.data.bad_input import positive
from dragwidget.demo.tasks import TASK_KINDS
from dragwidget.storage.atomic import write_json

SHOWN = 12  # packages whose import costs most

# A line of ``-X importtime``: microseconds of the module itself, with all it imports, its name.
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)$", re.MULTILINE)

# Starts a command as a child and tells what that took; the children of this process alone count.
_WATCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - started
use = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
cpu_seconds, peak = use.ru_utime + use.ru_stime, use.ru_maxrss * unit
print(json.dumps([done.returncode, done.stderr, seconds, cpu_seconds, peak]))
"""


@dataclass(frozen=True)
class Cold:
    """What a command took in a process of its own.

    Attributes:
        what: which command.
        seconds: wall time from the start of the process to its end; ``cpu_seconds``: of all its
            threads.
        peak: bytes that were resident at most, the interpreter and all libraries included.
    """

    what: str
    seconds: float
    cpu_seconds: float
    peak: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=positive, default=3, help="new processes of each command")
    parser.add_argument(
        "--task", choices=TASK_KINDS, default="turn", metavar="KIND", help=", ".join(TASK_KINDS)
    )
    parser.add_argument("--lora-steps", type=int, default=0, help="training steps of the LoRA")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if sys.platform == "win32":
        raise OSError("Windows does not tell the peak memory of a process that is over")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        # Nothing that an earlier edit kept is found, and nothing is kept for a later one.
        environment = {**os.environ, "DRAGWIDGET_CACHE": folder}
        drawn = ["demo", "image", str(image), "--task", args.task]
        edit = ["edit", str(image), "--instructions", str(image.with_suffix(".json"))]
        edit += ["--no-store", "--lora-steps", str(args.lora_steps), "--device", "cpu"]
        dragwidget = [sys.executable, "-m", "dragwidget"]
        timed("image", [*dragwidget, *drawn], environment)
        commands = {"--version": ["--version"], "edit --help": ["edit", "--help"], "edit": edit}
        laps: dict[str, list[Cold]] = {name: [] for name in commands}
        with tqdm(total=args.rounds * len(commands), disable=None) as bar:
            for _ in range(args.rounds):
                for name, words in commands.items():
                    laps[name].append(timed(name, [*dragwidget, *words], environment))
                    bar.update()
        dear = imports([sys.executable, "-X", "importtime", "-m", "dragwidget", *edit], environment)
    rows = [_median(lap) for lap in laps.values()]
    sys.stdout.write(table(rows, dear) + "\n")
    write_json(args.json, {"rows": [asdict(row) for row in rows], "import_seconds": dear})
    return 0


def timed(what: str, command: Sequence[str], environment: Mapping[str, str]) -> Cold:
    """Run a command in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    status, stderr, seconds, cpu_seconds, peak = json.loads(done.stdout)
    if status:
        raise RuntimeError(f"dragwidget {what} ended with status {status}: {stderr.strip()}")
    return Cold(what, seconds, cpu_seconds, peak)


def imports(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Seconds that the modules of each package took to import, the dearest first.

    Args:
        command: begins with an interpreter and ``-X importtime``, which adds to every module.
    """
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - started
    spent: Counter[str] = Counter()
    for own, _, name in _IMPORT.findall(done.stderr):
        spent[name.partition(".")[0]] += int(own)
    packages = {name: own / 1e6 for name, own in spent.most_common()}
    return {"whole command": whole, "all imports": sum(packages.values()), **packages}


def table(rows: Sequence[Cold], import_seconds: Mapping[str, float]) -> str:
    """Return the results for a terminal."""
    lines = [f"{'new process':<24}{'seconds':>10}{'cpu, s':>10}{'peak, MB':>10}"]
    lines += [
        f"{row.what:<24}{row.seconds:10.2f}{row.cpu_seconds:10.2f}{row.peak / 1e6:10.0f}"
        for row in rows
    ]
    lines.append("imports of edit, by package, timed one by one, which slows them")
    shown = list(import_seconds.items())[: SHOWN + 2]
    lines += [f"  {name:<22}{seconds:10.2f}" for name, seconds in shown]
    return "\n".join(lines)


def _median(laps: Sequence[Cold]) -> Cold:
    return Cold(
        laps[0].what,
        median(lap.seconds for lap in laps),
        median(lap.cpu_seconds for lap in laps),
        max(lap.peak for lap in laps),
    )
