"""Files of nodes long past: a long history fills the disk and not the memory.

They belong to one history of one process, and are removed with it; where that process was killed,
the next history that writes removes them.
"""

from __future__ import annotations

import os
import re
import shutil
import weakref
from contextlib import suppress
from pathlib import Path

from dragwidget.storage.atomic import OWNER, Lock, is_abandoned, owner, remove_folder
from dragwidget.storage.cache import default_folder

ABANDONED = 30 * 24 * 3600.0  # seconds; a process on another machine may pause long and live on
MARK = ".dragwidget-history"  # in each folder of ours; its process holds a lock on it
_FOLDER, _FILE = re.compile(OWNER), re.compile(r"[0-9]+\.safetensors")


class Offload:
    """A folder of nodes' files by number; it exists from the first ``write`` as long as this does.

    Args:
        home: where the folder is made; by default in the user's cache.

    Attributes:
        folder: of this one alone.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(home or default_folder() / "history") / owner()
        self._end: weakref.finalize[[Path, Lock, int], Offload] | None = None

    def write(self, number: int, content: bytes) -> Path:
        """Write a node's file and return its path. Raises OSError."""
        path = self._path(number)
        path.write_bytes(content)
        with suppress(OSError):  # other machines see by this that the process lives
            os.utime(self.folder / MARK)
        return path

    def adopt(self, number: int, path: Path) -> Path:
        """Keep a file that others may remove, by a second name or as a copy. Raises OSError."""
        own = self._path(number)
        try:
            os.link(path, own)
        except OSError:  # on another file system, or one without links
            shutil.copyfile(path, own)
        return own

    def _path(self, number: int) -> Path:
        """Where to write a node's file, which is not there; the folder is."""
        if self._end is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.folder / MARK)
            lock.take()
            self._end = weakref.finalize(self, _end, self.folder, lock, os.getpid())
            _sweep(self.folder.parent)
        elif not self.folder.is_dir():  # somebody removed it: what is written from now on is kept
            self.folder.mkdir(parents=True)
        path = self.folder / f"{number}.safetensors"
        path.unlink(missing_ok=True)  # it may have a second name, under which it is to stay
        return path


def _sweep(home: Path) -> None:
    """Remove what histories of dead processes left: files of ours in folders with our mark."""
    for folder in home.glob("*"):
        mark = folder / MARK
        if not _FOLDER.fullmatch(folder.name) or folder.is_symlink() or not mark.is_file():
            continue
        if is_abandoned(mark, folder.name, ABANDONED):
            remove_folder(folder, MARK, _FILE.fullmatch)


def _end(folder: Path, lock: Lock, process: int) -> None:
    if os.getpid() == process:  # not where a process that was forked ends
        remove_folder(folder, MARK, _FILE.fullmatch)
        lock.release()
