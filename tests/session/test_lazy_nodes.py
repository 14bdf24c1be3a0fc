"""Nodes of a saved session are read when the edit goes to them, and no sooner."""

import shutil
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from same_sessions import assert_same
from session_files import read_parts
from tiny_models import noise
from tiny_sessions import ask, session_on

from dragwidget.drag.optimizer import Moments
from dragwidget.session.journal import Journal, restore
from dragwidget.session.node import NodeFile, NodeTensors
from dragwidget.session.session import DragSession

NODES = 300


def tensors_of(number, shape):
    first, second = noise(*shape, seed=2 * number), noise(*shape, seed=2 * number + 1)
    return NodeTensors((first + second, Moments(first, second, number)))


def long_session(tiny):
    """Two steps that were taken, and 298 that look like the second, each with its own tensors."""
    session = session_on(tiny)
    session.instructions = ask()
    session.step(2)
    history, second = session.history, session.history.current
    for number in range(3, NODES + 1):
        tensors = tensors_of(number, second.latent.shape)
        step = replace(second.step, index=number, stored=tensors.read_latent)
        new = {"number": number, "parent": number - 1, "tensors": tensors, "step": step}
        history.append(replace(second, **new))
    return session


@pytest.fixture(scope="module")
def session(tiny):
    """Read only."""
    return long_session(tiny)


@pytest.fixture(scope="module")
def data(session, tmp_path_factory):
    path = tmp_path_factory.mktemp("lazy") / "long.drag"
    session.save(path)
    return path.read_bytes()


@pytest.fixture
def path(data, tmp_path):
    (tmp_path / "long.drag").write_bytes(data)
    return tmp_path / "long.drag"


@pytest.fixture
def visited(monkeypatch):
    """Numbers of the nodes whose tensors were read."""
    numbers, read = [], NodeFile.read

    def counted(file):
        numbers.append(file.number)
        return read(file)

    monkeypatch.setattr(NodeFile, "read", counted)
    return numbers


@pytest.fixture
def bytes_read(monkeypatch):
    """How many bytes of each part of a zip were read."""
    counts, read = {}, zipfile.ZipExtFile.read

    def counted(part, n=-1):
        found = read(part, n)
        counts[part.name] = counts.get(part.name, 0) + len(found)
        return found

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    return counts


def test_opening_reads_of_the_nodes_their_headers_and_the_tip(
    path, tiny, session, visited, bytes_read
):
    loaded = DragSession.load(path, tiny)
    assert set(visited) == {NODES}
    assert [node.number for node in loaded.history.nodes if node.tensors.held] == [0, NODES]
    tensors = 3 * session.history.current.latent.nbytes
    for number in range(1, NODES):
        name = f"edit-0/node-{number}.safetensors"
        with zipfile.ZipFile(path) as archive:
            assert bytes_read[name] == archive.getinfo(name).file_size - tensors
    assert [step.index for step in loaded.history] == list(range(1, NODES + 1))
    assert loaded.history[7].distances.shape == (1,)  # what is shown of a step needs no tensor
    assert set(visited) == {NODES}


@pytest.mark.slow
def test_masks_of_many_steps_take_what_the_file_explains(tiny, tmp_path):
    """100 masks of 1500 x 1000, each in a few bytes of the file, are 150 MB as arrays."""
    session, (width, height), count = session_on(tiny), (1500, 1000), 100
    session.set_image(np.zeros((height, width, 3), np.uint8), "a cat", max_side=64)
    for number in range(1, count + 1):
        mask = np.ones((height, width), bool)
        mask[0, :number] = False
        drawn = ask(((200, 200), (900, 800)), size=(width, height), mask=mask)
        if number == 1:
            session.instructions = drawn
            session.step()
            first = session.history.current
        else:
            step = replace(first.step, index=number)
            new = {"number": number, "parent": number - 1, "instructions": drawn, "step": step}
            session.history.append(replace(first, **new))
    session.save(tmp_path / "masks.drag")
    tracemalloc.start()
    try:
        loaded = DragSession.load(tmp_path / "masks.drag", tiny)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * (tmp_path / "masks.drag").stat().st_size < 60e6
    masks = [node.instructions.mask for node in loaded.history.nodes[1:]]
    assert [mask.size - mask.sum() for mask in masks] == list(range(1, count + 1))


def test_a_node_is_read_when_the_edit_goes_to_it_and_once(path, tiny, session, visited):
    history = DragSession.load(path, tiny).history
    visited.clear()
    history.rewind(17)
    assert torch.equal(history.current.latent, session.history.nodes[17].latent)
    assert torch.equal(history.current.step.latent, session.history.nodes[17].latent)
    assert visited == [17]


@pytest.mark.slow
def test_every_node_comes_back_bit_for_bit(path, tiny, session):
    assert_same(session, DragSession.load(path, tiny))


@pytest.mark.slow
def test_a_session_is_saved_in_the_place_of_the_file_that_it_is_read_from(path, tiny, session):
    loaded = DragSession.load(path, tiny)
    for _ in range(2):
        loaded.save(path)
        assert_same(session, loaded)
    assert_same(session, DragSession.load(path, tiny))
    path.unlink()
    assert_same(session, loaded)


def test_a_damaged_node_is_named_when_it_is_asked_for_and_the_others_go_on(
    path, tiny, session, data
):
    corrupted = bytearray(data)
    name = b"edit-0/node-18.safetensors"
    corrupted[data.index(name) - 100] ^= 1  # in the tensors of the one before
    path.write_bytes(corrupted)
    history = DragSession.load(path, tiny).history
    with pytest.raises(OSError, match=r"node 17 of the history is lost: .*long\.drag.* is damaged"):
        history.rewind(17)
    assert history.current.number == NODES
    assert torch.equal(history.rewind(18).latent, session.history.nodes[18].latent)


def test_every_node_is_a_safetensors_file_that_others_open(path, tmp_path, session):
    (tmp_path / "node").write_bytes(read_parts(path)["edit-0/node-17.safetensors"])
    with safe_open(tmp_path / "node", "pt") as opened:
        assert sorted(opened.keys()) == ["latent", "moment_1", "moment_2"]
        assert torch.equal(opened.get_tensor("latent"), session.history.nodes[17].latent)
        assert '"parent": 16' in opened.metadata()["node"]


def journal_of(tiny, folder):
    """A session of eight steps, each written down."""
    session = session_on(tiny, steps=100)
    session.instructions = ask()
    journal = Journal(folder)
    for _ in range(8):
        session.step()
        journal.took_step(session)
    session.ended = None  # a step that is written down does not say why the drag was over
    return session


@pytest.mark.slow
def test_a_journal_is_restored_lazily_and_may_be_removed_then(tiny, tmp_path, visited):
    session = journal_of(tiny, tmp_path / "journal")
    restored, _ = restore(tmp_path / "journal", tiny)
    assert set(visited) <= {1, 8}  # the tip of the whole, and the last step
    shutil.rmtree(tmp_path / "journal")
    assert_same(session, restored)


@pytest.mark.slow
def test_a_journal_on_a_file_system_without_links_is_copied(tiny, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("no links here")

    session = journal_of(tiny, tmp_path / "journal")
    monkeypatch.setattr("os.link", no_links)
    restored, _ = restore(tmp_path / "journal", tiny)
    shutil.rmtree(tmp_path / "journal")
    assert_same(session, restored)


@pytest.mark.slow
def test_where_the_last_steps_are_lost_the_edit_stands_before_them(tiny, tmp_path, caplog):
    journal_of(tiny, tmp_path)
    for number in (7, 8):
        (path,) = tmp_path.glob(f"step-*-0-{number}.*")
        corrupted = bytearray(path.read_bytes())
        corrupted[-1] ^= 1
        path.write_bytes(corrupted)
    restored, _ = restore(tmp_path, tiny)
    assert restored.history.current.number == 6
    assert "node 8 of the history is lost" in caplog.text
    restored.step()
    assert len(restored.history.nodes) == 10
