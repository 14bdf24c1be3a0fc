"""What the user drew: the forms it is taken in, what is refused, its JSON."""

from __future__ import annotations

import dataclasses
import doctest
import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dragwidget.data import instructions as instructions_module
from dragwidget.data import instructions_json
from dragwidget.data.instructions import DragInstructions, PointPair

SIZE = (12, 8)  # width, height: a wide image, so that a swap of axes shows
PAIR = PointPair((1, 2), (3, 4))
TWO_TARGETS = r"^the handle \(1.0, 2.0\) has two targets: it will be pulled between them$"


def wide_mask(*cells: tuple[int, int]) -> np.ndarray:
    """(8, 12) bool, True at the given (row, column)."""
    mask = np.zeros((8, 12), dtype=bool)
    for cell in cells:
        mask[cell] = True
    return mask


def instructions(**changes) -> DragInstructions:
    return DragInstructions(**{"pairs": (PAIR,), "size": SIZE, **changes})


sides = st.integers(1, 40)


@st.composite
def any_instructions(draw) -> DragInstructions:
    width, height = size = draw(st.tuples(sides, sides))
    point = st.tuples(st.floats(0, width, exclude_max=True), st.floats(0, height, exclude_max=True))
    pairs = draw(
        st.lists(
            st.builds(PointPair, point, point), min_size=1, max_size=5, unique_by=lambda p: p.handle
        )
    )
    masks = hnp.arrays(bool, (height, width)).filter(np.any)
    return DragInstructions(
        pairs, size=size, mask=draw(st.none() | masks), prompt=draw(st.text(max_size=20))
    )


# ---------------------------------------------------------------- forms that are taken


@pytest.mark.parametrize(
    "points",
    [
        [(1, 2), (3, 4), (5, 6), (7, 7)],
        [[1, 2], [3, 4], [5, 6], [7, 7]],
        [((1, 2), (3, 4)), ((5, 6), (7, 7))],
        [PointPair((1, 2), (3, 4)), ((5, 6), (7, 7))],
        np.array([[1, 2], [3, 4], [5, 6], [7, 7]]),
        np.array([[[1, 2], [3, 4]], [[5, 6], [7, 7]]], dtype=np.float32),
        [np.array([1, 2]), np.array([3, 4]), np.array([5, 6]), np.array([7, 7])],
    ],
)
def test_points_may_be_flat_or_nested(points):
    made = DragInstructions.from_points(points, size=SIZE)
    assert made.pairs == (PointPair((1, 2), (3, 4)), PointPair((5, 6), (7, 7)))
    assert made.handles_xy.tolist() == [[1, 2], [5, 6]]
    assert made.targets_xy.tolist() == [[3, 4], [7, 7]]


def test_a_pair_takes_arrays():
    assert PointPair(np.array([1, 2]), np.array([3.5, 4.0], np.float32)) == PointPair(
        (1, 2), (3.5, 4)
    )


def test_a_size_is_kept_as_two_plain_numbers():
    size = instructions(size=[np.int64(12), np.int64(8)]).size
    assert size == (12, 8)
    assert [type(side) for side in size] == [int, int]


def test_what_is_not_given_is_not_there():
    made = DragInstructions.from_points([(1, 2), (3, 4)], size=SIZE)
    assert made.mask is None
    assert made.prompt == ""


def test_a_hundred_pairs_are_taken():
    points = [(1, 2), (3, 4)] * 100
    assert len(DragInstructions.from_points(points, size=SIZE).pairs) == 100


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_mask_values_above_zero_may_change(dtype):
    drawn = wide_mask((2, 5), (7, 11))
    made = instructions(mask=drawn.astype(dtype) * dtype(1))
    assert made.mask.dtype == bool
    assert np.array_equal(made.mask, drawn)


def test_negative_mask_values_may_not_change():
    values = wide_mask((2, 5)).astype(int)
    values[0, 0] = -1
    assert np.array_equal(instructions(mask=values).mask, wide_mask((2, 5)))


def test_mask_is_a_read_only_copy():
    drawn = wide_mask((2, 5))
    made = instructions(mask=drawn)
    drawn[:] = True
    assert made.mask.sum() == 1
    with pytest.raises(ValueError, match="read-only"):
        made.mask[0, 0] = True


def test_instructions_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        instructions().prompt = "a fox"


def test_changed_copies_change_one_thing_and_are_validated():
    made = instructions(prompt="a fox")
    assert made.with_pairs([(5, 5), (6, 6)]).pairs == (PointPair((5, 5), (6, 6)),)
    assert made.with_mask(wide_mask((0, 0))).with_mask(None) == made
    assert np.array_equal(made.with_mask(wide_mask((0, 3))).mask, wide_mask((0, 3)))
    assert made.replace(prompt="").prompt == ""
    with pytest.raises(ValueError, match="outside the image"):
        made.with_pairs([(50, 5), (6, 6)])


@pytest.mark.parametrize(
    "changes",
    [
        {"pairs": (PointPair((1, 2), (3, 5)),)},
        {"size": (12, 9)},
        {"mask": wide_mask((0, 0))},
        {"prompt": "a fox"},
    ],
)
def test_equality_and_hash_are_by_content(changes):
    assert instructions() == instructions()
    assert hash(instructions()) == hash(instructions())
    assert instructions(**changes) != instructions()
    assert hash(instructions(**changes)) != hash(instructions())
    assert instructions() != "instructions"


def test_equality_looks_into_the_mask():
    assert instructions(mask=wide_mask((0, 0))) == instructions(mask=wide_mask((0, 0)))
    assert instructions(mask=wide_mask((0, 0))) != instructions(mask=wide_mask((0, 1)))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"pairs": ()},
            ValueError,
            "^no pair of points: give at least one handle and its target$",
        ),
        ({"pairs": (PAIR,) * 101}, ValueError, "at most 100 pairs can be dragged at once, got 101"),
        (
            {"pairs": [(1, 2)]},
            TypeError,
            r"^pairs must be a tuple of PointPair, got \[\(1, 2\)\]: "
            r"DragInstructions\.from_points takes plain numbers$",
        ),
        ({"pairs": None}, TypeError, "pairs must be a tuple of PointPair, got None"),
        (
            {"size": (12,)},
            TypeError,
            r"size must be two whole numbers \(width, height\), got \(12,\)",
        ),
        ({"size": (12.0, 8)}, TypeError, "size must be two whole numbers"),
        ({"size": (0, 8)}, ValueError, r"size must be at least 1 x 1 pixel, got \(0, 8\)"),
        ({"mask": np.ones((12, 8))}, ValueError, "the mask is 8 x 12 but the image is 12 x 8"),
        (
            {"mask": np.zeros((8, 12))},
            ValueError,
            "^the mask is zero everywhere, so the whole image is protected: draw the editable "
            "region, or pass None to make everything editable$",
        ),
        ({"mask": np.ones((8, 12, 3))}, ValueError, r"got shape \(8, 12, 3\): pass one channel"),
        (
            {"mask": np.full((8, 12), np.nan)},
            ValueError,
            "^a mask must be finite, got NaN or infinity: use 0 and 1$",
        ),
        ({"mask": np.full((8, 12), "x")}, TypeError, "booleans or numbers, got dtype <U1"),
        ({"mask": np.full((8, 12), None)}, TypeError, "booleans or numbers, got dtype object"),
        ({"prompt": 7}, TypeError, "the prompt must be a string, got 7"),
        ({"prompt": "\ud83d"}, ValueError, "the prompt is not valid text"),
    ],
)
def test_bad_instructions_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        instructions(**changes)


@pytest.mark.parametrize("point", [(-0.001, 4), (12, 4), (12.5, 4), (4, -0.001), (4, 8), (4, 8.5)])
@pytest.mark.parametrize("name", ["handle", "target"])
def test_a_point_outside_the_image_is_refused(name, point):
    pair = [(5, 5), point] if name == "target" else [point, (5, 5)]
    x, y = map(float, point)
    with pytest.raises(
        ValueError,
        match=rf"^the {name} of pair 2, \({x}, {y}\), is outside the image: "
        r"x must be in \[0, 12\) and y in \[0, 8\)$",
    ):
        DragInstructions.from_points([(1, 2), (3, 4), *pair], size=SIZE)


@pytest.mark.parametrize(
    ("point", "error", "message"),
    [
        ((float("nan"), 1), ValueError, r"a handle point must be finite, got \(nan, 1\)"),
        ((1, float("inf")), ValueError, "a handle point must be finite"),
        ((10**400, 1), ValueError, "a handle point must be finite"),
        ((10**5000, 1), ValueError, r"finite, got \(a number of 16610 bits, 1\)$"),
        ((1, 2, 3), TypeError, r"two numbers \(x, y\), got \(1, 2, 3\)"),
        (("1", "2"), TypeError, "two numbers"),
        ("12", TypeError, "two numbers"),
        ((True, 1), TypeError, "two numbers"),
        (7, TypeError, r"two numbers \(x, y\), got 7"),
    ],
)
def test_a_bad_point_is_refused(point, error, message):
    with pytest.raises(error, match=message):
        PointPair(point, (1, 1))


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ([(1, 2), (3, 4), (5, 6)], ValueError, "length must be even, got 3 points: add the last"),
        ([], ValueError, "no pair of points"),
        ("1234", TypeError, "points must be a list.* got '1234'"),
        (None, TypeError, "points must be a list"),
        ([1, 2, 3, 4], TypeError, r"a pair must be \(handle, target\), each \(x, y\), got 1"),
        ([((1, 2), (3, 4), (5, 6))], TypeError, r"a pair must be \(handle, target\)"),
        (["ab"], TypeError, "a pair must be"),
        ([(1, 2)] * 202, ValueError, "^at most 100 pairs can be dragged at once, got 202 points$"),
    ],
)
def test_bad_lists_of_points_are_refused(points, error, message):
    with pytest.raises(error, match=message):
        DragInstructions.from_points(points, size=SIZE)


def test_one_handle_with_two_targets_is_allowed_with_a_warning():
    pairs = (PAIR, PointPair(PAIR.handle, (5, 5)))
    with pytest.warns(UserWarning, match=TWO_TARGETS) as caught:
        assert instructions(pairs=pairs).pairs == pairs
    assert len(caught) == 1


def test_the_warning_points_to_whoever_gave_two_targets():
    with pytest.warns(UserWarning, match=TWO_TARGETS) as caught:
        DragInstructions((PAIR, PointPair(PAIR.handle, (5, 5))), size=SIZE)
    assert caught[0].filename.endswith("test_instructions.py")


def test_the_same_pair_twice_needs_no_warning():
    assert len(instructions(pairs=(PAIR, PAIR)).pairs) == 2


# ---------------------------------------------------------------- JSON


@pytest.mark.slow
@given(any_instructions())
def test_json_gives_back_the_same_instructions(made):
    assert DragInstructions.from_json(made.to_json()) == made
    assert DragInstructions.from_json(made.to_json().encode()) == made


def test_json_is_an_object_that_others_can_read():
    assert json.loads(
        instructions(mask=wide_mask((0, 0), (0, 1), (7, 11)), prompt="fox").to_json()
    ) == {
        "format": "dragwidget.instructions",
        "version": 1,
        "size": [12, 8],
        "prompt": "fox",
        "points": [[[1.0, 2.0], [3.0, 4.0]]],
        "mask_runs": [0, 2, 93, 1],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, 'wanted an object with "format": "dragwidget.instructions"'),
        ({"version": 2}, "are of version 2, and this dragwidget reads version 1: upgrade"),
        ({"extra": 1}, r"unknown \['extra'\]"),
        ({"size": [0, 8]}, r"size must be two whole numbers, at least 1, got \[0, 8\]"),
        ({"size": [True, 8]}, "size must be two whole numbers"),
        ({"size": "12"}, "size must be two whole numbers"),
        ({"size": [10**9, 10**9]}, "is too large: at most 80,000,000 pixels"),
        ({"points": []}, "no pair of points"),
        ({"points": [[1, 2]]}, "length must be even"),
        ({"points": [[[1, 2], [3, 400]]]}, "outside the image"),
        ({"points": {"a": 1}}, "not drag instructions: points must be a list"),
        ({"points": [[[1, 2], [3, "4"]]]}, "a target point must be two numbers"),
        ({"points": [[[0, 0], [1, 1]]] * 101}, "at most 100 pairs"),
        ({"prompt": 1}, "not drag instructions: the prompt must be a string"),
        ({"mask_runs": [95]}, "must sum to 12 x 8 = 96 pixels, got 95"),
        ({"mask_runs": [10**30]}, "must be whole numbers, none negative, none above 96"),
        ({"mask_runs": [100, -4]}, "must be whole numbers, none negative"),
        ({"mask_runs": [95.0, 1]}, "must be whole numbers"),
        ({"mask_runs": [True] * 96}, "must be whole numbers"),
        ({"mask_runs": "96"}, "must be whole numbers"),
        ({"mask_runs": [96]}, "the mask is zero everywhere"),
    ],
)
def test_hostile_json_is_refused(changes, message):
    text = json.dumps({**json.loads(instructions().to_json()), **changes})
    with pytest.raises(ValueError, match=message):
        DragInstructions.from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not drag instructions: Expecting value"),
        ("[]", "wanted an object"),
        ("{", "not drag instructions"),
        ("[" * 100_000, "not drag instructions"),
        (b"\xff\xfe\xff", "not drag instructions"),
        ('{"size": NaN}', "NaN is not a number that JSON knows"),
        ("1" * 5000, "not drag instructions"),
    ],
)
def test_what_is_no_json_object_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        DragInstructions.from_json(text)


def test_json_with_a_field_missing_is_refused_by_name():
    fields = json.loads(instructions().to_json())
    del fields["points"]
    with pytest.raises(ValueError, match=r"missing \['points'\]"):
        DragInstructions.from_json(json.dumps(fields))


def test_json_that_is_too_long_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(instructions_json, "MAX_LENGTH", 10)
    with pytest.raises(ValueError, match="11 characters of JSON are too many"):
        DragInstructions.from_json("[" * 11)


@pytest.mark.slow
@given(
    st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=6),
    st.data(),
)
def test_json_of_any_values_is_read_or_refused_with_a_value_error(value, data):
    fields = json.loads(instructions(mask=wide_mask((0, 0))).to_json())
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = DragInstructions.from_json(json.dumps(fields))
        except ValueError:
            return
    assert isinstance(made, DragInstructions)


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(instructions_module)
    assert results.attempted
    assert not results.failed
