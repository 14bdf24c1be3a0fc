"""What one session made, on disk for the next: a LoRA is trained once, an image inverted once.

An entry is one safetensors file, named by what made it and by its own content:

    <folder>/<kind>/<SHA-256 of what made it>.<SHA-256 of the file>.safetensors

Only files whose whole name is of this form, in folders of these kinds that carry our mark, are ever
read, moved or removed: the folder may be one where the user keeps other things.

So every byte of it is checked on reading, and no lock is needed: a file appears whole, by a rename,
under a name that no other content can have. Two processes that make the same thing at once write
the same file, or two that are equally good. When room is needed, large things that a few passes
make again go first; among equals, what was read last goes last.

Nothing here may stop an edit. Where the disk is full, or the folder read-only or gone, that is
logged, and the session goes on without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragwidget.data.paths import user_path
from dragwidget.storage.atomic import ABANDONED, remove_abandoned, whole_file

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

VARIABLE = "DRAGWIDGET_CACHE"
LIMIT = 5 * 2**30  # bytes
SUFFIX, DAMAGED = ".safetensors", "damaged"
RECOMPUTED = {"features", "reference"}  # kinds that go first: large, and soon recomputed
KINDS = {"lora", "training", "inversion", *RECOMPUTED}
MARK = ".dragwidget-store"  # in each folder of entries: we made it
_DIGESTS = r"[0-9a-f]{64}\.[0-9a-f]{64}" + re.escape(SUFFIX)
_ENTRY = re.compile(_DIGESTS)
_ASIDE = re.compile(f"(?:{'|'.join(sorted(KINDS))})-{_DIGESTS}")


def default_folder() -> Path:
    """The folder that ``DRAGWIDGET_CACHE`` names; by default the user's cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("dragwidget", appauthor=False))


@dataclass(frozen=True)
class Entry:
    """One thing that is kept.

    Attributes:
        kind: ``"lora"``, ``"inversion"``, ``"features"`` at the start of a drag, ``"reference"``:
            the reference branch of renders, or ``"training"``: an unfinished LoRA.
        size: bytes.
        used: when it was written or last read, seconds since the epoch.
    """

    path: Path
    kind: str
    size: int
    used: float

    def made_by(self) -> dict[str, Any]:
        """What made it. Raises ValueError where the file is damaged."""
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > min(self.size, 2**24):
                    raise ValueError("its header is longer than the file")
                header = json.loads(file.read(length))
            made_by = json.loads(header["__metadata__"]["made_by"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.path} is damaged: {error}") from error
        return dict(made_by)


class Store:
    """A folder of stages.

    Args:
        folder: made when it is first needed; by default ``default_folder()``.
        limit: bytes; when there is more, features and references are evicted first, then the least
            recently used entries.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, limit: int = LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1 byte, got {limit}")
        self.folder = default_folder() if folder is None else user_path(folder)
        self.limit = limit

    def get(self, kind: str, made_by: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the tensors with exactly this key, on the CPU; ``None`` where there are none.

        A damaged file is set aside, with a warning, and counts as missing.
        """
        for path in self._kept(kind, _digest(made_by)):
            try:
                tensors = _unpacked(path.read_bytes(), path)
            except FileNotFoundError:
                continue  # another process made room
            except (OSError, MemoryError) as error:
                log.warning("cannot read %s: %r; it is made again", path, error)
                continue
            if tensors is None:
                self._set_aside(path)
                continue
            _quietly(os.utime, path)  # it was used now; else it only goes sooner
            return tensors
        return None

    def put(
        self,
        kind: str,
        made_by: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        alone: bool = False,
        share: float = 1.0,
    ) -> bool:
        """Cache tensors, whole or not at all; return whether that was possible.

        Args:
            alone: remove the other entries with this key once these tensors are written.
            share: share of the limit; larger entries are not cached, as they would evict too much.
        """
        from dragwidget.storage.tensors import size, write_tensors

        bytes_, room = size(tensors), int(share * self.limit)
        if bytes_ > room:
            level = logging.WARNING if share == 1 else logging.INFO
            log.log(level, "a %s of %d bytes is not kept: the limit is %d", kind, bytes_, room)
            return False
        about = {"made_by": json.dumps(made_by, sort_keys=True)}
        sha = hashlib.sha256()  # in a walk of its own: a large file is never in memory as a whole
        write_tensors(sha.update, tensors, about)
        path = self.folder / kind / f"{_digest(made_by)}.{sha.hexdigest()}{SUFFIX}"
        try:
            _mark(path.parent)
            with whole_file(path) as file:
                write_tensors(file.write, tensors, about)
            if alone:
                self.remove(kind, made_by, spare=path)
            self._make_room(spare=path)
        except OSError as error:
            log.warning("the %s is not kept for other sessions: %s", kind, error)
            return False
        return True

    def remove(self, kind: str, made_by: Mapping[str, Any], *, spare: Path | None = None) -> None:
        """Remove every entry with exactly this key, except ``spare``."""
        for path in self._kept(kind, _digest(made_by)):
            if path != spare:
                _quietly(path.unlink, missing_ok=True)  # else it goes when room is needed

    def entries(self) -> list[Entry]:
        """Return all entries, the most recently used first."""
        found = [
            Entry(path, path.parent.name, state.st_size, state.st_mtime)
            for path in self._files()
            if (state := _state(path))
        ]
        return sorted(found, key=lambda entry: -entry.used)

    def verify(self) -> list[Path]:
        """Check every byte of every entry; return the damaged ones, which are set aside."""
        self._remove_abandoned()
        damaged = []
        for path in self._files():
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            if _unpacked(content, path) is None:
                self._set_aside(path)
                damaged.append(path)
        return damaged

    def clear(self) -> int:
        """Remove everything that stores wrote here; return how many bytes it had.

        Files that another process is writing, and everything that is not ours, stay.
        """
        self._remove_abandoned()
        freed = 0
        for path in [*self._files(), *self._aside()]:
            state = _state(path)
            path.unlink(missing_ok=True)
            freed += state.st_size if state else 0
        return freed

    # Inside

    def _marked(self, *kinds: str) -> Iterator[Path]:
        """The folders of these kinds, as far as we made them."""
        for kind in kinds:
            folder = self.folder / kind
            if (folder / MARK).is_file() and not folder.is_symlink():
                yield folder

    def _files(self) -> Iterator[Path]:
        return self._named(_ENTRY, *sorted(KINDS))

    def _aside(self) -> Iterator[Path]:
        """Damaged entries that were set aside."""
        return self._named(_ASIDE, DAMAGED)

    def _named(self, pattern: re.Pattern[str], *kinds: str) -> Iterator[Path]:
        for folder in self._marked(*kinds):
            for path in sorted(folder.iterdir()):
                if pattern.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    yield path

    def _kept(self, kind: str, digest: str) -> list[Path]:
        """The newest first: of one thing on its way, that is the one that has come furthest."""
        try:
            found = [
                path
                for path in (self.folder / kind).glob(f"{digest}.*{SUFFIX}")
                if _ENTRY.fullmatch(path.name) and not path.is_symlink()
            ]
            return sorted(found, key=_newest_first)
        except OSError as error:
            log.warning("cannot look into %s: %s", self.folder / kind, error)
            return []

    def _set_aside(self, path: Path) -> None:
        aside = self.folder / DAMAGED / f"{path.parent.name}-{path.name}"
        log.warning("%s is damaged: set aside as %s, and made again when it is needed", path, aside)
        try:
            _mark(aside.parent)
            os.replace(path, aside)
        except OSError as error:
            log.warning("cannot set it aside: %s", error)

    def _make_room(self, spare: Path) -> None:
        """Remove what is soon made again, then what was used longest ago; never ``spare``."""
        self._remove_abandoned()
        for aside in self._aside():
            if time.time() - aside.stat().st_mtime > ABANDONED:
                aside.unlink(missing_ok=True)
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        for entry in sorted(entries, key=lambda e: (e.kind not in RECOMPUTED, e.used)):
            if total <= self.limit:
                break
            if entry.path != spare:
                entry.path.unlink(missing_ok=True)
                total -= entry.size

    def _remove_abandoned(self) -> None:
        for folder in self._marked(*KINDS):
            remove_abandoned(folder)


def _mark(folder: Path) -> None:
    """Make a folder, if need be, and say that what is named as our entries are is ours there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists():
        (folder / MARK).touch()


def _digest(made_by: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()


def _unpacked(content: bytes, path: Path) -> dict[str, Tensor] | None:
    """The tensors, if these are the bytes that the file's name promises."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    promised = path.name.removesuffix(SUFFIX).rpartition(".")[2]
    if hashlib.sha256(content).hexdigest() != promised:
        return None
    bytearray(len(content))  # where this is too much, safetensors would panic and not raise
    try:
        return load(content)
    except SafetensorError:  # written by something else, under a right name
        return None


def _quietly(act: Callable[..., object], *arguments: Path, **options: bool) -> None:
    """Do what is no loss where it cannot be done."""
    try:
        act(*arguments, **options)
    except OSError as error:
        log.debug("%s", error)


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _newest_first(path: Path) -> tuple[int, Path]:
    state = _state(path)
    return (-state.st_mtime_ns if state else 0), path
