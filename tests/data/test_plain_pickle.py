"""A pickle is read as data: what is plain comes out, and no few bytes make much of anything."""

from __future__ import annotations

import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from test_dragbench import FIELDS, HEIGHT, MASK, WIDTH, png_header

from dragwidget.data.dragbench import read_dragbench
from dragwidget.data.plain_pickle import MAX_OPCODES, PlainArray, read_plain_pickle

MOST = 60 * 2**20  # bytes that a refusal may take


@pytest.fixture
def read(tmp_path):
    """Read a sample whose pickle is this object or these bytes; no more memory than it explains."""

    def of(fields, protocol: int = 4):
        data = fields if isinstance(fields, bytes) else pickle.dumps(fields, protocol)
        (tmp_path / "original_image.png").write_bytes(png_header(WIDTH, HEIGHT))
        (tmp_path / "meta_data.pkl").write_bytes(data)
        tracemalloc.start()
        try:
            return read_dragbench(tmp_path).instructions
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < MOST + 4 * len(data)

    return of


def laughs(leaf, many: int, depth: int, kind=list):
    for _ in range(depth):
        leaf = kind([leaf] * many)
    return leaf


def knot(times: int) -> list:
    self: list = []
    self.extend([self] * times)
    return self


def deep(levels: int, kind=list):
    value = kind()
    for _ in range(levels):
        value = kind([value])
    return value


LAUGHS = {
    "20^6": laughs(0, 20, 6),
    "1000^3": laughs(0, 1000, 3),
    "2^60": laughs(0, 2, 60),
    "2^60 in tuples": laughs(0, 2, 60, tuple),
    "of the mask's height": laughs(0, HEIGHT, 20),
    "of its height and width": laughs(laughs(0, 50, 20), WIDTH, 1),
    "holds itself once": knot(1),
    "holds itself twice": knot(2),
    "holds itself as often as it has rows": knot(HEIGHT),
}


@pytest.mark.parametrize("name", LAUGHS)
@pytest.mark.parametrize("field", ["mask", "points", "prompt"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_lists_that_hold_one_another_are_refused_in_little_memory(read, name, field, protocol):
    with pytest.raises(ValueError, match="is not a DragBench sample"):
        read({**FIELDS, field: LAUGHS[name]}, protocol)


def test_lists_that_hold_one_another_beside_the_fields_are_passed_over(read):
    others = {f"other {k}": value for k, value in enumerate(LAUGHS.values())}
    assert read({**FIELDS, **others}).prompt == "a fox"


def test_a_row_of_a_mask_may_be_shared_and_is_read_once(read):
    row = [0, 1] * (WIDTH // 2)
    assert np.array_equal(read({**FIELDS, "mask": [row] * HEIGHT}).mask, [row] * HEIGHT)
    assert np.array_equal(read({**FIELDS, "mask": MASK.tolist()}).mask, MASK > 0)


def push(name: str, *parts: bytes) -> bytes:
    """A pickle of FIELDS whose key or value is what these opcodes leave on the stack."""
    start = pickle.dumps(FIELDS, 4)[:-1]  # without its stop
    return start + b"".join(parts) + {"key": b"Ns.", "value": b"0."}[name]


# memo 200 is a tuple of two, again and again: t = (t, t)
PAIRS = b")q\xc80" + b"h\xc8h\xc8\x86q\xc80" * 60 + b"h\xc8"


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [
        PAIRS,  # 2**60 steps to hash
        b")" + b"\x85" * 100_000,  # deeper than the C stack when it is hashed
        b"]", b"}", b"\x8f",
    ],
    ids=["pairs of pairs", "deep", "a list", "a dict", "a set"],
)  # fmt: skip
def test_a_key_that_is_not_plain_is_never_hashed(read, key):
    with pytest.raises(ValueError, match="a key of it is of type"):
        read(push("key", key))
    for wrapped in (b"\x8f(" + key + b"\x90", b"(" + key + b"\x91"):  # a set, a frozenset
        assert read(push("value", wrapped)).prompt == "a fox"


@pytest.mark.slow
def test_depth_costs_no_more_than_its_bytes(read):
    for opcodes in (b"](" * 50_000 + b"e" * 50_000, b")" + b"\x85" * 100_000):
        assert read(push("value", opcodes)).prompt == "a fox"


@pytest.mark.slow
@pytest.mark.parametrize("opcode", [b"\x8f", b"}0", b"]\x94", b"(1"])
def test_more_opcodes_than_any_sample_has_are_refused(read, opcode):
    flood = opcode * MAX_OPCODES
    with pytest.raises(ValueError, match="has more than 300,000 opcodes"):
        read(push("value", b"N", flood * 5))


@pytest.mark.parametrize(
    "integer",
    [
        b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6,
        b"\x8a\xff" + b"\x7f" * 255,
        b"I" + b"9" * 4000 + b"\n",
        b"L" + b"9" * 4000 + b"L\n",
        b"L" + b"9" * 10**6 + b"L\n",
        b"I-" + b"9" * 10**6 + b"\n",
    ],
)
def test_an_integer_longer_than_any_number_of_a_sample_is_refused(read, integer):
    with pytest.raises(ValueError, match=r"it holds an integer of \d+ bits|Exceeds the limit"):
        read(push("value", integer))


@pytest.mark.parametrize(
    "data",
    [
        b"\x8d" + struct.pack("<Q", 2**40) + b"x",
        b"\x8e" + struct.pack("<Q", 2**63 - 1) + b"x",
        b"\x96" + struct.pack("<Q", 2**40) + b"x",
        b"X" + struct.pack("<I", 2**32 - 1) + b"x",
        b"B" + struct.pack("<I", 2**32 - 1) + b"x",
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",
        b"T" + struct.pack("<i", 2**31 - 1) + b"x",
        b"r\xff\xff\xff\xff",
        b"p4294967295\n",
        b"\x95" + struct.pack("<Q", 2**40) + b"0N",
    ],
)
def test_what_is_said_to_be_long_is_not_made_so(read, data):
    with pytest.raises(ValueError, match=r"meta_data\.pkl cannot be read|DragBench"):
        read(push("value", b"N", data)[:-2] + b".")


@pytest.mark.parametrize("form", ["array", "points of arrays", "array of wrong shape"])
def test_points_without_end_are_refused_before_they_are_listed(read, form):
    many = np.zeros((2 * 10**6, 2), np.uint8)
    points = {
        "array": many,
        "points of arrays": [many, many],
        "array of wrong shape": many.reshape(2, -1),
    }[form]
    with pytest.raises(ValueError, match="at most 100 pairs"):
        read({**FIELDS, "points": points})


@pytest.mark.parametrize("shape", [(2**62,), (-1,), (0, 2**62), (2, 2, 2, 2, 2), ((1,),), [8]])
def test_the_shape_of_an_array_is_that_of_its_bytes(read, shape):
    class Lies:
        def __reduce__(self):
            state = (1, shape, np.dtype("u1"), False, b"12345678")
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    with pytest.raises(ValueError, match="is not a DragBench sample"):
        read({**FIELDS, "mask": Lies()})


def test_a_view_of_the_pickle_is_all_that_an_array_takes():
    numbers = np.arange(10**6, dtype=np.uint8)
    data = pickle.dumps(numbers, 5)
    tracemalloc.start()
    read = read_plain_pickle(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(read, PlainArray)
    assert np.array_equal(read.numbers, numbers)
    assert peak < 2.5 * len(data)


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x82\x01",
        b"Px\n",
        b"NQ",
        b"(ios\nsystem\n",
        b"(No",
        b"N)\x81",
        b"N)}\x92",
        b"\x97",
        b"\x98",
    ],
)
def test_an_opcode_that_plain_data_has_no_need_of_is_refused_by_name(read, opcodes):
    with pytest.raises(ValueError, match=r"it uses the opcode [A-Z0-9_]+, which plain data has no"):
        read(push("value", opcodes))


@pytest.mark.parametrize(
    "opcodes",
    [b"0" * 9, b"a", b"e", b"u", b"h\x09", b"\x87" * 9, b"R", b"b", b"\x93", b"1", b"2" + b"0" * 9],
)
def test_opcodes_that_do_not_follow_from_one_another_are_refused(opcodes):
    with pytest.raises(ValueError, match=r"."):
        read_plain_pickle(opcodes + b".")
