"""What a file says takes no more memory than its length explains: JSON, run lengths, masks."""

from __future__ import annotations

import copy
import json
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from dragwidget.data import limits, packed_mask
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.instructions_json import from_runs, read_json, to_runs
from dragwidget.data.limits import check_json, parse_json
from dragwidget.data.packed_mask import pack

MB = 2**20


def peak(action) -> tuple[object, int]:
    """What an action returns, or raises as ValueError, and the most memory that it took."""
    tracemalloc.start()
    try:
        result = action()
    except ValueError as error:
        result = error
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return result, most


# ---------------------------------------------------------------- JSON

LAUGHS = {
    "lists": b"[" + b"[]," * (3 * MB) + b"[]]",
    "objects": b"[" + b"{}," * (3 * MB) + b"{}]",
    "objects of one": b"[" + b'{"a":[]},' * MB + b"[]]",
    "deep": b"[" * MB + b"]" * MB,
    "short numbers": b"[" + b"1," * (4 * MB) + b"1]",
}


@pytest.mark.parametrize("name", LAUGHS)
def test_json_that_would_grow_is_refused_before_it_is_parsed(name):
    data = LAUGHS[name]
    error, most = peak(lambda: parse_json(data, "session.json"))
    assert isinstance(error, ValueError)
    assert str(error).startswith("session.json: ")
    assert "no file of ours is like that" in str(error)
    assert most < 3.5 * len(data) + 8 * MB


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        [1.5 / (k + 1) for k in range(200_000)],
        [[float(k), k * 1.25] for k in range(100_000)],
        [{"index": k, "loss": 0.12345678, "handles": [[1.25, 2.5]]} for k in range(50_000)],
        ["[" * 50 + "1,2," * 50 + '"\\' for _ in range(50_000)],
        "a,[{" * 2_000_000,
    ],
)
def test_json_as_we_write_it_is_parsed(value):
    assert parse_json(json.dumps(value).encode(), "it") == value


def test_a_short_text_may_hold_anything():
    assert parse_json(b"[" + b"[]," * 1000 + b"[]]", "it") == [[]] * 1001


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it: Expecting value"),
        (b'{"a": NaN}', "it: NaN is not a number that JSON knows"),
        (b"[" * 20_000, "it: lists or objects nested too deeply|it: Expecting value"),
        (b"9" * 5000, "it: a number of too many digits"),
        (b"\xff\xfe\xff", "it: "),
        (b'"unfinished', "it: Unterminated string"),
    ],
)
def test_what_is_no_json_is_a_value_error_that_names_it(data, says):
    with pytest.raises(ValueError, match=says):
        parse_json(data, "it")


PLAIN = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(PLAIN, lambda some: st.lists(some) | st.dictionaries(st.text(), some)))
def test_what_json_holds_comes_out_as_it_went_in(value):
    for ascii_only in (True, False):
        data = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
        if b"\xed" not in data or ascii_only:  # a lone surrogate is no UTF-8
            assert parse_json(data, "it") == json.loads(data)


def test_the_bound_is_what_objects_take(monkeypatch):
    monkeypatch.setattr(limits, "SLACK", 0)
    numbers = json.dumps(list(range(10_000, 60_000)), separators=(",", ":")).encode()
    _, most = peak(lambda: json.loads(numbers))
    assert most < limits.GROWTH * len(numbers)
    check_json(numbers, "it")


# ---------------------------------------------------------------- run lengths


def text_of(mask: np.ndarray) -> str:
    height, width = mask.shape
    return DragInstructions.from_points(
        [[0, 0], [1, 1]], size=(width, height), mask=mask, prompt='"mask_runs": [1, 2]'
    ).to_json()


def test_run_lengths_of_a_mask_that_is_all_noise_take_little():
    mask = np.random.default_rng(0).random((1500, 2000)) > 0.5
    text = text_of(mask)
    read, most = peak(lambda: DragInstructions.from_json(text))
    assert np.array_equal(read.mask, mask)
    assert read.prompt == '"mask_runs": [1, 2]'
    assert most < 10 * len(text)  # it was 30 times, in numbers of Python


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": "), (",\n ", " : ")])
def test_run_lengths_are_read_however_json_is_spaced(spaces):
    mask = np.random.default_rng(1).random((8, 12)) > 0.5
    fields = json.loads(text_of(mask))
    again = DragInstructions.from_json(json.dumps(fields, separators=spaces))
    assert np.array_equal(again.mask, mask)


@pytest.mark.parametrize(
    "runs",
    [
        *["1,,95", "1 95", ",96", "96,", "48 ,,48", "[96]", "0x60", "-1,97", "1.0,95"],
        *["9" * 30 + ",1", ",".join(["4611686018427387904"] * 4) + ",96"],  # wraps round to 96
    ],
)
def test_run_lengths_that_are_none_are_refused(runs):
    text = text_of(np.ones((8, 12), bool))
    broken = text.replace('"mask_runs": [0, 96]', f'"mask_runs": [{runs}]')
    assert broken != text
    with pytest.raises(ValueError, match=r"not drag instructions|mask_runs must"):
        DragInstructions.from_json(broken)


def test_the_size_of_a_mask_is_checked_before_it_is_made():
    fields = json.loads(text_of(np.ones((8, 12), bool)))
    for size, runs in (
        ([8000, 9000], [0, 96]),
        ([8000, 9000], [0, 72_000_001]),
        ([12, 8], [10**9]),
    ):
        text = json.dumps({**fields, "size": size, "mask_runs": runs})
        error, most = peak(lambda text=text: DragInstructions.from_json(text))
        assert isinstance(error, ValueError)
        assert most < MB


@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_mask_comes_out_of_its_run_lengths(mask):
    height, width = mask.shape
    runs = to_runs(mask)
    for given_runs in (runs, np.array(runs, dtype=np.int64)):
        assert np.array_equal(from_runs(given_runs, (width, height)), mask)


# ---------------------------------------------------------------- masks that are kept


@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_a_packed_mask_is_the_mask(mask):
    unpacked = pack(mask).unpack()
    assert np.array_equal(unpacked, mask)
    assert unpacked.dtype == np.bool_
    assert not unpacked.flags.writeable
    assert (pack(mask) == pack(~mask)) is False
    assert pack(mask) == pack(mask.copy())


def test_masks_of_another_shape_are_others():
    assert pack(np.ones((2, 8), bool)) != pack(np.ones((8, 2), bool))


@pytest.mark.slow
def test_hundreds_of_instructions_from_a_file_take_what_the_file_does():
    """400 masks of 2000 x 1500 are 1.2 GB as arrays."""
    size, count = (2000, 1500), 400
    base = json.loads(text_of(np.ones((2, 2), bool)))
    texts = [
        json.dumps({**base, "size": size, "mask_runs": [k, size[0] * size[1] - k]})
        for k in range(count)
    ]
    read, most = peak(lambda: [DragInstructions.from_json(text) for text in texts])
    assert most < 40 * MB
    for k in (0, 7, 399):
        assert read[k].mask.sum() == size[0] * size[1] - k
    assert len(set(read)) == count


def test_a_mask_that_is_asked_for_again_is_the_same_array():
    drawn = DragInstructions.from_json(text_of(np.eye(20, dtype=bool)))
    assert drawn.mask is drawn.mask
    assert packed_mask.KEPT >= 2


def test_instructions_are_copied_pickled_and_replaced_with_their_mask():
    drawn = DragInstructions.from_json(text_of(np.eye(20, dtype=bool)))
    for again in (
        pickle.loads(pickle.dumps(drawn)),
        copy.copy(drawn),
        copy.deepcopy(drawn),
        drawn.replace(prompt=drawn.prompt),
        drawn.with_mask(np.eye(20) * 7),
    ):
        assert again == drawn
        assert hash(again) == hash(drawn)
        assert np.array_equal(again.mask, np.eye(20, dtype=bool))
    assert drawn.with_mask(None).mask is None
    assert drawn.with_mask(None) != drawn
    assert read_json(drawn.to_json())["mask"].sum() == 20


@given(st.lists(st.sampled_from(['"', "\\", "[", "{", ",", "x"])), st.integers(1, 5))
def test_what_lies_in_strings_is_not_counted(parts, size):
    text = json.dumps(["".join(parts), {"[": 1}, []])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_CHUNK", size)
        assert limits._outside_of_strings(text.encode()) == (3, 2)
