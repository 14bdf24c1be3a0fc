"""JSON from strangers: what it would take in memory is known before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

GROWTH = 10  # bytes of Python objects for each byte of text; numbers of 4 digits take 9
SLACK = 2**22  # bytes of objects that any text may become

_LIST, _VALUE = 72, 36  # bytes of an empty list or object; of a number and the place that names it
_CHUNK = 2**20  # bytes that are looked at together


def check_json(data: bytes, what: str) -> None:
    """Raise ValueError where JSON would become much more than its length explains.

    ``[[],[],...`` takes 25 times its text. Lists, objects and commas outside of strings count.
    """
    lists, commas = data.count(b"[") + data.count(b"{"), data.count(b",")
    if (
        _size(lists, commas) > GROWTH * len(data) + SLACK
    ):  # perhaps in strings, which hold run lengths
        lists, commas = _outside_of_strings(data)
    size = _size(lists, commas)
    if size > GROWTH * len(data) + SLACK:
        raise ValueError(
            f"{what}: {len(data):,} bytes of JSON hold {lists:,} lists and objects, which would "
            f"take {size / 2**20:.0f} MB: no file of ours is like that"
        )


def _size(lists: int, commas: int) -> int:
    return _LIST * lists + _VALUE * (lists + commas)


def _outside_of_strings(data: bytes) -> tuple[int, int]:
    """Return how many lists and objects begin there, and how many commas there are."""
    data = data.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")  # now each quote begins or ends one
    lists, commas, inside = 0, 0, False
    for start in range(0, len(data), _CHUNK):
        chunk = np.frombuffer(data, np.uint8, min(_CHUNK, len(data) - start), start)
        within = np.logical_xor.accumulate(chunk == ord('"')) ^ inside
        lists += int((((chunk == ord("[")) | (chunk == ord("{"))) & ~within).sum())
        commas += int(((chunk == ord(",")) & ~within).sum())
        inside = bool(within[-1])
    return lists, commas


def parse_json(data: bytes, what: str) -> Any:
    """What JSON holds; ValueError, which begins with ``what``, where it is none, or hostile."""
    check_json(data, what)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number that JSON knows")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError(f"{what}: lists or objects nested too deeply") from error
    except ValueError as error:
        # Python's own words on a number of more than 4300 digits are for programmers.
        why = "a number of too many digits" if "set_int_max_str_digits" in str(error) else error
        raise ValueError(f"{what}: {why}") from error
