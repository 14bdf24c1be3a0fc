"""Files that appear whole or not at all, and what processes that were killed left behind."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["UNFINISHED", "is_abandoned", "owner", "remove_abandoned", "whole_file", "write_whole"]

PREFIX, UNFINISHED = ".dragwidget-", ".unfinished"
ABANDONED = 24 * 3600.0  # seconds after which an unfinished file of another machine is removed


def owner() -> str:
    """This process and nothing else, as part of a file's name."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name, and replaces what had it, when it is whole.

    A process that is killed leaves the old one, and an unfinished file that ``remove_abandoned``
    knows. Raises OSError.
    """
    unfinished = path.with_name(f"{PREFIX}{owner()}{UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a whole file or none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


def remove_abandoned(folder: Path) -> None:
    """Remove unfinished files of processes that are dead, as far as can be known."""
    for path in folder.glob(f"{PREFIX}*{UNFINISHED}"):
        name = path.name.removeprefix(PREFIX).removesuffix(UNFINISHED)
        if is_abandoned(path, name, ABANDONED):
            path.unlink(missing_ok=True)


def is_abandoned(path: Path, name: str, seconds: float) -> bool:
    """Whether the process that ``owner`` called ``name`` is dead.

    That is known of this machine's; of another's, only how long ago the file was written.
    """
    host, _, pid = name.rpartition("-")[0].rpartition("-")
    if host == socket.gethostname() and pid.isdigit() and os.name == "posix":
        return not _is_alive(int(pid))
    try:
        return time.time() - path.stat().st_mtime > seconds
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's
    return True
