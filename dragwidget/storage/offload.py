"""Tensors of steps long past, in files: a long history fills the disk and not the memory.

They belong to one history of one process, and go with it; where that was killed, when the next
history begins.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from dragwidget.storage.atomic import is_abandoned, owner
from dragwidget.storage.cache import default_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Spill"]

ABANDONED = 30 * 24 * 3600.0  # seconds; a process on another machine may pause long and live on


class Spill:
    """A folder of tensors by number, which is there from the first ``write`` as long as this is.

    Args:
        home: where the folder is made; by default in the user's cache.

    Attributes:
        folder: of this one alone.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self._home = default_folder() / "history" if home is None else Path(home)
        self.folder = self._home / owner()
        self._digests: dict[int, bytes] = {}
        self._end: weakref.finalize[[Path, int], Spill] | None = None
        for other in self._home.glob("*"):
            if is_abandoned(other, other.name, ABANDONED):
                shutil.rmtree(other, ignore_errors=True)

    def write(self, number: int, tensor: Tensor) -> None:
        """Keep a tensor; one that is kept is not written again. Raises OSError."""
        from safetensors.torch import save

        if number in self._digests and self._file(number).exists():
            return
        if self._end is None:
            self._end = weakref.finalize(self, _remove, self.folder, os.getpid())
        content = save({"node": tensor.detach().cpu().contiguous()})
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file(number).write_bytes(content)
        self._digests[number] = hashlib.sha256(content).digest()

    def read(self, number: int) -> Tensor:
        """What was written, on the CPU.

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


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not where a process that was forked ends
        shutil.rmtree(folder, ignore_errors=True)
