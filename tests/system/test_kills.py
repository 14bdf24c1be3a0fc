"""A process that is killed at any moment: what was finished is there, and the rest goes on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killable import DRAG_STEPS, LORA_STEPS, PUTS, made_by, session_with, target
from tiny_sessions import N, Passes, session_on

from dragwidget.session import stages as making
from dragwidget.session.journal import DRAWN, WHOLE, restore
from dragwidget.session.session import DragSession
from dragwidget.storage import atomic
from dragwidget.storage.cache import Store

KILLS = int(os.environ.get("DRAGWIDGET_KILLS", "3"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


class Killer:
    """Starts work in processes of its own, and kills them."""

    def __init__(self, model_folder):
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        self._forks = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).parents[1] / "support" / "killable.py"),
                str(model_folder),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        self._spans = {}
        assert self._answer() == "ready"

    def _answer(self):
        return self._forks.stdout.readline().strip()

    def _ask(self, what):
        self._forks.stdin.write(f"{what}\n")
        self._forks.stdin.flush()
        return self._answer()

    def close(self):
        self._forks.stdin.close()
        self._forks.wait(60)
        self._forks.stdout.close()

    def span(self, kind, folder):
        """Seconds that a kind of work takes when nothing kills it."""
        if kind not in self._spans:
            folder.mkdir()
            begun = time.monotonic()
            pid = int(self._ask(f"{kind} {folder}"))
            while "done" not in said(folder):
                time.sleep(0.005)
            self._spans[kind] = time.monotonic() - begun
            os.kill(pid, signal.SIGKILL)
            self._ask("reap")
        return self._spans[kind]

    def kill_in(self, kind, folder, chance):
        """Begin work, kill it at a random moment; return what it said it had done."""
        seconds = chance.random() * self.span(kind, folder / "not killed")
        pid = int(self._ask(f"{kind} {folder}"))
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        assert self._ask("reap") == "reaped"
        return said(folder)


def said(folder):
    """Whole lines that the work has said."""
    path = folder / "said"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def steps(lines):
    """How many things were done last, of work that counts them."""
    return max((int(line) for line in lines if line.isdigit()), default=0)


@pytest.fixture(scope="module")
def killer(tiny_folder):
    killer = Killer(tiny_folder)
    yield killer
    killer.close()


@pytest.fixture(params=range(KILLS))
def chance(request):
    return random.Random(request.param)


@pytest.fixture(autouse=True)
def _checkpoints_now_and_then(monkeypatch):
    monkeypatch.setattr(making, "CHECKPOINT_SECONDS", making.CHECKPOINT_SECONDS)


@pytest.fixture(autouse=True)
def _whoever_was_killed_is_dead(monkeypatch):
    """No file was just made by a process that has not locked it yet."""
    monkeypatch.setattr(atomic, "JUST_MADE", 0.0)


@pytest.fixture(scope="module")
def whole(tiny):
    """The LoRA of a training that nothing interrupted."""
    return session_on(tiny, lora_steps=LORA_STEPS).train_lora()


@pytest.fixture(scope="module")
def latents(tiny):
    """Of an inversion that nothing interrupted."""
    return session_on(tiny, lora_steps=2).invert().latents


def unfinished(folder):
    return list(folder.rglob(".*unfinished"))


def test_a_training_goes_on_from_its_last_step(tiny, killer, tmp_path, whole, chance):
    done = killer.kill_in("lora", tmp_path, chance)
    store = Store(tmp_path / "store")
    assert store.verify() == []
    with Passes(tiny) as passes:
        lora = session_with(tiny, tmp_path, LORA_STEPS).train_lora()
    assert passes.count <= LORA_STEPS - steps(done)
    assert "done" not in done or passes.count == 0
    assert lora.digest == whole.digest
    assert [entry.kind for entry in store.entries()] == ["lora"]
    assert unfinished(tmp_path) == []


def test_an_inversion_is_there_whole_or_made_again(tiny, killer, tmp_path, latents, chance):
    done = killer.kill_in("inversion", tmp_path, chance)
    store = Store(tmp_path / "store")
    assert store.verify() == []
    with Passes(tiny) as passes:
        made = session_with(tiny, tmp_path, 2).invert()
    trained = steps([line.removeprefix("lora ") for line in done])
    inverting = any(line.startswith("inversion") for line in done)
    assert passes.count <= (0 if "done" in done else N if inverting else 2 - trained + N)
    assert all(map(torch.equal, made.latents, latents))
    assert sorted(entry.kind for entry in store.entries()) == ["inversion", "lora"]
    assert unfinished(tmp_path) == []


def test_a_drag_loses_no_step_that_was_taken(tiny, killer, tmp_path, chance):
    done = killer.kill_in("drag", tmp_path, chance)
    journal = tmp_path / "journal"
    if not (journal / WHOLE).exists():
        assert steps(done) == 0
        return
    session, _ = restore(journal, tiny)
    nodes = len(session.history.nodes) if session.edits else 1
    assert steps(done) <= nodes <= min(steps(done) + 1, 1 + DRAG_STEPS)
    if done:
        assert json.loads((journal / DRAWN).read_bytes())["points"]
        session.step()
    assert unfinished(tmp_path) == []


def test_what_was_put_is_there_and_nothing_else(killer, tmp_path, chance):
    done = killer.kill_in("put", tmp_path, chance)
    store = Store(tmp_path / "store")
    assert store.verify() == []
    assert unfinished(tmp_path) == []
    kept = [k for k in range(PUTS) if store.get("lora", made_by(k)) is not None]
    count = sum(line.isdigit() for line in done)
    assert kept == list(range(len(kept)))
    assert count <= len(kept) <= count + 1
    for k in kept:
        assert bool((store.get("lora", made_by(k))["x"] == k).all())


def test_a_file_that_was_there_is_whole_old_or_new(tiny, killer, tmp_path, chance):
    path = tmp_path / "edit.drag"
    session = session_on(tiny)
    session.instructions = target(0)
    session.save(path)
    done = steps(killer.kill_in("save", tmp_path, chance))
    loaded = DragSession.load(path, tiny)
    assert loaded.instructions.pairs in (target(done).pairs, target(done + 1).pairs)
    if done:
        assert len(loaded.history.nodes) == 3
    session.save(path)
    assert unfinished(tmp_path) == []
