"""Tensors of steps long past, in files: a long history fills the disk and not the memory.

They belong to one history of one process, and are removed with it; where that process was killed,
the next history that writes removes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dragwidget.storage.atomic import OWNER, Lock, is_abandoned, owner
from dragwidget.storage.cache import default_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Offload"]

ABANDONED = 30 * 24 * 3600.0  # seconds; a process on another machine may pause long and live on
MARK = ".dragwidget-history"  # in each folder of ours; its process holds a lock on it
_FOLDER, _FILE = re.compile(OWNER), re.compile(r"[0-9]+\.safetensors")


class Offload:
    """A folder of tensors by number, which exists from the first ``write`` as long as this does.

    Args:
        home: where the folder is made; by default in the user's cache.

    Attributes:
        folder: of this one alone.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self._home = None if home is None else Path(home)
        self._folder: Path | None = None
        self._digests: dict[int, bytes] = {}
        self._end: weakref.finalize[[Path, Lock, int], Offload] | None = None

    @property
    def folder(self) -> Path:
        if self._folder is None:
            home = default_folder() / "history" if self._home is None else self._home
            self._folder = home / owner()
        return self._folder

    def write(self, number: int, tensor: Tensor) -> None:
        """Write a tensor; one that is there is not written again. Raises OSError."""
        from safetensors.torch import save

        if number in self._digests and self._file(number).exists():
            return
        content = save({"node": tensor.detach().cpu().contiguous()})
        if self._end is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.folder / MARK)
            lock.take()
            self._end = weakref.finalize(self, _end, self.folder, lock, os.getpid())
            _sweep(self.folder.parent)
        elif not self.folder.is_dir():  # somebody removed it: what is written from now on is kept
            self.folder.mkdir(parents=True)
        self._file(number).write_bytes(content)
        self._digests[number] = hashlib.sha256(content).digest()
        with suppress(OSError):  # other machines see by this that the process lives
            os.utime(self.folder / MARK)

    def read(self, number: int) -> Tensor:
        """The tensor that was written, on the CPU.

        Raises:
            OSError: it is not there any more, or was changed.
        """
        from safetensors.torch import load

        path = self._file(number)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the latent of node {number} of the history is gone: it was in {self.folder}, and "
                "somebody removed it; go on from a later node, those are in memory"
            ) from error
        if hashlib.sha256(content).digest() != self._digests[number]:
            raise OSError(
                f"the latent of node {number} of the history is lost: {path} is damaged; go on "
                "from a later node, those are in memory"
            )
        tensor: Tensor = load(content)["node"]
        return tensor

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"


def _sweep(home: Path) -> None:
    """Remove what histories of dead processes left: files of ours in folders with our mark."""
    for folder in home.glob("*"):
        mark = folder / MARK
        if not _FOLDER.fullmatch(folder.name) or folder.is_symlink() or not mark.is_file():
            continue
        if is_abandoned(mark, folder.name, ABANDONED):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove our files, and the folder if nothing else is in it."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _FILE.fullmatch(path.name) and not path.is_symlink():
                path.unlink(missing_ok=True)
        if not any(path.name != MARK for path in folder.iterdir()):
            (folder / MARK).unlink(missing_ok=True)
            folder.rmdir()


def _end(folder: Path, lock: Lock, process: int) -> None:
    if os.getpid() == process:  # not where a process that was forked ends
        _remove(folder)
        lock.release()
