"""What is kept on disk: whole or not at all, found again, checked to the byte, and bounded."""

import itertools
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from fuzzing import bounded_memory
from tiny_sessions import ask, waves

from dragwidget.__main__ import main
from dragwidget.session.session import DragSession
from dragwidget.storage import atomic
from dragwidget.storage.atomic import UNFINISHED
from dragwidget.storage.cache import MARK, Store, default_folder

MADE_BY = {"image": "a", "settings": {"steps": 3}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def tensors(seed=0, size=64):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(size, generator=generator), "y": torch.arange(size)}


def assert_same(found, expected):
    assert found is not None
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_what_was_put_is_got_to_the_bit(store):
    assert store.put("lora", MADE_BY, tensors())
    assert_same(store.get("lora", MADE_BY), tensors())


def test_nothing_is_got_that_was_made_by_something_else(store):
    store.put("lora", MADE_BY, tensors())
    assert store.get("inversion", MADE_BY) is None
    assert store.get("lora", {**MADE_BY, "image": "b"}) is None
    assert store.get("lora", {**MADE_BY, "settings": {"steps": 4}}) is None


def test_the_order_of_the_reasons_does_not_matter(store):
    store.put("lora", MADE_BY, tensors())
    assert_same(store.get("lora", dict(reversed(MADE_BY.items()))), tensors())


def test_a_second_put_of_the_same_is_one_entry(store):
    for _ in range(2):
        store.put("lora", MADE_BY, tensors())
    (entry,) = store.entries()
    assert (entry.kind, entry.made_by()) == ("lora", MADE_BY)


def test_the_folder_is_the_one_that_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DRAGWIDGET_CACHE", str(tmp_path / "named"))
    assert Store().folder == default_folder() == tmp_path / "named"
    monkeypatch.delenv("DRAGWIDGET_CACHE")
    assert "dragwidget" in default_folder().name


def test_nothing_is_written_until_something_is_kept(store):
    assert store.get("lora", MADE_BY) is None
    assert store.entries() == []
    assert store.verify() == []
    assert not store.folder.exists()


def test_every_flipped_byte_is_found(store, caplog):
    caplog.set_level(logging.CRITICAL)
    store.put("lora", MADE_BY, tensors(size=16))
    (entry,) = store.entries()
    content = entry.path.read_bytes()
    places = random.Random(0).sample(range(len(content)), min(400, len(content)))
    for place in places:
        corrupted = bytearray(content)
        corrupted[place] ^= 1 << place % 8
        entry.path.write_bytes(corrupted)
        assert store.get("lora", MADE_BY) is None
        assert not entry.path.exists()
    entry.path.write_bytes(content)
    assert_same(store.get("lora", MADE_BY), tensors(size=16))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_a_cut_file_is_set_aside_and_said(store, caplog, length):
    store.put("lora", MADE_BY, tensors())
    (entry,) = store.entries()
    entry.path.write_bytes(entry.path.read_bytes()[:length])
    assert store.get("lora", MADE_BY) is None
    assert "damaged" in caplog.text
    aside = sorted(path.name[:5] for path in (store.folder / "damaged").iterdir())
    assert aside == [MARK[:5], "lora-"]
    assert store.put("lora", MADE_BY, tensors())
    assert_same(store.get("lora", MADE_BY), tensors())


def test_verify_names_what_is_damaged_and_leaves_the_rest(store, caplog):
    caplog.set_level(logging.CRITICAL)
    for name in "abc":
        store.put("lora", {"image": name}, tensors(ord(name)))
    corrupted = store.entries()[1].path
    corrupted.write_bytes(corrupted.read_bytes() + b"x")
    assert store.verify() == [corrupted]
    assert store.verify() == []
    assert len(store.entries()) == 2


def test_what_was_used_longest_ago_makes_room(store):
    for name in "abc":
        store.put("lora", {"image": name}, tensors())
    age = itertools.count()
    for entry in sorted(store.entries(), key=lambda e: e.made_by()["image"]):
        now = 1_000_000 + next(age)
        os.utime(entry.path, (now, now))
    assert store.get("lora", {"image": "a"}) is not None  # used now
    store.limit = 3 * store.entries()[0].size
    store.put("lora", {"image": "d"}, tensors())
    assert {e.made_by()["image"] for e in store.entries()} == {"a", "c", "d"}


def test_what_is_larger_than_the_limit_is_not_kept(store, caplog):
    store.limit = 100
    assert not store.put("lora", MADE_BY, tensors())
    assert "limit" in caplog.text
    assert store.entries() == []


def test_a_limit_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 byte"):
        Store(tmp_path, limit=0)


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "store")
    assert not store.put("lora", MADE_BY, tensors())
    assert "not kept" in caplog.text
    assert store.get("lora", MADE_BY) is None
    assert (store.entries(), store.verify(), store.clear()) == ([], [], 0)


def test_a_full_disk_stops_nothing_and_leaves_nothing(store, caplog, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not store.put("lora", MADE_BY, tensors())
    assert "No space left" in caplog.text
    assert [path.name for path in store.folder.rglob("*") if path.is_file()] == [MARK]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's own numbers")
def test_what_does_not_fit_into_memory_is_as_good_as_not_there(store, caplog):
    size = 2**24  # of 64 MB, which no allocator has ready
    store.put("reference", MADE_BY, {"x": torch.zeros(size)})
    with bounded_memory(2**25):
        assert store.get("reference", MADE_BY) is None
    assert "MemoryError" in caplog.text
    assert torch.equal(store.get("reference", MADE_BY)["x"], torch.zeros(size))


def test_a_folder_that_is_deleted_meanwhile_is_made_again(store):
    import shutil

    store.put("lora", MADE_BY, tensors())
    shutil.rmtree(store.folder)
    assert store.get("lora", MADE_BY) is None
    assert store.put("lora", MADE_BY, tensors())
    assert_same(store.get("lora", MADE_BY), tensors())


def test_a_clock_set_back_changes_only_the_order(store):
    store.put("lora", MADE_BY, tensors())
    (entry,) = store.entries()
    os.utime(entry.path, (4e9, 4e9))  # in 2096
    assert_same(store.get("lora", MADE_BY), tensors())
    store.put("lora", {"image": "b"}, tensors())
    assert len(store.entries()) == 2
    assert store.verify() == []


def test_a_link_is_not_followed(store, tmp_path):
    (tmp_path / "secret").write_bytes(b"of the user")
    (store.folder / "lora").mkdir(parents=True)
    (store.folder / "lora" / "x.y.safetensors").symlink_to(tmp_path / "secret")
    assert (store.entries(), store.verify()) == ([], [])
    assert (tmp_path / "secret").read_bytes() == b"of the user"


# ---------------------------------------------------------------- several processes


FLOATS = 4096  # of an entry
ROOM = 12 * 4 * FLOATS  # bytes: for fewer than 12, as each has a header


def _work(folder, seed, seconds, failures):
    """Puts, gets and checks, on few names, with room for half of them."""
    chance, store = random.Random(seed), Store(folder, limit=ROOM)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            name = chance.randrange(20)
            made_by = {"image": name}
            found = store.get("lora", made_by)
            if found is None:
                store.put("lora", made_by, {"x": torch.full((FLOATS,), float(name))})
            elif not bool((found["x"] == name).all()):
                failures.put(f"{name} was {found['x'][0]}")
    except BaseException as error:
        failures.put(repr(error))


@pytest.mark.slow
def test_many_processes_share_a_folder_though_some_are_killed(store, caplog, monkeypatch):
    caplog.set_level(logging.CRITICAL)
    seconds = float(os.environ.get("DRAGWIDGET_STORE_SECONDS", "5"))
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    chance = random.Random(0)

    def start(seed):
        worker = context.Process(target=_work, args=(store.folder, seed, seconds, failures))
        worker.start()
        return worker

    workers = [start(seed) for seed in range(8)]
    end = time.monotonic() + seconds + 2
    killed = 0
    while time.monotonic() < end:
        time.sleep(seconds / 10)
        victim = chance.randrange(8)
        if workers[victim].is_alive() and killed < 6:
            os.kill(workers[victim].pid, signal.SIGKILL)
            killed += 1
    for worker in workers:
        worker.join(60)
    assert killed
    assert failures.empty(), failures.get()
    monkeypatch.setattr(atomic, "JUST_MADE", 0.0)  # whoever was killed while it wrote is dead
    assert store.verify() == []
    assert not list(store.folder.rglob(f"*{UNFINISHED}"))
    assert not (store.folder / "damaged").exists()
    # Whoever was killed before it made room leaves that to the next.
    assert Store(store.folder, limit=ROOM).put("lora", {"image": -1}, {"x": torch.zeros(FLOATS)})
    assert len(store.entries()) < 12


def users_files(folder):
    """What a user may keep in the folder that is named as the store's."""
    digest = "ab" * 32
    names = [
        "loras/mine.safetensors",
        "sd15/v1-5-pruned.safetensors",
        "lora/mine.safetensors",
        f"lora/{digest}.safetensors",
        f"lora/{digest}.{digest}.safetensors.bak",
        f"checkpoints/{digest}.{digest}.safetensors",
        "lora/.hidden.unfinished",
        "damaged/thesis.tex",
        f"damaged/other-{digest}.{digest}.safetensors",
        "notes.txt",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"of the user")
        os.utime(folder / name, (0, 0))
    return names


def test_in_a_folder_of_the_users_only_our_own_files_are_touched(tmp_path, monkeypatch):
    names = users_files(tmp_path)
    store = Store(tmp_path, limit=10_000)
    assert (store.entries(), store.verify(), store.clear()) == ([], [], 0)
    for k in range(4):
        store.put("lora", {"image": k}, {"x": torch.zeros(1000)})
    assert 1 <= len(store.entries()) < 4
    (damaged, *_) = store.entries()
    damaged.path.write_bytes(b"corrupted")
    assert store.verify() == [damaged.path]
    monkeypatch.setenv("DRAGWIDGET_CACHE", str(tmp_path))
    assert main(["store", "verify"]) == 0
    assert main(["store", "clear"]) == 0
    assert store.entries() == []
    assert all((tmp_path / name).read_bytes() == b"of the user" for name in names)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*names, f"lora/{MARK}", f"damaged/{MARK}"}


def test_files_named_as_ours_in_a_folder_without_our_mark_are_not_ours(tmp_path):
    store = Store(tmp_path)
    store.put("lora", MADE_BY, tensors())
    (tmp_path / "lora" / MARK).unlink()
    assert (store.entries(), store.verify(), store.clear()) == ([], [], 0)
    assert len(list((tmp_path / "lora").iterdir())) == 1


def test_a_folder_that_is_a_link_is_not_emptied(tmp_path):
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.put("lora", MADE_BY, tensors())
    store = Store(tmp_path / "store")
    store.folder.mkdir()
    (store.folder / "lora").symlink_to(elsewhere.folder / "lora")
    assert (store.entries(), store.clear()) == ([], 0)
    assert len(elsewhere.entries()) == 1


def test_threads_put_the_same_at_once(store):
    threads = [
        threading.Thread(target=store.put, args=("lora", MADE_BY, tensors())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.entries()) == 1
    assert store.verify() == []


# ---------------------------------------------------------------- sessions


def passes(model):
    """Counts passes of the network."""
    counted = []
    handle = model.unet.register_forward_hook(lambda *_: counted.append(1))
    return counted, handle


def session_with(store, model, **lora):
    from dataclasses import replace

    session = DragSession(model, store=store)
    inversion = replace(session.settings.inversion, steps=5)
    trained = replace(session.settings.lora, **{"steps": 2, "batch_size": 1, **lora})
    session.settings = replace(session.settings, inversion=inversion, lora=trained)
    session.set_image(waves(), "a thing")
    return session


@pytest.mark.slow
def test_a_second_session_trains_and_inverts_nothing(store, tiny):
    first = session_with(store, tiny).invert()
    counted, handle = passes(tiny)
    try:
        second = session_with(store, tiny).invert()
    finally:
        handle.remove()
    assert counted == []
    assert second.lora.digest == first.lora.digest
    for a, b in zip(first.latents, second.latents, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["prompt", "settings", "image", "lora"])
def test_another_edit_finds_nothing_of_it(store, tiny, change):
    session_with(store, tiny).prepare()
    session = session_with(store, tiny, **({"seed": 5} if change == "lora" else {}))
    if change == "prompt":
        session.prompt = "another thing"
    elif change == "settings":
        from dataclasses import replace

        fewer = replace(session.settings.inversion, steps=4)
        session.settings = replace(session.settings, inversion=fewer)
    elif change == "image":
        session.set_image(waves()[::-1], "a thing")
    counted, handle = passes(tiny)
    try:
        session.prepare()
    finally:
        handle.remove()
    assert counted


@pytest.mark.slow
def test_a_given_lora_is_part_of_what_made_an_inversion(store, tiny):
    trained = session_with(store, tiny).train_lora()
    session = session_with(store, tiny)
    session.use_lora(trained.map(lambda matrix: 2 * matrix))
    doubled = session.invert()
    plain = session_with(store, tiny).invert()
    assert not torch.equal(doubled.latents[-1], plain.latents[-1])


@pytest.mark.slow
def test_an_edit_is_the_same_with_a_store_and_without(store, tiny):
    def edited(kept):
        session = session_with(kept, tiny)
        session.instructions = ask()
        session.run(steps=2)
        return session.history.current.latent

    with_new, with_kept, without = edited(store), edited(store), edited(None)
    assert torch.equal(with_new, without)
    assert torch.equal(with_kept, without)


@pytest.mark.slow
def test_a_damaged_entry_costs_time_and_nothing_else(store, tiny, caplog):
    caplog.set_level(logging.CRITICAL)
    first = session_with(store, tiny).invert()
    for entry in store.entries():
        entry.path.write_bytes(entry.path.read_bytes()[:-1])
    again = session_with(store, tiny).invert()
    assert torch.equal(first.latents[-1], again.latents[-1])


# ---------------------------------------------------------------- the command line


@pytest.mark.slow
def test_the_command_lists_verifies_and_clears(store, tiny, capsys, caplog):
    caplog.set_level(logging.CRITICAL)
    session_with(store, tiny).prepare()
    folder = ["--folder", str(store.folder)]
    assert main(["store", "path", *folder]) == 0
    assert capsys.readouterr().out.strip() == str(store.folder)
    assert main(["store", "list", *folder]) == 0
    out = capsys.readouterr().out
    assert "a thing" in out
    assert "2 entries" in out
    assert main(["store", "verify", *folder]) == 0
    path = store.entries()[0].path
    path.write_bytes(b"nonsense")
    assert main(["store", "list", *folder]) == 0
    assert "damaged: see verify" in capsys.readouterr().out
    assert main(["store", "verify", *folder]) == 1
    assert "1 damaged" in capsys.readouterr().out
    assert main(["store", "clear", *folder]) == 0
    assert store.entries() == []
