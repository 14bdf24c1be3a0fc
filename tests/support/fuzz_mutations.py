"""Spoils what is valid: bytes without knowing what they mean, and values by their structure."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from typing import Any

_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]


def spoil(chance: random.Random, data: bytes, times: int | None = None) -> bytes:
    """Bytes flipped, cut out, doubled, swapped, overwritten or cut off, a few times over."""
    corrupted = bytearray(data)
    for _ in range(chance.randint(1, 4) if times is None else times):
        act = chance.choice([_flip, _flip, _cut, _double, _swap, _number, _noise, _cut_off])
        act(chance, corrupted)
    return bytes(corrupted)


def _place(chance: random.Random, data: bytearray) -> int:
    # Headers lie at the beginning or at the end: half of all damage goes there.
    where = chance.random()
    last = max(0, len(data) - 1)
    if where < 0.3:
        return chance.randint(0, min(last, 64))
    if where < 0.5:
        return max(0, last - chance.randint(0, 64))
    return chance.randint(0, last)


def _slice(chance: random.Random, data: bytearray) -> slice:
    start = _place(chance, data)
    return slice(start, start + chance.choice([1, 2, 4, 8, 32, 200]))


def _flip(chance: random.Random, data: bytearray) -> None:
    if data:
        data[_place(chance, data)] ^= 1 << chance.randrange(8)


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[_slice(chance, data)]


def _double(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    data[at:at] = data[_slice(chance, data)] * chance.choice([1, 2, 50])


def _swap(chance: random.Random, data: bytearray) -> None:
    one, other = _slice(chance, data), _slice(chance, data)
    data[one], data[other] = data[other], data[one]


def _number(chance: random.Random, data: bytearray) -> None:
    code = chance.choice("BHIQ")
    number = chance.choice(_NUMBERS) & (256 ** struct.calcsize(code) - 1)
    packed = struct.pack(chance.choice("<>") + code, number)
    at = _place(chance, data)
    data[at : at + len(packed)] = packed


def _noise(chance: random.Random, data: bytearray) -> None:
    data[_slice(chance, data)] = chance.randbytes(chance.choice([1, 4, 40]))


def _cut_off(chance: random.Random, data: bytearray) -> None:
    del data[_place(chance, data) :]


# ---------------------------------------------------------------- values


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# What JSON can hold.
STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.0, 7, 255, 2**31, 2**63, -(2**63), 10**30, 10**400,
    1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf, "", "x", "0", "NaN", "\ud83d", "\x00",
    "a" * 5000, "../../x", [], {}, [[]], [None], [0, 0], [1e9, 1e9], ["x", "y"], [0] * 500,
    {"x": {}}, {"": None}, nested(60),
]  # fmt: skip


def spoil_value(chance: random.Random, value: Any, strange: list[Any] | None = None) -> Any:
    """A copy with a few of its parts made strange, lost, doubled, swapped or renamed."""
    holder = [copy.deepcopy(value)]
    for _ in range(chance.randint(1, 3)):
        places = list(_places(holder))
        if not places:
            break
        container, key = chance.choice(places)
        _spoil_place(chance, container, key, strange or STRANGE)
    return holder[0] if holder else None


def _places(container: Any, depth: int = 0) -> Any:
    keys = container if isinstance(container, dict) else range(len(container))
    for key in list(keys)[:200]:
        yield container, key
        if isinstance(container[key], list | dict) and depth < 12:
            yield from _places(container[key], depth + 1)


def _spoil_place(chance: random.Random, container: Any, key: Any, strange: list[Any]) -> None:
    act = chance.randrange(8)
    value = container[key]
    if act == 0:
        del container[key]
    elif act == 1 and isinstance(container, list):
        container.insert(key, value)
    elif act == 1:
        container[chance.choice(["x", "", "format", str(key).upper(), f"{key} "])] = value
    elif act == 2:
        container[key] = [value]
    elif act == 3 and isinstance(value, int | float) and not isinstance(value, bool):
        with_factor = chance.choice([-1, 2, 0.5, 1e-9, 10**6, 10**12, 10**30])
        try:
            container[key] = value * with_factor
        except OverflowError:
            container[key] = 10**400
    elif act == 4:
        other = chance.choice(list(container) if isinstance(container, dict) else range(key + 1))
        container[key], container[other] = container[other], container[key]
    else:
        container[key] = copy.deepcopy(chance.choice(strange))


def spoil_json(chance: random.Random, value: Any) -> str | bytes:
    """JSON text of a value that is corrupted, or corrupted text of a value that is not."""
    act = chance.random()
    if act < 0.65:
        return json.dumps(spoil_value(chance, value))
    text = json.dumps(value)
    if act < 0.9:
        return spoil(chance, text.encode())
    digits = [at for at, letter in enumerate(text) if letter.isdigit()] or [0]
    at = chance.choice(digits)
    long = ["9" * 5000, "1e999999", "-1e-999999", "[" * 5000, '{"a":' * 5000, "0" * 100]
    return text[:at] + chance.choice(long) + text[at + chance.randrange(2) :]
