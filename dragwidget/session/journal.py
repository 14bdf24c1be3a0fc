"""An edit on disk while it is made: when the process dies, at most the step under way is lost.

    <folder>/session.drag                                the whole, as ``DragSession.save`` has it
    <folder>/step-<image>-<edit>-<node>.<SHA-256>.safetensors   each step that was taken after it
    <folder>/drawn.json                                  what is drawn and asked for now
    <folder>/.dragwidget-journal                         the folder is ours; its process locks it

The whole is written when there is a new image or inversion, a step costs one small file. Every file
appears by a rename, so each is whole or not there, and steps are read as far as they follow each
other. Nothing here may stop an edit: what cannot be written is logged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as write_tensors

from dragwidget.data.frames import BoolArray
from dragwidget.data.instructions import DragInstructions, PointPair, check_prompt
from dragwidget.data.instructions_json import from_runs, to_runs
from dragwidget.data.limits import parse_json
from dragwidget.data.paths import user_path
from dragwidget.data.settings import Settings
from dragwidget.session import session_file
from dragwidget.session.session import DragSession
from dragwidget.storage.atomic import (
    OWNER,
    Lock,
    is_abandoned,
    owner,
    remove_abandoned,
    write_whole,
)
from dragwidget.storage.cache import default_folder

if TYPE_CHECKING:
    from dragwidget.diffusion.model import DiffusionModel
    from dragwidget.session.edit import Edit
    from dragwidget.session.history import Node
    from dragwidget.session.snapshot import Snapshot

__all__ = ["Journal", "Wanted", "journals", "restore"]

log = logging.getLogger(__name__)

WHOLE, DRAWN = "session.drag", "drawn.json"
MARK = ".dragwidget-journal"  # in each folder of ours; its process holds a lock on it
KEPT = 20  # journals; the ones that were written to longest ago go
ABANDONED = 30 * 24 * 3600.0  # seconds after which another machine's journal counts as left behind
_FOLDER = re.compile(r"[0-9]{8}-[0-9]{6}-" + OWNER)
_STEP = re.compile(
    r"(?P<name>step-[0-9a-f]{16}-[0-9]+)-(?P<node>[0-9]+)\.[0-9a-f]{64}\.safetensors"
)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is drawn and asked for, though it may not be enough to drag by yet.

    Attributes:
        pairs: in image pixels.
        mask: (height, width), True where the image may change; ``None``: everywhere.
    """

    prompt: str
    settings: Settings
    pairs: tuple[PointPair, ...] = ()
    mask: BoolArray | None = None

    @classmethod
    def of(cls, snapshot: Snapshot) -> Wanted:
        """What a session is asked for."""
        drawn = snapshot.instructions
        pairs, mask = ((), None) if drawn is None else (drawn.pairs, drawn.mask)
        return cls(snapshot.source.prompt, snapshot.settings, pairs, mask)


class Journal:
    """Writes down one session's edit.

    Args:
        folder: of this edit alone; by default a new one in the user's cache.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        if folder is None:
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{owner()}"
            folder = _home() / name
        self.folder = user_path(folder)
        # Nodes of each edit that are written; ``None``: there is no whole that steps may follow on.
        self._written: list[int] | None = None
        self._image = ""  # digest of the image in the whole
        self._lock_file: Lock | None = None
        self._lock = threading.Lock()
        self._wanted: Wanted | None = None
        self._is_new = False  # what is drawn, since it was last written

    def drew(self, session: DragSession, wanted: Wanted | None = None) -> None:
        """What is drawn or asked for has changed; ``None``: to what the session is asked for.

        It never waits: while another thread writes, it is that one which writes this too.
        """
        self._wanted, self._is_new = wanted, True
        self._safely(session, lambda: None, wait=False)

    def took_step(self, session: DragSession) -> None:
        """A drag step was taken; to be called before the next one."""
        self._is_new = True  # where the edit stands
        self._safely(session, lambda: self._took_step(session), wait=True)

    def _safely(self, session: DragSession, write: Callable[[], None], *, wait: bool) -> None:
        while self._lock.acquire(blocking=wait):
            done = False
            try:
                write()
                while self._is_new:
                    self._is_new = False
                    self._write_drawn(session)
                done = True
            except (OSError, ValueError) as error:
                log.warning("the edit is not written down: %s", error)
            finally:
                if not done:  # an interrupt, perhaps
                    self._written = None
                self._lock.release()
            if not self._is_new:
                return
            write, wait = _nothing, False  # drawn between the last look and the release

    def _write_drawn(self, session: DragSession) -> None:
        snapshot = session.snapshot()
        if not self._holds(snapshot):
            self._write_whole(snapshot)
        wanted = self._wanted or Wanted.of(snapshot)
        content = {
            "prompt": wanted.prompt,
            "settings": wanted.settings.to_dict(),
            "points": [[*pair.handle, *pair.target] for pair in wanted.pairs],
            "mask": None if wanted.mask is None else to_runs(wanted.mask),
            "at": [edit.current for edit in snapshot.edits],
        }
        write_whole(self.folder / DRAWN, json.dumps(content).encode())

    def _holds(self, snapshot: Snapshot) -> bool:
        """Whether steps can follow on the whole that is there: it may be deleted, or outdated."""
        same = self._written is not None and self._image == snapshot.source.digest
        return same and (self.folder / WHOLE).is_file()

    def _took_step(self, session: DragSession) -> None:
        edit = session.stages.edit(session.source, session.settings)
        snapshot = session.snapshot()
        places = [k for k, e in enumerate(snapshot.edits) if edit and e.inversion is edit.inversion]
        if not places:
            return
        place, node = places[0], snapshot.edits[places[0]].nodes[-1]
        written = self._written or []
        # A step follows on the one before it, of which an interrupt may have kept us from hearing.
        follows = place < len(written) and written[place] in (node.number, node.number + 1)
        if not follows or not self._holds(snapshot):
            self._write_whole(snapshot)
        elif written[place] == node.number:  # else it came with what is drawn
            _write_step(self.folder, _step_name(snapshot, place), node)
            written[place] += 1

    def _write_whole(self, snapshot: Snapshot) -> None:
        self._begin()
        session_file.save(snapshot, self.folder / WHOLE)
        self._image = snapshot.source.digest
        self._written = [len(edit.nodes) for edit in snapshot.edits]
        names = {_step_name(snapshot, k): n for k, n in enumerate(self._written)}
        for path in self.folder.iterdir():
            step = _STEP.fullmatch(path.name)
            if step and int(step["node"]) < names.get(step["name"], 10**9):
                path.unlink(missing_ok=True)  # it is in the whole, or of another image
        if self.folder.parent == _home():  # elsewhere, what lies beside it is not ours
            _tidy(spare=self.folder)

    def _begin(self) -> None:
        """Make the folder, mark it as ours, and hold its lock while this journal lives."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock_file is None or not (self.folder / MARK).exists():
            lock = Lock(self.folder / MARK)
            lock.take()
            self._lock_file = lock
            weakref.finalize(self, lock.release)


def journals(home: Path | None = None) -> list[Path]:
    """The folders of all edits that can be restored, the newest first."""
    found = []
    for path in (home or _home()).glob(f"*/{WHOLE}"):
        try:
            found.append((max(p.stat().st_mtime for p in path.parent.iterdir()), path.parent))
        except OSError:
            continue  # another process has removed it
    return [folder for _, folder in sorted(found, reverse=True)]


def restore(
    folder: str | os.PathLike[str] | None = None,
    model: DiffusionModel | None = None,
    **options: Any,
) -> tuple[DragSession, Wanted]:
    """The session whose edit a journal wrote down, and what was drawn and asked for last.

    The session is asked for that already, as far as it is enough to drag by.

    Args:
        folder: the journal's; by default the newest there is.
        model: the one that it was made with; by default it is loaded by its name, with ``options``
            as ``load_model`` takes them.

    Raises:
        FileNotFoundError: there is nothing to restore.
        ValueError: it is damaged, or of another model.
    """
    if folder is None:
        found = journals()
        if not found:
            raise FileNotFoundError(f"there is no edit to restore in {_home()}")
        folder = found[0]
    folder = user_path(folder)
    remove_abandoned(folder)
    session = DragSession.load(folder / WHOLE, model, **options)
    snapshot = session.snapshot()
    steps = _steps(folder)
    drawn: dict[str, DragInstructions] = {}
    for place, edit in enumerate(session.edits):
        name = _step_name(snapshot, place)
        while _read_step(steps.get((name, len(edit.history.nodes)), []), edit, drawn):
            pass
    return session, _read_drawn(folder, session)


def _tidy(spare: Path) -> None:
    """Remove journals of dead processes beyond those that are kept: files of ours, nothing else."""
    ours = [f for f in _home().glob("*") if _FOLDER.fullmatch(f.name) and not f.is_symlink()]
    ours = [folder for folder in ours if (folder / MARK).is_file() and folder != spare]
    for folder in sorted(ours, key=_written_at, reverse=True)[KEPT - 1 :]:
        if is_abandoned(folder / MARK, folder.name.split("-", 2)[2], ABANDONED):
            _remove(folder)


def _written_at(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in folder.iterdir())
    except OSError:
        return 0.0


def _remove(folder: Path) -> None:
    """Remove a journal's files, and its folder if nothing else is in it."""
    remove_abandoned(folder)
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name in (WHOLE, DRAWN) or _STEP.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if not any(path.name != MARK for path in folder.iterdir()):
            (folder / MARK).unlink(missing_ok=True)
            folder.rmdir()


def _home() -> Path:
    return default_folder() / "edits"


def _step_name(snapshot: Snapshot, place: int) -> str:
    """How the names of an edit's steps begin: the steps of another image are not taken for it."""
    return f"step-{snapshot.source.digest[:16]}-{place}"


def _write_step(folder: Path, name: str, node: Node) -> None:
    assert node.instructions is not None
    said = {
        "node": json.dumps(session_file.write_node(node, 0)),
        "drawn": node.instructions.to_json(),
    }
    tensor = node.packed.detach().cpu().contiguous()
    content = write_tensors({"node": tensor}, said)
    digest = hashlib.sha256(content).hexdigest()
    write_whole(folder / f"{name}-{node.number}.{digest}.safetensors", content)


def _steps(folder: Path) -> dict[tuple[str, int], list[Path]]:
    """All steps that were written, by edit and node."""
    found: dict[tuple[str, int], list[Path]] = {}
    for path in folder.iterdir():
        if (step := _STEP.fullmatch(path.name)) and not path.is_symlink():
            found.setdefault((step["name"], int(step["node"])), []).append(path)
    return found


def _read_step(written: list[Path], edit: Edit, known: dict[str, DragInstructions]) -> bool:
    """Take one more step from the journal; whether there was one.

    Args:
        known: instructions that were read, which steps share: a mask is as large as the image.
    """
    number = len(edit.history.nodes)
    for path in written:
        digest = path.name.split(".")[1]
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            log.warning("%s is damaged: it and the steps after it are not restored", path)
            return False
        try:
            with safe_open(path, "pt") as opened:
                said, tensor = opened.metadata(), opened.get_tensor("node")
            if said["drawn"] not in known:
                known[said["drawn"]] = DragInstructions.from_json(said["drawn"])
            drawn = known[said["drawn"]]
            edit.inversion.source.check(drawn)
            like = edit.inversion.latents[0]
            data = parse_json(said["node"].encode(), "its node")
            node = session_file.read_node(number, data, tensor.to(like.device), [drawn], like)
            edit.history.go_to(node.parent)
            edit.history.append(node)
        except (LookupError, TypeError, ValueError, ArithmeticError, AssertionError,
                AttributeError, RecursionError, SafetensorError) as error:  # fmt: skip
            log.warning("%s is no step of this edit: %s", path, error)
            return False
        return True
    return False


def _read_drawn(folder: Path, session: DragSession) -> Wanted:
    size = session.source.image.size
    try:
        content = parse_json((folder / DRAWN).read_bytes(), DRAWN)
        runs = content["mask"]
        check_prompt(content["prompt"])
        wanted = Wanted(
            content["prompt"],
            Settings.from_dict(content["settings"]),
            tuple(PointPair((hx, hy), (tx, ty)) for hx, hy, tx, ty in content["points"]),
            None if runs is None else from_runs(runs, size),
        )
        session.model.check(wanted.settings)
        at = [int(number) for number in content["at"]]
    except FileNotFoundError:
        return Wanted.of(session.snapshot())
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        log.warning("%s is damaged, what was drawn last is not restored: %s", folder / DRAWN, error)
        return Wanted.of(session.snapshot())
    session.prompt, session.settings = wanted.prompt, wanted.settings
    with suppress(ValueError):  # not enough to drag by: it is drawn on
        session.instructions = DragInstructions(wanted.pairs, size=size, mask=wanted.mask)
    for edit, number in zip(session.edits, at, strict=False):
        if 0 <= number < len(edit.history.nodes):
            edit.history.go_to(number)
    return wanted


def _nothing() -> None:
    pass
