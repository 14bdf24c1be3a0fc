"""What the disk refuses or somebody else put there stops no edit: it is said and made anew."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

from dragwidget.storage.atomic import (
    PREFIX,
    UNFINISHED,
    Lock,
    is_abandoned,
    owner,
    remove_abandoned,
    whole_file,
)
from dragwidget.storage.cache import DAMAGED, Store
from dragwidget.storage.offload import Offload

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
    path.write_bytes(b"corrupted")
    (store.folder / DAMAGED).write_text("in the way of the folder")
    assert store.get("lora", MADE_BY) is None
    assert "cannot set it aside" in caplog.text
    assert path.read_bytes() == b"corrupted"


def test_what_was_set_aside_goes_after_a_day(store, caplog):
    entry(store).write_bytes(b"corrupted")
    assert store.get("lora", MADE_BY) is None
    (aside,) = (store.folder / DAMAGED).glob("lora-*")
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
    stuck = entry(store).with_name(f"{entry(store).name.partition('.')[0]}.{'1' * 64}.safetensors")
    stuck.mkdir()
    assert store.put("lora", MADE_BY, {"x": torch.arange(7)}, alone=True)
    assert stuck.is_dir()
    assert [found.path for found in store.entries() if found.path != stuck] == [
        path for path in store.folder.glob("lora/*.safetensors") if path != stuck
    ]
    assert len(store.get("lora", MADE_BY)["x"]) == 7


# ---------------------------------------------------------------- files that were not finished


def unfinished(folder, name, age=0.0):
    path = folder / f"{PREFIX}{name}{UNFINISHED}"
    path.write_bytes(b"half of it")
    os.utime(path, (time.time() - age,) * 2)
    return path


ELSEWHERE = f"{'0' * 16}-{'1' * 16}"  # of another machine, or of this one before it was restarted


def test_of_this_machine_what_nobody_holds_a_lock_on_is_removed(tmp_path):
    dead, new = unfinished(tmp_path, owner(), age=61), unfinished(tmp_path, owner())
    alive = unfinished(tmp_path, owner(), age=9 * DAY)
    lock = Lock(alive)
    lock.take()
    os.utime(alive, (0, 0))
    remove_abandoned(tmp_path)
    assert [path.exists() for path in (dead, new, alive)] == [False, True, True]
    lock.release()
    remove_abandoned(tmp_path)
    assert not alive.exists()


def test_a_file_that_is_being_written_is_locked(tmp_path):
    with whole_file(tmp_path / "a") as file:
        (path,) = tmp_path.iterdir()
        os.utime(path, (0, 0))
        remove_abandoned(tmp_path)
        file.write(b"all of it")
    assert (tmp_path / "a").read_bytes() == b"all of it"


def test_of_another_machine_what_is_older_than_a_day_is_removed(tmp_path):
    new = unfinished(tmp_path, ELSEWHERE, age=DAY - 60)
    old = unfinished(tmp_path, ELSEWHERE.replace("1", "2"), age=DAY + 60)
    remove_abandoned(tmp_path)
    assert [path.exists() for path in (new, old)] == [True, False]


@pytest.mark.parametrize("name", ["", "x", "host-12-00", ELSEWHERE[:-1], ELSEWHERE + "0"])
def test_what_is_not_wholly_named_as_ours_is_left_alone(tmp_path, name):
    path = unfinished(tmp_path, name, age=900 * DAY)
    remove_abandoned(tmp_path)
    assert path.exists()


def test_what_is_gone_meanwhile_was_not_abandoned(tmp_path):
    assert not is_abandoned(tmp_path / "gone", ELSEWHERE, 0.0)


OTHER_CONTAINER = """
import sys
from pathlib import Path
from dragwidget.storage.atomic import remove_abandoned
from dragwidget.storage.offload import Offload
remove_abandoned(Path(sys.argv[1]))
Offload(sys.argv[2]).write(1, b"a node")
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs util-linux's unshare")
def test_another_container_on_one_cache_removes_nothing_of_a_living_process(tmp_path):
    """Of the same host name, and with process numbers of its own."""
    offload = Offload(tmp_path / "history")
    node_file = offload.write(1, b"another")
    with whole_file(tmp_path / "a") as file:
        for path in [*tmp_path.glob(".*"), *offload.folder.iterdir(), offload.folder]:
            os.utime(path, (time.time() - 3600,) * 2)
        other = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
        words = [*other, OTHER_CONTAINER, str(tmp_path), str(tmp_path / "history")]
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        if "unshare" in run.stderr:
            pytest.skip(f"no namespaces here: {run.stderr.strip()}")
        assert run.returncode == 0, run.stderr
        file.write(b"all of it")
    assert (tmp_path / "a").read_bytes() == b"all of it"
    assert node_file.read_bytes() == b"another"
