"""A byte of a saved session that is flipped is found, or changes nothing at all."""

import random
import re

import pytest
from same_sessions import assert_same
from tiny_sessions import ask, left_half, session_on

from dragwidget.session.session import DragSession


@pytest.fixture(scope="module")
def session(tiny):
    """Read only."""
    session = session_on(tiny, lora_steps=1)
    session.instructions = ask(mask=left_half())
    session.step(2)
    return session


@pytest.fixture(scope="module")
def data(session, tmp_path_factory):
    """What is in its file."""
    path = tmp_path_factory.mktemp("flips") / "edit.drag"
    session.save(path)
    return path.read_bytes()


def flips(data):
    """(place, bits) of 400 flipped bytes: half anywhere, half in what a zip says of itself."""
    chance = random.Random(0)
    directory = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))
    second = data.rindex(b"PK\x03\x04", 0, directory)  # where the tensors begin
    headers = [*range(42), *range(second, second + 160), *range(directory, len(data))]
    places = chance.sample(range(len(data)), 200) + chance.sample(headers, 200)
    return [(place, chance.randrange(1, 256)) for place in places]


def kinds_of_compression(data):
    """(place, bits) that make of a part that is stored one that was compressed somehow."""
    first = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))
    return [(place, bits) for place in (first + 10, first + 11) for bits in (1, 8, 9, 12, 14, 93)]


def ends(data):
    """(place, bits) of where the directory is said to begin, and how long to be."""
    start = data.rindex(b"PK\x05\x06")
    return [(place, 1 << bit) for place in range(start + 10, start + 22) for bit in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize("of", [flips, kinds_of_compression, ends])
def test_a_flipped_byte_is_found_or_harmless(session, tiny, tmp_path, data, of):
    path, found = tmp_path / "edit.drag", 0
    for place, bits in of(data):
        corrupted = bytearray(data)
        corrupted[place] ^= bits
        path.write_bytes(corrupted)
        refused = ""
        try:
            assert_same(session, DragSession.load(path, tiny))
        except (ValueError, OSError) as error:  # on opening, or of a node that the edit goes to
            refused = str(error)
            found += 1
        if refused and "is not a session that can be opened" not in refused:
            assert re.search(r"node \d of the history is lost: .* is damaged", refused), (
                place,
                bits,
            )
    assert found
