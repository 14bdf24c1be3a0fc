"""A disk that is full, read-only or emptied, a clock set back, a file cut off: no work is lost."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sessions import N, Passes, ask, session_on, settings_of, state, waves

from dragwidget.diffusion.loading import load_model
from dragwidget.session.journal import KEPT, Journal, restore
from dragwidget.session.session import DragSession
from dragwidget.storage.cache import Store
from dragwidget.ui.widget import DragWidget

FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.WARNING, logger="dragwidget")


def failing(error, *, until=None):
    """Raises the error; ``until`` as many calls as that were made."""
    count = [0]

    def fail(*_, **__):
        count[0] += 1
        if until is None or count[0] <= until:
            raise error

    return fail


def widget_on(tiny, folder):
    """A widget that keeps its stages and its edit below a folder."""
    session = DragSession(tiny, store=Store(folder / "store"))
    session.settings = settings_of(tiny, lora_steps=1)
    session.set_image(waves(), "a cat")
    return DragWidget(session, instructions=ask(), clock="sync", journal=folder / "edits" / "this")


def undisturbed(tiny):
    session = session_on(tiny, lora_steps=1)
    session.instructions = ask()
    session.step(3)
    return session


def assert_same_steps(session, other):
    assert len(session.history) == len(other.history)
    for one, two in zip(session.history, other.history, strict=True):
        assert torch.equal(one.latent, two.latent)


@pytest.mark.parametrize(
    ("where", "error"), [("os.fsync", FULL), ("pathlib.Path.mkdir", READ_ONLY)], ids=["full", "ro"]
)
def test_an_edit_goes_on_where_nothing_can_be_written(
    tiny, tmp_path, monkeypatch, caplog, where, error
):
    monkeypatch.setattr(where, failing(error))
    widget = widget_on(tiny, tmp_path)
    widget.run(3)
    assert np.array_equal(widget.wait(), undisturbed(tiny).render())
    assert (widget.state, widget.index, widget.error) == ("idle", 3, "")
    assert error.strerror in caplog.text
    assert "is not kept for other sessions" in caplog.text
    assert "the edit is not written down" in caplog.text
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {".dragwidget-store", ".dragwidget-journal"}  # empty marks, and no half file
    widget.close()


def test_a_session_that_cannot_be_saved_says_so_and_stays_as_it_was(tiny, tmp_path, monkeypatch):
    session = undisturbed(tiny)
    before = state(session)
    monkeypatch.setattr("os.fsync", failing(FULL))
    with pytest.raises(OSError, match="No space left on device"):
        session.save(tmp_path / "edit.drag")
    assert state(session) == before
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    session.save(tmp_path / "edit.drag")
    assert_same_steps(DragSession.load(tmp_path / "edit.drag", tiny), session)


@contextmanager
def little_space(size):
    """The system itself refuses what makes a file longer than so many bytes.

    No longer than it must: the test run's own log is a file like any other.
    """
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 100, 10_000])
def test_a_disk_that_fills_up_within_a_file_stops_no_edit(tiny, tmp_path, caplog, size):
    expected = undisturbed(tiny).render()
    widget = widget_on(tiny, tmp_path)
    with little_space(size):
        widget.run(3)
        assert np.array_equal(widget.wait(), expected)
    assert (widget.state, widget.error) == ("idle", "")
    assert "the reference is not kept for other sessions: " in caplog.text
    store = widget.session.stages.store
    assert all(entry.size <= size for entry in store.entries())
    assert store.verify() == []
    assert list(tmp_path.rglob(".*unfinished")) == []
    widget.close()


def test_a_read_only_cache_still_gives_what_is_in_it(tiny, tmp_path, monkeypatch, caplog):
    def edited():
        session = DragSession(tiny, store=Store(tmp_path))
        session.settings = settings_of(tiny, lora_steps=1)
        session.set_image(waves(), "a cat")
        session.instructions = ask()
        session.step(2)
        return session, session.render()

    first, expected = edited()
    before = set(tmp_path.rglob("*"))
    for where in ("os.utime", "os.replace", "os.fsync", "pathlib.Path.mkdir"):
        monkeypatch.setattr(where, failing(READ_ONLY))
    with Passes(tiny) as passes:
        again, image_again = edited()
    assert passes.count == 3 + N  # of two steps and the render: nothing is made anew
    assert np.array_equal(image_again, expected)
    assert_same_steps(again, first)
    assert caplog.text == ""
    for entry in Store(tmp_path).entries():
        entry.path.write_bytes(b"corrupted")
    again, image_again = edited()
    assert np.array_equal(image_again, expected)
    assert "is damaged" in caplog.text
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_an_interrupt_while_anything_is_written_leaves_nothing_half_done(
    tiny, tmp_path, monkeypatch, where
):
    expected = undisturbed(tiny).render()
    plain = os.fsync if where == "os.fsync" else os.replace
    calls = [0]

    def at(number):
        def call(*arguments, **named):
            calls[0] += 1
            if calls[0] == number:
                raise KeyboardInterrupt
            return plain(*arguments, **named)

        return call

    def edited(folder):
        widget = widget_on(tiny, folder)
        while True:
            try:
                if widget.index < 3:
                    widget.run(3 - widget.index)
                else:
                    widget.render()
                image = widget.wait()
                if image is not None:
                    return widget, image
            except KeyboardInterrupt:
                assert widget.state == "idle"

    number, writes = 0, 1
    while number <= writes:  # 0: without an interrupt, to count them
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            calls[0] = 0
            patch.setattr(where, at(number))
            widget, image = edited(folder)
        writes = writes if number else calls[0]
        assert np.array_equal(image, expected), number
        assert_same_steps(widget.session, undisturbed(tiny))
        assert Store(folder / "store").verify() == []
        assert list(folder.rglob(".*unfinished")) == []
        widget.step(1)  # what was interrupted last may be the last step itself
        widget.wait()
        again, _ = restore(folder / "edits" / "this", tiny)
        assert_same_steps(again, widget.session)
        widget.close()
        number += 1
    assert writes >= 9  # LoRA, inversion, reference, the edit, its steps, and what is drawn


def test_when_there_is_space_again_every_step_is_written_down(tiny, tmp_path, monkeypatch):
    session = session_on(tiny)
    session.instructions = ask()
    journal = Journal(tmp_path / "journal")
    journal.drew(session)
    for number in range(1, 5):
        session.step()
        with monkeypatch.context() as full:
            if number == 2:
                full.setattr("os.fsync", failing(FULL))
            journal.took_step(session)
    again, _ = restore(tmp_path / "journal", tiny)
    assert_same_steps(again, session)


def test_a_cache_that_is_deleted_meanwhile_is_written_anew(tiny, tmp_path):
    widget = widget_on(tiny, tmp_path)
    widget.step(2)
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(tmp_path / "edits")
    widget.step(1)
    widget.wait()
    assert widget.error == ""
    assert_same_steps(widget.session, undisturbed(tiny))
    again, _ = restore(tmp_path / "edits" / "this", tiny)
    assert_same_steps(again, widget.session)
    widget.session.set_image(waves(), "a dog")
    widget.session.prepare()
    assert len(Store(tmp_path / "store").entries()) == 2
    widget.close()


def test_a_clock_that_is_set_back_removes_no_edit_that_is_written(tiny, tmp_path):
    session = undisturbed(tiny)
    for number in range(KEPT + 1):
        later = Journal(tmp_path / f"later {number}")
        later.folder.mkdir()
        for name in ("session.drag", "drawn.json"):
            (later.folder / name).touch()
            os.utime(later.folder / name, (4e9, 4e9))  # in 2096, as far as this clock knows
    journal = Journal(tmp_path / "this")
    journal.drew(session)
    assert_same_steps(restore(journal.folder, tiny)[0], session)
    session.step()
    journal.took_step(session)
    assert_same_steps(restore(journal.folder, tiny)[0], session)


def test_a_clock_that_is_set_back_throws_nothing_out_that_was_just_kept(tmp_path):
    store = Store(tmp_path)
    tensors = {"x": torch.zeros(1000)}
    for name in "abc":
        store.put("lora", {"image": name}, tensors)
    for entry in store.entries():
        os.utime(entry.path, (4e9, 4e9))
    store.limit = 3 * store.entries()[0].size
    assert store.put("lora", {"image": "d"}, tensors)
    assert store.get("lora", {"image": "d"}) is not None
    assert len(store.entries()) == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_model_with_any_file_cut_off_is_refused_and_the_whole_one_still_loads(
    tiny_folder, tiny, tmp_path, share
):
    files = sorted(p.relative_to(tiny_folder) for p in tiny_folder.rglob("*") if p.is_file())
    needed = [f for f in files if f.suffix == ".safetensors" or f.name.endswith("config.json")]
    assert len(needed) >= 6
    for name in [*needed, Path("model_index.json")]:
        if name.parts[0] == "tokenizer":
            continue  # its own configuration may be missing
        folder = shutil.copytree(tiny_folder, tmp_path / "cut", dirs_exist_ok=True)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="again"):
            load_model(folder, device="cpu")
        (folder / name).write_bytes(content)
        assert load_model(folder, device="cpu").fingerprint == tiny.fingerprint
