"""What is written down of an edit while it is made, and what a crash leaves of it."""

import gc
import inspect
import logging
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from interrupting import interrupted, lines_of, name_of
from session_files import changed_node, of_json, rewrite
from tiny_sessions import FAR, ask, left_half, session_on, waves

from dragwidget.session.journal import DRAWN, KEPT, MARK, WHOLE, Journal, journals, restore
from dragwidget.session.session import DragSession
from dragwidget.session.session_file import load
from dragwidget.storage.cache import default_folder
from dragwidget.ui.widget import DragWidget


def dragged(tiny, folder, steps=3):
    """A session of so many steps, each written down."""
    session = session_on(tiny)
    session.instructions = ask()
    journal = Journal(folder)
    journal.drew(session)
    for _ in range(steps):
        session.step()
        journal.took_step(session)
    return session, journal


def assert_same_history(one, other):
    assert len(one.nodes) == len(other.nodes)
    for a, b in zip(one.nodes, other.nodes, strict=True):
        assert torch.equal(a.latent, b.latent)
        assert torch.equal(a.moments.second, b.moments.second)
        assert (a.number, a.parent, a.handles, a.anchor_nodes) == (
            b.number,
            b.parent,
            b.handles,
            b.anchor_nodes,
        )
    assert one.current.number == other.current.number


def test_every_step_is_there_again(tiny, tmp_path):
    session, _ = dragged(tiny, tmp_path)
    again, _ = restore(tmp_path, tiny)
    assert_same_history(session.history, again.history)
    assert again.instructions == session.instructions
    assert again.settings == session.settings
    np.testing.assert_array_equal(np.asarray(again.image), np.asarray(session.image))


def test_a_drag_goes_on_as_if_nothing_had_happened(tiny, tmp_path):
    session, _ = dragged(tiny, tmp_path)
    again, _ = restore(tmp_path, tiny)
    session.step()
    again.step()
    assert torch.equal(session.history.current.latent, again.history.current.latent)


@pytest.mark.slow
def test_branches_and_where_it_stands_are_there_again(tiny, tmp_path):
    session, journal = dragged(tiny, tmp_path)
    session.rewind(1)
    session.instructions = ask(FAR)
    session.step()
    journal.took_step(session)
    session.rewind(1)
    journal.drew(session)
    again, _ = restore(tmp_path, tiny)
    assert_same_history(session.history, again.history)
    assert len(again.history.tips) == 2


@pytest.mark.slow
def test_another_inversion_is_written_down_too(tiny, tmp_path):
    session, journal = dragged(tiny, tmp_path)
    fewer = replace(session.settings.inversion, steps=session.settings.inversion.steps - 1)
    session.settings = replace(session.settings, inversion=fewer)
    session.step()
    journal.took_step(session)
    again, _ = restore(tmp_path, tiny)
    assert len(again.edits) == 2
    assert_same_history(session.history, again.history)


@pytest.mark.slow
def test_a_step_costs_a_small_file_and_the_whole_is_written_once(tiny, tmp_path):
    dragged(tiny, tmp_path, steps=1)
    written = (tmp_path / WHOLE).stat().st_mtime_ns
    dragged(tiny, tmp_path / "b", steps=5)
    whole = tmp_path / "b" / WHOLE
    assert len(load(whole, tiny).edits[0].nodes) == 2
    steps = list((tmp_path / "b").glob("step-*"))
    assert len(steps) == 4
    assert max(step.stat().st_size for step in steps) < whole.stat().st_size
    assert (tmp_path / WHOLE).stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_step_that_the_journal_never_heard_of_is_written_with_the_next(tiny, tmp_path):
    session, journal = dragged(tiny, tmp_path)
    session.step()  # and an interrupt
    session.step()
    journal.took_step(session)
    again, _ = restore(tmp_path, tiny)
    assert_same_history(session.history, again.history)
    session.step()
    journal.took_step(session)
    assert [path.name.split(".")[0][-4:] for path in tmp_path.glob("step-*")] == ["-0-6"]
    again, _ = restore(tmp_path, tiny)
    assert_same_history(session.history, again.history)


@pytest.mark.slow
def test_a_step_that_came_with_what_is_drawn_is_not_written_twice(tiny, tmp_path):
    session, journal = dragged(tiny, tmp_path)
    (tmp_path / WHOLE).unlink()
    session.step()
    journal.drew(session)
    before = (tmp_path / WHOLE).stat().st_mtime_ns
    journal.took_step(session)
    assert (tmp_path / WHOLE).stat().st_mtime_ns == before
    assert list(tmp_path.glob("step-*")) == []
    again, _ = restore(tmp_path, tiny)
    assert_same_history(session.history, again.history)


@pytest.mark.slow
def test_a_damaged_step_ends_what_is_restored(tiny, tmp_path, caplog):
    session, _ = dragged(tiny, tmp_path, steps=5)
    (third,) = tmp_path.glob("step-*-0-3.*")
    third.write_bytes(third.read_bytes()[:-1])
    again, _ = restore(tmp_path, tiny)
    assert "damaged" in caplog.text
    assert len(again.history.nodes) == 3
    assert torch.equal(again.history.nodes[2].latent, session.history.nodes[2].latent)


def write_as(path, change):
    """Another step in the place of a written one, whole and under the right name."""
    content, name = changed_node(path.read_bytes(), change)
    place, _, ending = path.name.split(".")
    path.unlink()
    path.with_name(f"{place}.{name}.{ending}").write_bytes(content)


def of_other_instructions(data, _tensors):
    data["instructions"] = "0" * 64


def of_a_later_parent(data, _tensors):
    data["parent"] = 7


def of_no_node(_data, _tensors):
    return "[" * 100_000


def without_instructions(data, _tensors):
    del data["instructions"]


def of_another_size(_data, tensors):
    for name, tensor in tensors.items():
        tensors[name] = tensor[:, :2].contiguous()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [of_other_instructions, of_a_later_parent, of_no_node, without_instructions, of_another_size],
)
def test_a_step_of_something_else_ends_what_is_restored(tiny, tmp_path, caplog, change):
    session, _ = dragged(tiny, tmp_path, steps=4)
    (third,) = tmp_path.glob("step-*-0-3.*")
    write_as(third, change)
    again, _ = restore(tmp_path, tiny)
    assert "is no step of this edit: " in caplog.text
    assert len(again.history.nodes) == 3
    assert torch.equal(again.history.current.latent, session.history.nodes[2].latent)


@pytest.mark.slow
def test_a_step_that_is_written_again_as_it_was_is_restored(tiny, tmp_path):
    session, _ = dragged(tiny, tmp_path, steps=4)
    (third,) = tmp_path.glob("step-*-0-3.*")
    write_as(third, lambda *_: None)
    assert_same_history(session.history, restore(tmp_path, tiny)[0].history)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"prompt": 1}', b'{"prompt": "a", "settings": {}}']
)
def test_damage_to_what_was_drawn_keeps_the_rest(tiny, tmp_path, caplog, content):
    caplog.set_level(logging.CRITICAL)
    dragged(tiny, tmp_path)
    (tmp_path / DRAWN).write_bytes(content)
    again, _ = restore(tmp_path, tiny)
    assert len(again.history.nodes) == 4


def test_nothing_to_restore_is_said():
    with pytest.raises(FileNotFoundError, match="no edit to restore"):
        restore()


def test_what_cannot_be_written_stops_nothing(tiny, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    session, _ = dragged(tiny, tmp_path / "file" / "journal")
    assert len(session.history.nodes) == 4
    assert "not written down" in caplog.text


@pytest.mark.slow
def test_after_an_interrupt_at_any_line_no_thread_waits_for_the_journal(tiny, tmp_path):
    session, journal = dragged(tiny, tmp_path)
    source, first = inspect.getsourcelines(Journal._safely)
    last = first + next(k for k, line in enumerate(source) if line.strip() == "finally:")

    def write():
        journal.took_step(session)

    places = [at for at in lines_of(write) if at[0][0] is Journal._safely.__code__]
    places = [at for at in places if at[0][1] < last]  # no signal is heard between its lines
    assert len(places) > 5
    for at in places:
        assert interrupted(write, at), name_of(at)
        other = threading.Thread(target=write, daemon=True)
        other.start()
        other.join(30)
        assert not other.is_alive(), name_of(at)
    session.step()
    write()
    assert_same_history(session.history, restore(tmp_path, tiny)[0].history)


def test_a_second_journal_in_a_folder_is_refused_and_does_not_wait(tiny, tmp_path, caplog):
    session = session_on(tiny)
    session.instructions = ask()
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.drew(session)
    second.drew(session)
    assert "another edit that is open writes here" in caplog.text
    session.step()
    first.took_step(session)
    restored, _ = restore(tmp_path, tiny)
    assert restored.history.current.number == 1


@pytest.mark.slow
def test_the_folder_may_be_deleted_meanwhile(tiny, tmp_path, caplog):
    import shutil

    caplog.set_level(logging.CRITICAL)
    session, journal = dragged(tiny, tmp_path / "j")
    shutil.rmtree(tmp_path / "j")
    session.step()
    journal.took_step(session)
    assert len(session.history.nodes) == 5


@pytest.mark.slow
def test_only_the_newest_are_kept(tiny):
    session = session_on(tiny)
    made = []
    for k in range(KEPT + 2):
        journal = Journal()
        journal.drew(session)
        made.append(journal.folder)
        for path in journal.folder.iterdir():
            os.utime(path, (1e9 + k, 1e9 + k))
    assert len(journals()) <= KEPT + 1
    assert journals()[0] == made[-1]
    assert not made[0].exists()


# ---------------------------------------------------------------- the widget


@pytest.mark.slow
def test_a_widget_comes_back_with_everything(tiny):
    widget = DragWidget(session_on(tiny), instructions=ask(), clock="sync")
    widget.run(3)
    widget.rewind(2)
    widget.canvas.set_mask(left_half())
    widget.prompt = "another"
    state = widget.instructions, widget.settings, widget.prompt, widget.session
    widget.close()
    again = DragWidget.restore(clock="sync", device="cpu", dtype="float32")
    assert (again.instructions, again.settings, again.prompt) == state[:3]
    assert [len(edit.history.nodes) for edit in again.session.edits] == [
        len(edit.history.nodes) for edit in state[3].edits
    ]
    again.close()


@pytest.mark.slow
def test_a_journal_of_a_closed_widget_may_be_gone_on_with_though_the_widget_is_held(tiny, tmp_path):
    widget = DragWidget(session_on(tiny), instructions=ask(), clock="sync", journal=tmp_path)
    widget.step(1)
    widget.close()
    again, _ = restore(tmp_path, tiny)
    journal = Journal(tmp_path)
    again.step()
    journal.took_step(again)
    assert len(restore(tmp_path, tiny)[0].history) == 2


@pytest.mark.slow
def test_a_journal_never_loads_the_model_that_it_names(tiny, tmp_path, monkeypatch):
    dragged(tiny, tmp_path)
    model = {"name": "attacker/beacon", "fingerprint": "another"}
    rewrite(tmp_path / WHOLE, of_json(lambda content: content["model"].update(model)))

    def no_loading(*_, **__):
        raise AssertionError("a journal made us load a model")

    monkeypatch.setattr("dragwidget.session.session_file.load_model", no_loading)
    for take_up in (restore, DragWidget.restore):
        with pytest.raises(ValueError, match="which a file may not load: load it"):
            take_up(tmp_path, device="cpu")


@pytest.mark.slow
def test_a_mask_without_a_pair_comes_back(tiny):
    widget = DragWidget(session_on(tiny), clock="sync")
    widget.canvas.set_mask(left_half())
    widget.close()
    again = DragWidget.restore(clock="sync", device="cpu", dtype="float32")
    np.testing.assert_array_equal(again.canvas.mask, left_half())
    again.close()


@pytest.mark.slow
def test_a_widget_without_a_journal_writes_nothing(tiny):
    widget = DragWidget(session_on(tiny), instructions=ask(), clock="sync", journal=False)
    widget.run(2)
    widget.close()
    assert journals() == []


@pytest.mark.slow
def test_another_image_of_the_same_size_is_what_is_restored(tiny, tmp_path):
    session = session_on(tiny, steps=2)
    journal = Journal(tmp_path)
    session.instructions = ask()
    session.prepare()
    journal.drew(session)
    session.step(1)
    journal.took_step(session)
    session.set_image(waves(seed=7), "a cat")
    session.instructions = ask()
    session.prepare()
    journal.drew(session)
    for _ in session.drag(steps=2):
        journal.took_step(session)
    restored, _ = restore(tmp_path, tiny)
    assert np.array_equal(restored.image, session.image)
    assert_same_history(restored.history, session.history)


def test_an_image_that_is_chosen_and_not_dragged_is_what_is_restored(tiny, tmp_path):
    session = session_on(tiny)
    journal = Journal(tmp_path)
    session.instructions = ask()
    session.prepare()
    journal.drew(session)
    session.set_image(waves(seed=7), "a dog")
    journal.drew(session)
    restored, _ = restore(tmp_path, tiny)
    assert restored.request == session.request
    assert restored.prompt == "a dog"


@pytest.mark.slow
def test_a_journal_that_lives_and_files_that_are_not_ours_are_not_tidied_away(tiny, monkeypatch):
    monkeypatch.setattr("dragwidget.session.journal.KEPT", 1)
    session = session_on(tiny)
    session.instructions = ask()
    home = default_folder() / "edits"
    (home / "thesis-2024").mkdir(parents=True)
    (home / "thesis-2024" / "session.drag").write_bytes(b"of the user")
    living, dead = Journal(), Journal()
    living.drew(session)
    dead.drew(session)
    for path in [*living.folder.iterdir(), *dead.folder.iterdir(), *home.glob("thesis*/*")]:
        os.utime(path, (1, 1))
    gone = dead.folder
    (gone / "notes.txt").write_text("of the user")
    os.utime(gone / "notes.txt", (1, 1))
    del dead
    gc.collect()
    Journal().drew(session)
    assert (living.folder / WHOLE).exists()
    assert [path.name for path in gone.iterdir() if path.name != MARK] == ["notes.txt"]
    assert (home / "thesis-2024" / "session.drag").read_bytes() == b"of the user"


@pytest.mark.slow
def test_a_session_is_saved_whole_while_a_drag_goes_on(tiny, tmp_path):
    session = session_on(tiny, steps=40, stop_distance=0.01)
    session.instructions = drawn = ask()
    session.prepare()
    errors, saved = [], 0

    def drag():
        for k, _ in enumerate(session.drag()):
            session.instructions = drawn.with_pairs([((12, 12), (50 - k % 7 * 0.1, 36))])

    thread = threading.Thread(target=drag)
    thread.start()
    while thread.is_alive():
        try:
            session.save(tmp_path / "a.drag")
            saved += 1
        except Exception as error:
            errors.append(error)
    assert errors == []
    assert saved
    opened = DragSession.load(tmp_path / "a.drag", tiny)
    for node, other in zip(opened.history.nodes, session.history.nodes, strict=False):
        assert torch.equal(node.latent, other.latent)
