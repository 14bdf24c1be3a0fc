"""An edit on disk while it is made: when the process dies, at most the step under way is lost.

    <folder>/session.drag                                the whole, as ``DragSession.save`` has it
    <folder>/step-<image>-<edit>-<node>.<SHA-256>.safetensors   each step that was taken after it,
                                                         as ``session.node`` has it
    <folder>/instructions-<SHA-256>.json                 what those steps were asked for
    <folder>/drawn.json                                  what is drawn and asked for now
    <folder>/.dragwidget-journal                         the folder is ours; its process locks it

The whole is written when there is a new image or inversion, a step costs one small file. Every file
appears by a rename, so each is whole or not there, and steps are read as far as they follow each
other. Nothing here may stop an edit: what cannot be written is logged.
"""

from __future__ import annotations

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
from typing import Any

from dragwidget.data.frames import BoolArray
from dragwidget.data.instructions import DragInstructions, PointPair
from dragwidget.data.instructions_json import from_runs, to_runs
from dragwidget.data.limits import parse_json
from dragwidget.data.paths import user_path
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import Settings
from dragwidget.diffusion.backbone import Backbone
from dragwidget.session import session_file
from dragwidget.session.edit import Edit
from dragwidget.session.history import History
from dragwidget.session.node import Node, instructions_json, node_bytes, open_node
from dragwidget.session.session import DragSession
from dragwidget.session.snapshot import Snapshot
from dragwidget.storage import atomic
from dragwidget.storage.cache import default_folder
from dragwidget.storage.tensors import digest

log = logging.getLogger(__name__)

WHOLE, DRAWN = "session.drag", "drawn.json"
MARK = ".dragwidget-journal"  # in each folder of ours; its process holds a lock on it
KEPT = 20  # journals; the ones that were written to longest ago go
ABANDONED = 30 * 24 * 3600.0  # seconds after which another machine's journal counts as left behind
_FOLDER = re.compile(r"[0-9]{8}-[0-9]{6}-" + atomic.OWNER)
_STEP = re.compile(
    r"(?P<name>step-[0-9a-f]{16}-[0-9]+)-(?P<node>[0-9]+)\.[0-9a-f]{64}\.safetensors"
)
_INSTRUCTIONS = re.compile(r"instructions-(?P<sha256>[0-9a-f]{64})\.json")
_PART = re.compile(f"{_STEP.pattern}|{_INSTRUCTIONS.pattern}")
_OURS = re.compile(f"{_PART.pattern}|{re.escape(WHOLE)}|{re.escape(DRAWN)}")


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is drawn, though it may not be enough to drag by yet.

    Attributes:
        pairs: in image pixels.
        mask: (height, width), True = editable; ``None``: everything is editable.
    """

    pairs: tuple[PointPair, ...] = ()
    mask: BoolArray | None = None

    @classmethod
    def of(cls, drawn: DragInstructions | None) -> Drawing:
        """The drawing of instructions."""
        return cls() if drawn is None else cls(drawn.pairs, drawn.mask)


class Journal:
    """Writes down one session's edit.

    Args:
        folder: folder of this edit alone; by default a new one in the user's cache.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = _new_folder() if folder is None else user_path(folder)
        # Nodes of each edit that are written; ``None``: there is no whole that steps may follow on.
        self._written: list[int] | None = None
        self._image: tuple[object, ...] = ()  # of the whole: digests of its image and LoRAs
        self._model: Callable[[], Backbone | None] = lambda: None  # of the whole
        self._lock_file: atomic.Lock | None = None
        self._lock = threading.RLock()
        self._drawing: Drawing | None = None
        self._is_new = False  # what is drawn, since it was last written

    def drew(self, session: DragSession, drawing: Drawing | None = None) -> None:
        """Record that what is drawn or requested has changed; ``None``: the session's instructions.

        It never waits: while another thread writes, it is that one which writes this too.
        """
        self._drawing, self._is_new = drawing, True
        self._safely(session, lambda: None, wait=False)

    def took_step(self, session: DragSession, edit: Edit | None = None) -> None:
        """Record a drag step, of ``edit`` or of the session's; call it before the next one."""
        self._is_new = True  # where the edit stands
        self._safely(session, lambda: self._took_step(session, edit or session.edit), wait=True)

    def _safely(self, session: DragSession, write: Callable[[], None], *, wait: bool) -> None:
        while True:
            done = False
            try:
                if not self._lock.acquire(blocking=wait):
                    done = True
                    return
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
                # One may come right after the lock was taken: so that is not remembered here, and
                # the lock itself knows whose it is.
                try:  # noqa: SIM105 - one may come after the call of ``suppress``, too
                    self._lock.release()
                except RuntimeError:  # not this thread's
                    pass
            if not self._is_new:
                return
            write, wait = (lambda: None), False  # drawn between the last look and the release

    def _write_drawn(self, session: DragSession) -> None:
        snapshot = session.snapshot()
        if not self._holds(snapshot):
            self._write_whole(snapshot)
        request = snapshot.request
        drawing = self._drawing or Drawing.of(request.instructions)
        content = {
            "prompt": request.prompt,
            "settings": request.settings.to_dict(),
            "points": [[*pair.handle, *pair.target] for pair in drawing.pairs],
            "mask": None if drawing.mask is None else to_runs(drawing.mask),
            "at": [edit.current for edit in snapshot.edits],
        }
        atomic.write_whole(self.folder / DRAWN, json.dumps(content).encode())

    def _holds(self, snapshot: Snapshot) -> bool:
        """Whether steps can follow on the whole that is there: it may be deleted, or outdated."""
        same = self._written is not None and self._image == _given(snapshot.request)
        return same and self._model() is snapshot.model and (self.folder / WHOLE).is_file()

    def _took_step(self, session: DragSession, edit: Edit | None) -> None:
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
        ours = self._image and self.folder.parent == _home()
        if ours and self._model() is not snapshot.model and self._has_steps():
            self.folder = _new_folder()  # that of the model before stays, and can be restored
        self._begin()
        session_file.save(snapshot, self.folder / WHOLE)
        self._image, self._model = _given(snapshot.request), weakref.ref(snapshot.model)
        self._written = [len(edit.nodes) for edit in snapshot.edits]
        for path in self.folder.iterdir():
            if _PART.fullmatch(path.name):  # the whole has it, or it is of another edit
                path.unlink(missing_ok=True)
        if self.folder.parent == _home():  # elsewhere, what lies beside it is not ours
            _tidy(spare=self.folder)

    def _has_steps(self) -> bool:
        return self._written is None or any(count > 1 for count in self._written)

    def _begin(self) -> None:
        """Make the folder, mark it as ours, and hold its lock while this journal lives."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock_file is None or not (self.folder / MARK).exists():
            lock = atomic.Lock(self.folder / MARK)
            lock.take()
            self._lock_file = lock
            weakref.finalize(self, lock.release)


def _given(request: EditRequest) -> tuple[object, ...]:
    """What was given, and is too large to be written down with what is drawn."""
    lora = None if request.lora is None else request.lora.digest
    return request.image.digest, lora, request.style_digests


def journals(home: Path | None = None) -> list[Path]:
    """Return the folders of all edits that can be restored, the newest first."""
    found = [path.parent for path in (home or _home()).glob(f"*/{WHOLE}")]
    return sorted(filter(_written_at, found), key=lambda f: (_written_at(f), f), reverse=True)


def restore(
    folder: str | os.PathLike[str] | None = None,
    model: Backbone | None = None,
    **options: Any,
) -> tuple[DragSession, Drawing]:
    """Return the session whose edit a journal recorded, and what was drawn last.

    The session has that as its instructions already, where it is enough to drag by.

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
    atomic.remove_abandoned(folder)
    session = DragSession.load(folder / WHOLE, model, **options)
    snapshot = session.snapshot()
    steps = _steps(folder)
    drawn = _instructions(folder, session.request)
    for place, edit in enumerate(session.edits):
        name = _step_name(snapshot, place)
        while _read_step(steps.get((name, len(edit.history.nodes)), []), edit, drawn):
            pass
        if len(edit.history.nodes) > len(snapshot.edits[place].nodes):
            _go_to(edit.history, len(edit.history.nodes) - 1)
    return session, _read_drawn(folder, session)


def _tidy(spare: Path) -> None:
    """Remove journals of dead processes beyond those that are kept: files of ours, nothing else."""
    ours = [f for f in _home().glob("*") if _FOLDER.fullmatch(f.name) and not f.is_symlink()]
    ours = [folder for folder in ours if (folder / MARK).is_file() and folder != spare]
    for folder in sorted(ours, key=_written_at, reverse=True)[KEPT - 1 :]:
        if atomic.is_abandoned(folder / MARK, folder.name.split("-", 2)[2], ABANDONED):
            atomic.remove_folder(folder, MARK, _OURS.fullmatch)


def _written_at(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in folder.iterdir())
    except OSError:
        return 0.0


def _new_folder() -> Path:
    """Return the place of a folder that is not there yet, named by the time and our process."""
    when = time.time()
    while True:
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(when))}-{atomic.owner()}"
        if not (folder := _home() / name).exists():
            return folder
        when += 1


def _home() -> Path:
    return default_folder() / "edits"


def _step_name(snapshot: Snapshot, place: int) -> str:
    """How the names of an edit's steps begin; those of another image begin differently."""
    return f"step-{snapshot.request.image.digest[:16]}-{place}"


def _write_step(folder: Path, name: str, node: Node) -> None:
    assert node.instructions is not None
    sha256, text = instructions_json(node.instructions)
    if not (drawn := folder / f"instructions-{sha256}.json").exists():
        atomic.write_whole(drawn, text.encode())
    header, data = node_bytes(node)
    atomic.write_whole(folder / f"{name}-{node.number}.{digest(header)}.safetensors", header + data)


def _steps(folder: Path) -> dict[tuple[str, int], list[Path]]:
    """All steps that were written, by edit and node."""
    found: dict[tuple[str, int], list[Path]] = {}
    for path in folder.iterdir():
        if (step := _STEP.fullmatch(path.name)) and not path.is_symlink():
            found.setdefault((step["name"], int(step["node"])), []).append(path)
    return found


def _read_step(written: list[Path], edit: Edit, drawn: dict[str, DragInstructions]) -> bool:
    """Take one more step from the journal; whether there was one."""
    history = edit.history
    for path in written:
        kept = path
        with suppress(OSError):  # else it is read where it lies, as long as it lies there
            kept = history.offload.adopt(len(history.nodes), path)
        name = path.name.split(".")[1]
        try:
            size = kept.stat().st_size
            history.add(open_node(kept, size, name, history.nodes, drawn, owner=history.offload))
            return True
        except (OSError, ValueError) as error:
            log.warning("%s is no step of this edit: %s", path, error)
    return False


def _instructions(folder: Path, request: EditRequest) -> dict[str, DragInstructions]:
    """What steps were asked for, by the SHA-256 of the text; steps share it, as masks are large."""
    found = {}
    for path in folder.iterdir():
        if (name := _INSTRUCTIONS.fullmatch(path.name)) and not path.is_symlink():
            try:
                text = path.read_bytes()
                if digest(text) != name["sha256"]:
                    raise ValueError("it was changed")
                drawn = DragInstructions.from_json(text)
                request.drawn(drawn)  # refused where it is of another size
            except (OSError, ValueError) as error:
                log.warning("%s is damaged: %s", path, error)
            else:
                found[name["sha256"]] = drawn
    return found


def _go_to(history: History, number: int) -> None:
    """Go to a node, or where it is lost to the nearest one before it that is not."""
    while True:
        try:
            history.go_to(number)
            return
        except OSError as error:
            log.warning("step %d is not gone to: %s", number, error)
            number = history.nodes[number].parent


def _read_drawn(folder: Path, session: DragSession) -> Drawing:
    request = session.request
    try:
        content = parse_json((folder / DRAWN).read_bytes(), DRAWN)
        runs = content["mask"]
        drawing = Drawing(
            tuple(PointPair((hx, hy), (tx, ty)) for hx, hy, tx, ty in content["points"]),
            None if runs is None else from_runs(runs, request.image.size),
        )
        at = [int(number) for number in content["at"]]
        session.request = request.replace(
            prompt=content["prompt"], settings=Settings.from_dict(content["settings"])
        )
    except FileNotFoundError:
        return Drawing.of(request.instructions)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        log.warning("%s is damaged, what was drawn last is not restored: %s", folder / DRAWN, error)
        return Drawing.of(session.instructions)
    with suppress(ValueError):  # not enough to drag by: it is drawn on
        session.instructions = DragInstructions(
            drawing.pairs, size=request.image.size, mask=drawing.mask
        )
    for edit, number in zip(session.edits, at, strict=False):
        if 0 <= number < len(edit.history.nodes):
            _go_to(edit.history, number)
    return drawing
