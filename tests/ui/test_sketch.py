"""The sketch: what is drawn, and undo over all of it."""

import numpy as np
import plain_shapes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragwidget.data.instructions import PointPair
from dragwidget.ui.canvas import sketch as sketch_module
from dragwidget.ui.canvas.operations import PackedMask
from dragwidget.ui.canvas.sketch import Sketch

SIZE = (32, 24)
SHAPE = (24, 32)


@pytest.fixture
def sketch():
    return Sketch(SIZE)


def state(sketch):
    return sketch.pairs, None if sketch.mask is None else sketch.mask.tobytes()


POINT = st.tuples(st.floats(0, 31), st.floats(0, 23))
ANYWHERE = st.tuples(st.floats(-30, 60), st.floats(-30, 60))
CHANGES = st.one_of(
    st.tuples(st.just("add_pair"), POINT, POINT),
    st.tuples(st.just("stroke"), st.lists(ANYWHERE, min_size=1, max_size=4), st.floats(1, 30),
              st.booleans()),
    st.tuples(st.just("lasso"), st.lists(ANYWHERE, min_size=3, max_size=5), st.booleans()),
    st.tuples(st.just("rectangle"), ANYWHERE, ANYWHERE, st.booleans()),
    st.tuples(st.just("grow"), st.floats(-4, 4)),
    st.tuples(st.just("invert")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("set_mask"), st.integers(0, 2**32).map(
        lambda seed: np.random.default_rng(seed).random(SHAPE) < 0.5)),
)  # fmt: skip


@given(st.lists(CHANGES, max_size=40))
def test_undo_and_redo_go_through_the_same_states(changes):
    sketch = Sketch(SIZE)
    states = [state(sketch)]
    for name, *args in changes:
        getattr(sketch, name)(*args)
        if state(sketch) != states[-1]:
            states.append(state(sketch))
    back = [state(sketch)]
    while sketch.undo():
        back.append(state(sketch))
    assert back == states[::-1]
    forth = [state(sketch)]
    while sketch.redo():
        forth.append(state(sketch))
    assert forth == states


def test_a_thousand_levels_are_kept_and_the_oldest_go_first():
    sketch = Sketch(SIZE)
    for i in range(1100):
        sketch.rectangle((i % 32, 0), (i % 32 + 1, 24), erase=(i // 32) % 2 == 1)
    count = 0
    while sketch.undo():
        count += 1
    assert count == sketch_module.MAX_LEVELS
    assert sketch.mask is not None  # what came before is not lost, only its undo


@pytest.mark.slow
def test_two_hundred_levels_over_twelve_megapixels_are_small():
    sketch = Sketch((4000, 3000))
    for i in range(200):
        sketch.stroke([(i * 20, 100), (i * 20, 400)], 60, erase=i % 3 == 2)
    assert sketch.nbytes < 4 * 2**20  # 200 copies of the mask would be 2.4 GB
    assert sum(sketch.undo() for _ in range(20)) == 20
    assert sum(sketch.redo() for _ in range(20)) == 20
    assert sketch.can_undo


def test_undo_never_takes_more_than_its_memory(monkeypatch):
    monkeypatch.setattr(sketch_module, "MAX_BYTES", 50_000)
    sketch = Sketch((400, 300))
    noise = np.random.default_rng(0)
    for _ in range(20):
        sketch.set_mask(noise.random((300, 400)) < 0.5)  # 15 KB, however packed
    assert sketch.nbytes < 50_000 + 20_000
    assert sketch.can_undo


def test_a_change_after_undo_drops_what_could_be_redone(sketch):
    sketch.add_pair((1, 1), (2, 2))
    sketch.add_pair((3, 3), (4, 4))
    sketch.undo()
    sketch.invert()
    assert not sketch.can_redo
    assert len(sketch.pairs) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.stroke([(-100, -100)], 4),
        lambda s: s.set_mask(None),
        lambda s: s.grow(3),
        lambda s: s.grow(-3),
        lambda s: s.set_pairs(()),
        lambda s: s.clear(),
    ],
)
def test_what_changes_nothing_is_no_level(sketch, change):
    sketch.rectangle((0, 0), (5, 5))
    sketch.undo()
    change(sketch)
    # A brush that misses leaves an empty mask, which is a change: nothing may change now.
    assert sketch.can_undo == (sketch.mask is not None)


def test_a_brush_starts_on_an_empty_mask_and_an_eraser_on_a_full_one(sketch):
    sketch.stroke([(10, 10)], 6)
    np.testing.assert_array_equal(sketch.mask, plain_shapes.stroke(SHAPE, [(10, 10)], 6))
    sketch.undo()
    sketch.stroke([(10, 10)], 6, erase=True)
    np.testing.assert_array_equal(sketch.mask, ~plain_shapes.stroke(SHAPE, [(10, 10)], 6))


def test_without_a_mask_the_inverse_lets_nothing_change(sketch):
    sketch.invert()
    assert not sketch.mask.any()
    sketch.invert()
    assert sketch.mask.all()


def test_the_version_goes_up_with_the_mask_only(sketch):
    sketch.add_pair((1, 1), (2, 2))
    assert sketch.mask_version == 0
    sketch.stroke([(5, 5)], 3)
    assert sketch.mask_version == 1
    sketch.undo()
    assert sketch.mask_version == 2
    sketch.undo()
    assert sketch.mask_version == 2


def test_the_mask_is_read_only(sketch):
    sketch.stroke([(5, 5)], 3)
    with pytest.raises(ValueError, match="read-only"):
        sketch.mask[0, 0] = True


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda s: s.add_pair((32, 0), (1, 1)), ValueError, r"handle of pair 1, \(32, 0\)"),
        (lambda s: s.add_pair((0, 0), (1, -1)), ValueError, "target of pair 1"),
        (lambda s: s.add_pair((0, "a"), (1, 1)), TypeError, "two numbers"),
        (lambda s: s.set_pairs("ab"), TypeError, "sequence of PointPair"),
        (lambda s: s.set_pairs(3), TypeError, "sequence of PointPair"),
        (lambda s: s.set_pairs([3]), TypeError, "handle, target"),
        (lambda s: s.set_pairs([((1, 1), (2, 2))] * 101), ValueError, "at most 100"),
        (lambda s: s.move_handle(0, (1, 1)), IndexError, "no pair 0"),
        (lambda s: s.delete_pair(-1), IndexError, "no pair -1"),
        (lambda s: s.stroke([], 3), ValueError, "N >= 1"),
        (lambda s: s.stroke([(1, 2)], 0), ValueError, "greater than 0 pixels, got 0"),
        (lambda s: s.stroke([(1, float("nan"))], 3), ValueError, "finite"),
        (lambda s: s.stroke([(1, 1e9)], 3), ValueError, "million"),
        (lambda s: s.stroke("ab", 3), TypeError, "list of"),
        (lambda s: s.stroke(np.zeros((200_000, 2)), 3), ValueError, "100,000"),
        (lambda s: s.lasso([(1, 2), (3, 4)]), ValueError, "N >= 3"),
        (lambda s: s.grow(float("inf")), ValueError, "radius must be finite, in pixels, got inf"),
        (lambda s: s.set_mask(np.zeros((3, 3))), ValueError, r"\(24, 32\)"),
        (lambda s: s.set_mask(np.full(SHAPE, np.nan)), ValueError, "finite"),
        (lambda s: s.set_mask([["a"]]), TypeError, "booleans or numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_changes_nothing(sketch, change, error, says):
    sketch.stroke([(5, 5)], 3)
    before = state(sketch)
    with pytest.raises(error, match=says):
        change(sketch)
    assert state(sketch) == before
    assert sketch.undo()
    assert not sketch.can_undo


def test_pairs_can_be_moved_and_deleted(sketch):
    assert sketch.add_pair((1, 1), (2, 2)) == 0
    assert sketch.add_pair((3, 3), (4, 4)) == 1
    sketch.move_handle(0, (5, 5))
    sketch.move_target(1, (6, 6))
    assert sketch.pairs == (PointPair((5, 5), (2, 2)), PointPair((3, 3), (6, 6)))
    sketch.delete_pair(0)
    assert sketch.pairs == (PointPair((3, 3), (6, 6)),)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_a_packed_mask_is_the_same_mask(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    np.testing.assert_array_equal(PackedMask.of(mask, mask.shape).unpack(), mask)
    assert PackedMask.of(None, (height, width)).unpack() is None
