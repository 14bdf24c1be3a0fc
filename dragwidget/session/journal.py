"""An edit on disk while it is made: when the process dies, at most the step under way is lost.

    <folder>/session.drag                                the whole, as ``DragSession.save`` has it
    <folder>/step-<edit>-<node>.<SHA-256>.safetensors    each step that was taken after it
    <folder>/drawn.json                                  what is drawn and asked for now

The whole is written when there is a new inversion to keep, a step costs one small file. Every file
appears by a rename, so each is whole or not there, and steps are read as far as they follow each
other. Nothing here may stop an edit: what cannot be written is logged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
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
from dragwidget.data.settings import Settings
from dragwidget.session import session_file as archive
from dragwidget.storage.atomic import remove_abandoned, write_whole
from dragwidget.storage.cache import default_folder

if TYPE_CHECKING:
    from dragwidget.diffusion.model import DiffusionModel
    from dragwidget.session.edit import Dragging
    from dragwidget.session.session import DragSession

__all__ = ["Journal", "Wanted", "journals", "restore"]

log = logging.getLogger(__name__)

WHOLE, DRAWN = "session.drag", "drawn.json"
KEPT = 20  # journals; the ones that were written to longest ago go
_NOT_BEGUN = 3600.0  # seconds after which a folder without a whole is taken for a dead process's


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
    def of(cls, session: DragSession) -> Wanted:
        """What a session is asked for."""
        drawn = session.instructions
        pairs, mask = ((), None) if drawn is None else (drawn.pairs, drawn.mask)
        return cls(session.prompt, session.settings, pairs, mask)


class Journal:
    """Writes down one session's edit.

    Args:
        folder: of this edit alone; by default a new one in the user's cache.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        if folder is None:
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
            folder = _home() / name
        self.folder = Path(folder)
        # Nodes of each edit that are written; ``None``: there is no whole that steps may follow on.
        self._written: list[int] | None = None
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
        if self._written is None or not (self.folder / WHOLE).is_file():  # it may be deleted
            self._write_whole(session)
        wanted = self._wanted or Wanted.of(session)
        content = {
            "prompt": wanted.prompt,
            "settings": wanted.settings.to_dict(),
            "points": [[*pair.handle, *pair.target] for pair in wanted.pairs],
            "mask": None if wanted.mask is None else to_runs(wanted.mask),
            "at": [edit.history.current.number for edit in session.edits],
        }
        write_whole(self.folder / DRAWN, json.dumps(content).encode())

    def _took_step(self, session: DragSession) -> None:
        edit = session.stages.edit(session.source, session.settings)
        edits = session.edits
        if edit is None:
            return
        place, number = edits.index(edit), edit.history.nodes[-1].number
        written = self._written or []
        # A step follows on the one before it, of which an interrupt may have kept us from hearing.
        follows = place < len(written) and written[place] in (number, number + 1)
        if not follows or not (self.folder / WHOLE).is_file():
            self._write_whole(session)
        elif written[place] == number:  # else it came with what is drawn
            _write_step(self.folder, place, edit)
            written[place] += 1

    def _write_whole(self, session: DragSession) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        edits = session.edits
        covered = [len(edit.history.nodes) for edit in edits]
        archive.save(session, self.folder / WHOLE)
        self._written = covered
        for place, count in enumerate(covered):
            for path in self.folder.glob(f"step-{place}-*"):
                if int(path.name.split("-")[2].split(".")[0]) < count:
                    path.unlink(missing_ok=True)
        if self.folder.parent == _home():  # elsewhere, what lies beside it is not ours
            _tidy(spare=self.folder)


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
    folder = Path(folder)
    remove_abandoned(folder)
    session = archive.load(folder / WHOLE, model, **options)
    steps = _steps(folder)
    drawn: dict[str, DragInstructions] = {}
    for place, edit in enumerate(session.edits):
        while _read_step(steps.get((place, len(edit.history.nodes)), []), edit, drawn):
            pass
    return session, _read_drawn(folder, session)


def _tidy(spare: Path) -> None:
    """Remove journals beyond those that are kept, and what is left of ones that never began."""
    for old in journals()[KEPT:]:
        if old != spare:  # which may look old, where the clock was set back
            shutil.rmtree(old, ignore_errors=True)
    for path in _home().glob("*"):
        with suppress(OSError):
            if not (path / WHOLE).exists() and time.time() - path.stat().st_mtime > _NOT_BEGUN:
                remove_abandoned(path)
                path.rmdir()


def _home() -> Path:
    return default_folder() / "edits"


def _write_step(folder: Path, place: int, edit: Dragging) -> None:
    node = edit.history.nodes[-1]
    assert node.instructions is not None
    said = {
        "node": json.dumps(archive.write_node(node, 0)),
        "drawn": node.instructions.to_json(),
    }
    tensor = node.packed.detach().cpu().contiguous()
    content = write_tensors({"node": tensor}, said)
    digest = hashlib.sha256(content).hexdigest()
    write_whole(folder / f"step-{place}-{node.number}.{digest}.safetensors", content)


def _steps(folder: Path) -> dict[tuple[int, int], list[Path]]:
    """All steps that were written, by edit and node."""
    found: dict[tuple[int, int], list[Path]] = {}
    for path in folder.glob("step-*.safetensors"):
        with suppress(ValueError):
            _, place, number = path.name.split(".")[0].split("-")
            found.setdefault((int(place), int(number)), []).append(path)
    return found


def _read_step(written: list[Path], edit: Dragging, known: dict[str, DragInstructions]) -> bool:
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
            data = json.loads(said["node"])
            node = archive.read_node(number, data, tensor.to(like.device), [drawn], like)
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
        content = json.loads((folder / DRAWN).read_bytes())
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
        return Wanted.of(session)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        log.warning("%s is damaged, what was drawn last is not restored: %s", folder / DRAWN, error)
        return Wanted.of(session)
    session.prompt, session.settings = wanted.prompt, wanted.settings
    with suppress(ValueError):  # not enough to drag by: it is drawn on
        session.instructions = DragInstructions(wanted.pairs, size=size, mask=wanted.mask)
    for edit, number in zip(session.edits, at, strict=False):
        if 0 <= number < len(edit.history.nodes):
            edit.history.go_to(number)
    return wanted


def _nothing() -> None:
    pass
