"""Reading a DragBench sample: what it gives, and that a hostile pickle is refused and never run."""

from __future__ import annotations

import collections
import contextlib
import datetime
import os
import pathlib
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragwidget.data import dragbench
from dragwidget.data.dragbench import read_dragbench
from dragwidget.data.instructions import DragInstructions

WIDTH, HEIGHT = 12, 8
MASK = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
MASK[2:5, 3:9] = 1
POINTS = [[1, 2], [3, 4], [5, 6], [7, 7]]
FIELDS = {"prompt": "a fox", "points": POINTS, "mask": MASK}


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


@pytest.fixture
def sample(tmp_path):
    """Write a sample whose pickle is ``fields``, an object or bytes; return its folder."""

    def write(fields=FIELDS, protocol=4) -> pathlib.Path:
        data = fields if isinstance(fields, bytes) else pickle.dumps(fields, protocol)
        (tmp_path / "original_image.png").write_bytes(png_header(WIDTH, HEIGHT))
        (tmp_path / "meta_data.pkl").write_bytes(data)
        return tmp_path

    return write


def as_older_numpy(data: bytes) -> bytes:
    """The pickle (protocol 0, so it is text) with the module names of numpy before 2.0."""
    return data.replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_sample_gives_its_image_and_instructions(sample, protocol):
    folder = sample(protocol=protocol)
    image, instructions = read_dragbench(str(folder))
    assert image == folder / "original_image.png"
    assert instructions == DragInstructions.from_points(
        POINTS, size=(WIDTH, HEIGHT), mask=MASK, prompt="a fox"
    )


def test_a_sample_of_an_older_numpy_is_read(sample):
    new = pickle.dumps(FIELDS, 0)
    old = as_older_numpy(new)
    assert read_dragbench(sample(old)) == read_dragbench(sample(new))


@pytest.mark.parametrize("dtype", ["?", "u1", "<i4", ">i8", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_mask_may_be_of_any_number_type_and_order(sample, dtype, order, protocol):
    mask = MASK.astype(dtype, order=order)
    read = read_dragbench(sample({**FIELDS, "mask": mask}, protocol)).instructions
    assert np.array_equal(read.mask, MASK > 0)


@pytest.mark.parametrize(
    "points",
    [
        tuple(map(tuple, POINTS)),
        np.array(POINTS),
        [np.array(point) for point in POINTS],
        [[np.int64(x), np.float32(y)] for x, y in POINTS],
        [[float(x), y] for x, y in POINTS],
    ],
)
def test_points_may_be_numbers_of_any_kind(sample, points):
    read = read_dragbench(sample({**FIELDS, "points": points})).instructions
    assert read.handles_xy.tolist() == POINTS[::2]
    assert read.targets_xy.tolist() == POINTS[1::2]


def test_other_plain_fields_are_passed_over(sample):
    others = {"a": {1, 2}, "b": frozenset({3}), "c": 1j, "d": b"x", "e": bytearray(b"y"), "f": None}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert read_dragbench(sample({**FIELDS, **others}, protocol)).instructions.prompt == "a fox"


def test_a_sample_without_a_mask_lets_everything_change(sample):
    assert read_dragbench(sample({**FIELDS, "mask": None})).instructions.mask is None


# ---------------------------------------------------------------- hostile and broken samples


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_not_run(sample, tmp_path, protocol):
    canary = tmp_path / "canary"
    hostile = {**FIELDS, "prompt": Calls(os.mkdir, str(canary))}
    pickle.loads(pickle.dumps(hostile, protocol))
    assert canary.exists(), "the canary must be able to sing"
    canary.rmdir()
    with pytest.raises(ValueError, match=r"it asks for (posix|nt)\.mkdir, and only built-in"):
        read_dragbench(sample(hostile, protocol))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Calls(eval, "1"), "builtins.eval"),
        (Calls(getattr, "x", "upper"), "builtins.getattr"),
        (Calls(os.system, "true"), "(posix|nt).system"),
        (Calls(np.fromfile, "x"), "numpy.*fromfile"),
        (Calls(np.load, "x"), "numpy.*load"),
        (pathlib.PurePosixPath("x"), "pathlib.*PurePosixPath"),
        (datetime.date(2024, 1, 1), "datetime.date"),
        (collections.OrderedDict(), "collections.OrderedDict"),
        (Calls(bytearray, 10**15), "bytes must be made of bytes, not int"),
        (Calls(type, "x", (), {}), "builtins.type"),
        (np.array([None]), "arrays of dtype 'O8' are refused: only numbers"),
        (np.array(["x"]), "arrays of dtype 'U1' are refused"),
        (np.zeros(1, dtype=[("x", "u1")]), "arrays of dtype 'V1' are refused"),
        (np.ma.masked_array([1]), "numpy.ma"),
    ],
)
def test_anything_but_plain_data_is_refused_by_name(sample, value, name):
    with pytest.raises(ValueError, match=name):
        read_dragbench(sample({**FIELDS, "extra": value}))


def test_a_name_is_refused_also_where_it_is_only_named(sample):
    with pytest.raises(ValueError, match=r"it asks for os\.system"):
        read_dragbench(sample(b"cos\nsystem\n."))


@pytest.mark.parametrize("name", ["dtype\nndarray", "dtype.__init__\n"])
def test_names_inside_what_is_allowed_are_refused(sample, name):
    with pytest.raises(ValueError, match=r"it asks for numpy\.dtype"):
        read_dragbench(
            sample(f"\x80\x04\x8c\x05numpy\x8c{chr(len(name))}{name}\x93.".encode("latin1"))
        )


@pytest.mark.parametrize("found", ["_codecs\nencode", "numpy\ndtype", "builtins\nset"])
def test_what_is_found_cannot_be_changed(sample, found):
    """BUILD with a pair of dicts sets attributes on what the pickle found."""
    hostile = f"c{found}\n(N(dVstolen\nI1\nstb.".encode()
    with pytest.raises(ValueError, match="cannot be read"):
        read_dragbench(sample(hostile))


@pytest.mark.parametrize(
    "state",
    [
        (1, (4,), "dtype", False, b"123"),
        (1, (10**12,), np.dtype("u1"), False, b"123"),
        (1, (3,), np.dtype("u1"), False, [1, 2, 3]),
        (1, (3,), np.dtype("u1"), False, 3),
        (),
    ],
)
def test_an_array_whose_state_lies_is_refused(sample, state):
    class Lies:
        def __reduce__(self):
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    with pytest.raises(ValueError, match=r"meta_data\.pkl cannot be read"):
        read_dragbench(sample({**FIELDS, "mask": Lies()}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([1], "meta_data.pkl must hold a dict, got list"),
        ({"prompt": ""}, "meta_data.pkl lacks mask, points"),
        ({**FIELDS, "points": POINTS[:3]}, "length must be even, got 3 points"),
        ({**FIELDS, "points": [[1, 2], [3, 40]]}, "outside the image"),
        ({**FIELDS, "points": "x"}, "points must be a list"),
        ({**FIELDS, "mask": MASK.T}, "the mask is 8 x 12 but the image is 12 x 8"),
        ({**FIELDS, "mask": MASK * 0}, "the mask is zero everywhere"),
        ({**FIELDS, "prompt": 1}, "the prompt must be a string"),
        (b"", r"meta_data\.pkl cannot be read"),
        (b"not a pickle", r"meta_data\.pkl cannot be read"),
        (pickle.dumps(FIELDS)[:-20], r"meta_data\.pkl cannot be read"),
    ],
)
def test_a_broken_sample_is_refused_with_its_folder(sample, fields, message):
    folder = sample(fields)
    with pytest.raises(ValueError, match=message) as caught:
        read_dragbench(folder)
    assert str(caught.value).startswith(f"{folder} is not a DragBench sample: ")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04Nr\xff\xff\xff\xff.",  # LONG_BINPUT into a memo of 2**32 slots
        b"Np4294967295\n.",  # the same as text
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",  # BINBYTES8 of 1 TiB
    ],
)
def test_a_few_bytes_cannot_ask_for_gigabytes(sample, data):
    with pytest.raises(ValueError, match=r"it numbers a value 4294967295|expected 1099511627775"):
        read_dragbench(sample(data))


def test_a_pickle_longer_than_any_sample_is_refused_unread(sample, monkeypatch):
    folder = sample()
    size = (folder / "meta_data.pkl").stat().st_size
    monkeypatch.setattr(dragbench, "MAX_BYTES", size)
    assert read_dragbench(folder).instructions.prompt == "a fox"
    monkeypatch.setattr(dragbench, "MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match=rf"meta_data\.pkl is larger than {size - 1} bytes"):
        read_dragbench(folder)


def test_text_is_encoded_in_one_way_only(sample):
    with pytest.raises(ValueError, match="it asks for the text encoding 'rot13'"):
        read_dragbench(sample(b"c_codecs\nencode\n(Vabc\nVrot13\ntR."))


def test_values_that_hold_themselves_do_not_hang_the_error(sample):
    knot = []
    for _ in range(100):
        knot = [knot, knot]
    with pytest.raises(ValueError, match="a handle point must be two numbers") as caught:
        read_dragbench(sample({**FIELDS, "points": knot}))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["original_image.png", "meta_data.pkl"])
def test_a_missing_file_is_named(sample, name):
    folder = sample()
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"is not a DragBench sample: it has no {name}"):
        read_dragbench(folder)


@pytest.mark.parametrize(
    "data", [b"", b"not an image, but longer than a header", b"\x89PNG\r\n\x1a\n"]
)
def test_an_image_that_is_no_png_is_named(sample, data):
    folder = sample()
    (folder / "original_image.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"original_image\.png is not a PNG"):
        read_dragbench(folder)


@given(st.data())
def test_a_damaged_pickle_is_read_or_refused_with_a_value_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sample")
    pickled = bytearray(pickle.dumps(FIELDS, data.draw(st.sampled_from([0, 2, 4, 5]))))
    pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    (folder / "original_image.png").write_bytes(png_header(WIDTH, HEIGHT))
    (folder / "meta_data.pkl").write_bytes(pickled)
    with contextlib.suppress(ValueError):
        read_dragbench(folder)
