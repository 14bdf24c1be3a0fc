"""Files that appear whole or not at all, and what processes that were killed left behind.

Whether a process is alive is not asked of its number, which another container may have too: a
process holds a lock on what it is writing as long as it lives. Containers on one machine share its
kernel, and so its locks; of another machine, whose locks may not be seen, only what is old counts
as left behind.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

PREFIX, UNFINISHED = ".dragwidget-", ".unfinished"
OWNER = r"[0-9a-f]{16}-[0-9a-f]{16}"  # what ``owner`` gives
ABANDONED = 24 * 3600.0  # seconds after which an unfinished file of another machine is removed
JUST_MADE = 60.0  # seconds in which a file may be made and not yet locked
_NAME = re.compile(re.escape(PREFIX) + f"({OWNER})" + re.escape(UNFINISHED))


@cache
def _machine() -> str:
    """The running kernel: the same for all containers on it, another one after a restart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = socket.gethostname()
    return hashlib.sha256(boot.encode()).hexdigest()[:16]


def owner() -> str:
    """This machine and something that is only here, as part of a file's name."""
    return f"{_machine()}-{secrets.token_hex(8)}"


class Lock:
    """A lock on a file, held from ``take`` until ``release`` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Hold the lock; the file is made.

        Raises OSError, also where another holds the lock: waiting could last as long as that lives.
        """
        file = self.path.open("ab")
        try:
            for last in (False,) * 5 + (True,):  # who only looks holds it for a moment
                if _hold(file):
                    break
                if last:
                    raise OSError(
                        errno.EBUSY, "another edit that is open writes here", str(self.path.parent)
                    )
                time.sleep(0.01)
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _hold(file: IO[bytes], *, wait: bool = False) -> bool:
    """Lock a file as long as it is open; ``False``: another holds the lock, and none waits."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: others go by its age
            pass
    return True


def _is_held(path: Path) -> bool:
    """Whether a process that can be seen from here holds the lock on a file, or it is gone."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here, or not ours to open: not known, so it is left alone
        return True
    return False


def is_abandoned(locked: Path, name: str, seconds: float) -> bool:
    """Whether whoever ``owner`` called ``name``, and who holds the lock on a file, is dead.

    That is known on this machine, a minute after the file was made; of another, only how long ago
    the file was written to.
    """
    if name.partition("-")[0] == _machine() and fcntl is not None:
        seconds = JUST_MADE
    try:
        old = time.time() - locked.stat().st_mtime > seconds
    except OSError:
        return False
    return old and not _is_held(locked)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name, and replaces what had it, when it is whole.

    A process that is killed leaves the old one, and an unfinished file that ``remove_abandoned``
    knows. What a link points to is replaced, not the link. Raises OSError, which names ``path``.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f"{PREFIX}{owner()}{UNFINISHED}")
    try:
        if target.exists() and not target.is_file():  # a device would be gone
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        with unfinished.open("xb") as file:
            _hold(file, wait=True)  # who only looks holds it for a moment
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(unfinished)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_writable(path: Path) -> None:
    """Raise OSError, and say what to do, where ``whole_file`` cannot write; leave nothing there."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if target.exists() and not target.is_file():
        raise OSError(f"{path} is not a plain file: name another place")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in")
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError("it is read-only")
        probe = target.with_name(f"{PREFIX}{owner()}{UNFINISHED}")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        why = error.strerror or error
        raise type(error)(f"{path} cannot be written ({why}): name another place") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a whole file or none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write an entry a line, of tables a row a line, or nothing; ``None``: nothing."""
    if path is None:
        return
    lines = []
    for name, value in content.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        lines.append(f"{json.dumps(name)}: {text}")
    write_whole(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def remove_abandoned(folder: Path) -> None:
    """Remove unfinished files of processes that are dead, and nothing else."""
    for path in folder.glob(f"{PREFIX}*{UNFINISHED}"):
        name = _NAME.fullmatch(path.name)
        if name and not path.is_symlink() and is_abandoned(path, name[1], ABANDONED):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def remove_folder(folder: Path, mark: str, is_ours: Callable[[str], object]) -> None:
    """Remove files of our names, and the folder if nothing but its mark is left in it."""
    remove_abandoned(folder)
    with suppress(OSError):
        for path in folder.iterdir():
            if is_ours(path.name) and not path.is_symlink():
                path.unlink(missing_ok=True)
        if not any(path.name != mark for path in folder.iterdir()):
            (folder / mark).unlink(missing_ok=True)
            folder.rmdir()
