"""What the disk refuses or somebody else put there stops no edit: it is said and made anew."""

from __future__ import annotations

import hashlib
import os
import socket
import time

import pytest
import torch

from dragwidget.storage.atomic import PREFIX, UNFINISHED, is_abandoned, remove_abandoned
from dragwidget.storage.cache import DAMAGED, Store

MADE_BY = {"image": "a"}
TENSORS = {"x": torch.arange(5)}
DAY = 24 * 3600.0


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    assert made.put("lora", MADE_BY, TENSORS)
    return made


def entry(store):
    (found,) = store.entries()
    return found.path


def test_what_cannot_be_read_is_said_and_as_good_as_not_there(store, caplog):
    path = entry(store)
    path.unlink()
    path.mkdir()  # which no reading reads, whoever one is
    assert store.get("lora", MADE_BY) is None
    assert f"cannot read {path}" in caplog.text
    assert "it is made again" in caplog.text
    assert path.is_dir()


def test_of_two_the_one_that_can_be_read_is_got(store):
    digest = entry(store).name.partition(".")[0]
    (store.folder / "lora" / f"{digest}.0000.safetensors").mkdir()
    assert torch.equal(store.get("lora", MADE_BY)["x"], TENSORS["x"])


def test_right_bytes_that_are_no_tensors_are_damaged(store, caplog):
    path = entry(store)
    digest = hashlib.sha256(b"not tensors").hexdigest()
    other = path.with_name(f"{path.name.partition('.')[0]}.{digest}.safetensors")
    path.unlink()
    other.write_bytes(b"not tensors")
    assert store.get("lora", MADE_BY) is None
    assert "is damaged: set aside" in caplog.text
    aside = store.folder / DAMAGED / f"lora-{other.name}"
    assert aside.read_bytes() == b"not tensors"
    assert store.entries() == []


def test_what_cannot_be_set_aside_is_said_and_stays(store, caplog):
    path = entry(store)
    path.write_bytes(b"spoilt")
    (store.folder / DAMAGED).write_text("in the way of the folder")
    assert store.get("lora", MADE_BY) is None
    assert "cannot set it aside" in caplog.text
    assert path.read_bytes() == b"spoilt"


def test_what_was_set_aside_goes_after_a_day(store, caplog):
    entry(store).write_bytes(b"spoilt")
    assert store.get("lora", MADE_BY) is None
    (aside,) = (store.folder / DAMAGED).iterdir()
    store.put("lora", MADE_BY, TENSORS)
    assert aside.exists()
    os.utime(aside, (time.time() - DAY - 60,) * 2)
    store.put("lora", MADE_BY, TENSORS)
    assert not aside.exists()
    assert caplog.text.count("is damaged") == 1


def test_one_thing_alone_is_kept_of_what_was_made_by_the_same(store):
    store.put("lora", MADE_BY, {"x": torch.arange(6)})
    assert len(store.entries()) == 2
    store.put("lora", MADE_BY, {"x": torch.arange(7)}, alone=True)
    assert len(store.entries()) == 1
    assert len(store.get("lora", MADE_BY)["x"]) == 7


def test_what_cannot_be_removed_stays_and_the_rest_goes(store):
    stuck = entry(store).with_name(f"{entry(store).name.partition('.')[0]}.1111.safetensors")
    stuck.mkdir()
    assert store.put("lora", MADE_BY, {"x": torch.arange(7)}, alone=True)
    assert stuck.is_dir()
    assert [found.path for found in store.entries() if found.path != stuck] == [
        path for path in store.folder.glob("lora/*") if path != stuck
    ]
    assert len(store.get("lora", MADE_BY)["x"]) == 7


# ---------------------------------------------------------------- files that were not finished


def unfinished(folder, host, pid, age=0.0):
    path = folder / f"{PREFIX}{host}-{pid}-abcdef{UNFINISHED}"
    path.write_bytes(b"half of it")
    os.utime(path, (time.time() - age,) * 2)
    return path


DEAD = 2**22 + 1  # more than Linux gives out


def test_of_this_machine_only_what_dead_processes_left_is_removed(tmp_path):
    here = socket.gethostname()
    mine = unfinished(tmp_path, here, os.getpid(), age=9 * DAY)
    first = unfinished(tmp_path, here, 1)  # the system's first process is there, whoever's it is
    dead = unfinished(tmp_path, here, DEAD)
    beyond = unfinished(tmp_path, here, 10**30)  # no number of a process: it is left alone
    remove_abandoned(tmp_path)
    assert [path.exists() for path in (mine, first, dead, beyond)] == [True, True, False, True]


def test_of_another_machine_what_is_older_than_a_day_is_removed(tmp_path):
    new = unfinished(tmp_path, "elsewhere", DEAD, age=DAY - 60)
    old = unfinished(tmp_path, "elsewhere", 1, age=DAY + 60)
    nameless = unfinished(tmp_path, socket.gethostname(), "x", age=DAY + 60)
    remove_abandoned(tmp_path)
    assert [path.exists() for path in (new, old, nameless)] == [True, False, False]


def test_what_is_gone_meanwhile_was_not_abandoned(tmp_path):
    assert not is_abandoned(tmp_path / "gone", "elsewhere-1-abcdef", 0.0)
