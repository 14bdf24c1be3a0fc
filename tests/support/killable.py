"""Work to be killed in: a process that has loaded everything once forks one for each piece of it.

    python killable.py <folder of the tiny model>

reads lines ``<kind of work> <folder>`` and answers with the number of a process that does it, and
``reap`` once that was killed. What was done, it says in the folder's file ``said``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tiny_sessions import ask, session_on

from dragwidget.diffusion.loading import load_model
from dragwidget.session import stages as making
from dragwidget.session.journal import Journal
from dragwidget.storage.cache import Store

LORA_STEPS = 8
DRAG_STEPS = 5
PUTS = 30
SAVES = 40

Say = Callable[[object], None]


def session_with(model: Any, folder: Path, lora_steps: int, **options: Any) -> Any:
    """A session that keeps a checkpoint of every step of its training."""
    making.CHECKPOINT_SECONDS = 0.0
    session = session_on(model, lora_steps=lora_steps, **options)
    session.stages.store = Store(folder / "store")
    return session


def lora(model: Any, folder: Path, say: Say) -> None:
    session_with(model, folder, LORA_STEPS, progress=lambda p: say(p.index)).train_lora()


def inversion(model: Any, folder: Path, say: Say) -> None:
    session_with(model, folder, 2, progress=lambda p: say(f"{p.phase} {p.index}")).prepare()


def drag(model: Any, folder: Path, say: Say) -> None:
    session = session_on(model)
    session.instructions = ask()
    journal = Journal(folder / "journal")
    journal.drew(session)
    say(1)
    for _ in range(DRAG_STEPS):
        session.step()
        journal.took_step(session)
        say(len(session.history.nodes))


def made_by(k: int) -> dict[str, Any]:
    return {"image": k}


def put(_model: Any, folder: Path, say: Say) -> None:
    store = Store(folder / "store")
    for k in range(PUTS):
        store.put("lora", made_by(k), {"x": torch.full((2**20,), float(k))})
        say(k)


def target(k: int) -> Any:
    return ask(((12, 12), (15 + k, 30)))


def save(model: Any, folder: Path, say: Say) -> None:
    session = session_on(model)
    session.instructions = target(0)
    session.step(2)
    for k in range(1, SAVES):
        session.instructions = target(k)
        session.save(folder / "edit.drag")
        say(k)


WORK = {work.__name__: work for work in (lora, inversion, drag, put, save)}


def child(kind: str, model: Any, folder: Path) -> None:
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    WORK[kind](model, folder, lambda what: os.write(said, f"{what}\n".encode()))
    os.write(said, b"done\n")
    for _ in count():
        signal.pause()


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = load_model(sys.argv[1], device="cpu", dtype="float32")
    model.fingerprint  # noqa: B018 - made once, here
    answer("ready")
    pid = 0
    for line in sys.stdin:
        if line.strip() == "reap":
            os.waitpid(pid, 0)
            answer("reaped")
            continue
        kind, folder = line.rstrip("\n").split(" ", 1)
        pid = os.fork()
        if pid == 0:
            try:
                child(kind, model, Path(folder))
            finally:
                os._exit(1)
        answer(pid)


def answer(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
