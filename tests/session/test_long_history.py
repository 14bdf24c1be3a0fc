"""A long history: quick at any length, bounded in memory, and the same bits from disk."""

import gc
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from lines_run import lines_run
from same_sessions import same
from tiny_models import noise
from tiny_sessions import FAR, ask, session_on

from dragwidget.drag.loop import DragStep
from dragwidget.drag.optimizer import Moments
from dragwidget.session import history as history_module
from dragwidget.session.history import History
from dragwidget.session.journal import Journal, restore
from dragwidget.session.node import Node, NodeTensors
from dragwidget.session.session import DragSession
from dragwidget.storage.atomic import owner
from dragwidget.storage.cache import default_folder
from dragwidget.storage.offload import MARK
from dragwidget.ui.widget import DragWidget
from dragwidget.ui.widget.view import TRAIL, _thinned

SHAPE = (1, 1, 2, 2)
NODE = 3 * 4 * 4  # bytes of one


def start(memory=None):
    zeros = torch.zeros(SHAPE)
    return History(Node(0, 0, NodeTensors((zeros, Moments.zeros(zeros))), 681), memory=memory)


def latent(number):
    return noise(*SHAPE, seed=3 * number)


def grow(history, steps):
    """Go on from where it stands, each node with tensors of its own."""
    for _ in range(steps):
        number = len(history.nodes)
        points, reached = np.zeros((1, 2)), np.zeros(1, dtype=bool)
        tensors = [noise(*SHAPE, seed=3 * number + k) for k in range(3)]
        held = NodeTensors((tensors[0], Moments(tensors[1], tensors[2], number)))
        step = DragStep(
            len(history) + 1, 1.0, {}, points, points, np.ones(1), reached, held.read_latent
        )  # fmt: skip
        history.append(Node(number, history.current.number, held, 681, step=step))


def tensors(node):
    return [node.latent, *vars(node.moments).values()]


def in_memory(history):
    return [node.number for node in history.nodes[1:] if node.tensors.held]


@pytest.fixture
def _three_in_memory(monkeypatch):
    """As if three steps of the tiny session filled the memory."""
    monkeypatch.setattr(history_module, "MEMORY", 3 * 3 * 4 * 4 * 16 * 16)


# ---------------------------------------------------------------- the tree


def test_what_was_used_longest_ago_is_on_disk_and_reads_the_same():
    history = start(memory=4 * NODE)
    grow(history, 10)
    assert in_memory(history) == [7, 8, 9, 10]
    for node in history.nodes[1:]:
        assert torch.equal(node.latent, latent(node.number))
        assert torch.equal(node.step.latent, latent(node.number))
        assert torch.equal(node.moments.first, noise(*SHAPE, seed=3 * node.number + 1))
        assert torch.equal(node.moments.second, noise(*SHAPE, seed=3 * node.number + 2))
        assert node.moments.count == node.number
    assert in_memory(history) == [7, 8, 9, 10]


@pytest.mark.usefixtures("_three_in_memory")
def test_a_step_that_somebody_holds_keeps_its_latent(tiny):
    session = dragged(tiny, 0)
    step = session.step()
    latent = step.latent.clone()
    session.step(6)
    assert not session.history.nodes[1].tensors.held
    shutil.rmtree(session.history.offload.folder)
    assert torch.equal(step.latent, latent)


@pytest.mark.slow
def test_a_step_of_a_history_that_is_gone_still_reads_its_latent():
    history = start(memory=NODE)
    grow(history, 4)
    step = history[0]
    del history
    gc.collect()
    assert torch.equal(step.latent, latent(1))


def test_where_one_stands_is_in_memory_and_goes_on_from_there():
    history = start(memory=2 * NODE)
    grow(history, 5)
    history.rewind(1)
    assert in_memory(history) == [1, 5]
    assert torch.equal(history.current.latent, latent(1))
    assert torch.equal(history.current.step.latent, latent(1))
    grow(history, 2)
    assert in_memory(history) == [6, 7]
    assert [node.number for node in history.path()] == [0, 1, 6, 7]
    history.go_to(3)
    assert in_memory(history) == [3, 7]
    assert history.tip.number == 5


def test_a_folder_that_is_gone_is_named_and_the_rest_goes_on():
    history = start(memory=2 * NODE)
    grow(history, 5)
    shutil.rmtree(history.offload.folder)
    for ask_for in (
        lambda: history.rewind(2),
        lambda: history.go_to(2),
        lambda: history.nodes[2].latent,
        lambda: history.nodes[2].step.latent,
    ):
        with pytest.raises(FileNotFoundError, match=rf"node 2 .*{history.offload.folder.name}"):
            ask_for()
        assert history.current.number == 5
    history.rewind(4)
    grow(history, 3)
    assert torch.equal(history.rewind(5).latent, latent(6))
    history.rewind(4)  # was in memory, was written again, and is back


def test_a_file_that_was_changed_is_refused():
    history = start(memory=2 * NODE)
    grow(history, 5)
    path = history.offload.folder / "2.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(OSError, match=r"node 2 of the history is lost: .*damaged"):
        history.rewind(2)
    assert history.current.number == 5


def test_a_disk_that_is_full_leaves_all_in_memory(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DRAGWIDGET_CACHE", str(tmp_path / "file" / "cache"))
    history = start(memory=2 * NODE)
    grow(history, 20)
    assert len(in_memory(history)) == 20
    assert 1 <= caplog.text.count("stays in memory") <= 4


@pytest.mark.slow
def test_its_files_go_with_it():
    history = start(memory=2 * NODE)
    grow(history, 5)
    folder = history.offload.folder
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert folder.is_relative_to(default_folder())
    del history
    gc.collect()
    assert not folder.exists()


def left_behind(home, name, *, marked=True):
    """A folder as a killed process leaves it, long ago."""
    (home / name).mkdir(parents=True)
    (home / name / "7.safetensors").write_bytes(b"a latent")
    if marked:
        (home / name / MARK).touch()
        os.utime(home / name / MARK, (0, 0))
    os.utime(home / name, (0, 0))
    return home / name


def test_files_of_a_process_that_was_killed_go_when_the_next_history_writes():
    home = default_folder() / "history"
    dead, elsewhere = (left_behind(home, name) for name in (owner(), f"{'0' * 16}-{'1' * 16}"))
    history = start(memory=2 * NODE)
    assert dead.exists()  # a history that writes nothing touches no disk
    grow(history, 5)
    assert not dead.exists()
    assert not elsewhere.exists()


def test_folders_that_are_not_wholly_ours_are_never_removed():
    home = default_folder() / "history"
    thesis = left_behind(home, "thesis-2024")
    unmarked = left_behind(home, owner(), marked=False)
    shared = left_behind(home, owner())
    (shared / "notes.txt").write_text("years of work")
    grow(start(memory=2 * NODE), 5)
    assert (thesis / "7.safetensors").exists()
    assert (unmarked / "7.safetensors").exists()
    assert (shared / "notes.txt").read_text() == "years of work"
    assert not (shared / "7.safetensors").exists()


def test_a_history_of_no_steps_is_there():
    history = start()
    assert history
    assert len(history) == 0


def test_a_short_history_writes_nothing():
    history = start()
    grow(history, 50)
    assert not history.offload.folder.exists()
    assert not default_folder().exists()


@pytest.mark.slow
def test_ten_thousand_steps_take_no_more_lines_each_than_a_hundred():
    history = start(memory=10 * NODE)

    def measure():
        last, half = len(history.nodes) - 1, len(history) // 2
        history.tips  # noqa: B018 - the first call after many steps goes through them, once
        return {
            "rewind": lines_run(lambda: (history.rewind(half), history.rewind(last))),
            "path": lines_run(history.path),
            "append": lines_run(lambda: grow(history, 1)),
            "tips": lines_run(lambda: history.tips),
            "last": lines_run(lambda: history[-1]),
        }

    grow(history, 100)  # 90 of them are on disk
    short = measure()
    grow(history, 10_000 - len(history))
    long = measure()
    assert len(in_memory(history)) == 10
    for name in short:
        assert long[name] <= 2 * short[name], (name, short, long)
    assert torch.equal(history.rewind(17).latent, latent(17))
    history.rewind(5_000)
    grow(history, 2)
    # Another branch is found by a walk over its nodes, which reads none of them.
    assert lines_run(lambda: (history.go_to(9_000), history.go_to(10_001))) < 5 * 10_000


def test_memory_does_not_grow_with_the_latents():
    shape = (1, 4, 64, 64)
    history = start(memory=10 * 3 * 4 * 4 * 64 * 64)
    zeros = torch.zeros(shape)
    for k in range(60):
        tensors = NodeTensors((zeros + k, Moments(zeros + 1, zeros + 2, k)))
        history.append(Node(k + 1, history.current.number, tensors, 681))
    held = sum(node.latent.nbytes for node in history.nodes[1:] if node.tensors.held)
    assert held == 10 * zeros.nbytes
    assert len(list(history.offload.folder.glob("*.safetensors"))) == 50


# ---------------------------------------------------------------- a session


def dragged(tiny, steps=8):
    session = session_on(tiny, steps=100)
    session.instructions = ask()
    if steps:
        session.step(steps)
    return session


@pytest.mark.slow
@pytest.mark.usefixtures("_three_in_memory")
def test_rewind_branch_and_render_give_the_same_bits_from_disk(tiny, monkeypatch):
    far = dragged(tiny)
    monkeypatch.setattr(history_module, "MEMORY", 2**30)
    near = dragged(tiny)
    assert not all(node.tensors.held for node in far.history.nodes)
    assert all(node.tensors.held for node in near.history.nodes)
    for session in (far, near):
        session.rewind(2)
        session.instructions = ask(FAR, ((30, 30), (40, 30)))
        session.step(2)
    for a, b in zip(far.history.nodes, near.history.nodes, strict=True):
        assert same(tensors(a), tensors(b))
        assert (a.handles, a.anchor_nodes, a.parent) == (b.handles, b.anchor_nodes, b.parent)
    assert np.array_equal(far.render(1), near.render(1))
    assert np.array_equal(far.preview(2), near.preview(2))


@pytest.mark.slow
@pytest.mark.usefixtures("_three_in_memory")
def test_a_history_on_disk_is_saved_and_written_down(tiny, tmp_path):
    session = dragged(tiny, 1)
    journal = Journal(tmp_path / "journal")
    journal.drew(session)
    for _ in range(7):
        session.step()
        journal.took_step(session)
    session.save(tmp_path / "edit.drag")
    for other in (
        DragSession.load(tmp_path / "edit.drag", tiny),
        restore(tmp_path / "journal", tiny)[0],
    ):
        assert set(in_memory(other.history)) <= {1, 8}  # others are read when they are asked for
        assert len(other.history.nodes) == 9
        for a, b in zip(session.history.nodes, other.history.nodes, strict=True):
            assert same(tensors(a), tensors(b))
        drawn = {id(node.instructions) for node in other.history.nodes[1:]}
        assert len(drawn) <= 2  # a mask is as large as the image: no step has its own


@pytest.mark.usefixtures("_three_in_memory")
def test_a_session_whose_files_are_gone_goes_on(tiny, tmp_path):
    session = dragged(tiny)
    shutil.rmtree(session.history.offload.folder)
    with pytest.raises(FileNotFoundError, match=r"node 1 of the history is gone: it was in "):
        session.save(tmp_path / "edit.drag")
    assert list(tmp_path.glob("*.drag")) == list(tmp_path.glob(".*unfinished")) == []
    with pytest.raises(FileNotFoundError):
        session.rewind(1)
    assert session.history.current.number == 8
    session.rewind(7)
    session.step(1)
    assert len(session.history.nodes) == 10


# ---------------------------------------------------------------- the widget


@pytest.mark.slow
def test_the_widget_follows_a_long_drag_with_no_more_lines_than_a_short_one(tiny):
    session = dragged(tiny, 1)
    widget = DragWidget(session, instructions=ask(), clock="sync", journal=False)
    history, first = session.history, session.history.current
    drawn = []
    widget.canvas.show_tracks = lambda *shown: drawn.append(shown[1])

    def shown():
        """Lines that a report of a step runs, the median of twenty: some draw the curves anew."""
        return sorted(
            lines_run(lambda: widget._view.drag(history.current, hurry=False)) for _ in range(20)
        )[10]

    def go_on(numbers):
        for number in numbers:
            step = replace(first.step, index=number)
            history.append(replace(first, number=number, parent=number - 1, step=step))

    go_on(range(2, 1_001))
    short = shown()
    go_on(range(1_001, 10_001))
    assert shown() <= 1.2 * short
    assert [len(trail) for trail in drawn[-1]] == [TRAIL - 1]  # the start has no handles
    assert lines_run(lambda: widget.rewind(5_000)) < 150 * 10_000
    assert session.history.current.index == 5_000
    widget.close()


def test_a_long_trail_is_thinned_and_keeps_its_ends():
    history = start()
    grow(history, 1_000)
    path = history.path()
    thinned = _thinned(path)
    assert len(thinned) == TRAIL
    assert (thinned[0], thinned[-1]) == (path[0], path[-1])
    assert _thinned(path[:TRAIL]) == path[:TRAIL]
