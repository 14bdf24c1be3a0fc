"""Pickles that lie, nest, grow and call; for ``fuzzing``."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import spoil, spoil_value

WIDTH, HEIGHT = 12, 8
NAMES = [
    "os system", "posix system", "builtins exec", "builtins eval", "builtins getattr",
    "builtins open", "subprocess Popen", "numpy fromfile", "numpy ndarray", "numpy dtype",
    "numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar", "builtins set",
    "numpy._core.numeric _frombuffer", "_codecs encode", "builtins bytes", "builtins bytearray",
    "builtins complex", "builtins frozenset", "torch load", "shutil rmtree", "copyreg _slotnames",
    "codecs open", "io open", "numpy.dtype __init__", "__main__ main", "sys modules", "os mkdir",
]  # fmt: skip


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def payload(chance: random.Random, canary: Path) -> Any:
    """Something that makes the canary, or much, when it is called."""
    code = f"open({str(canary)!r}, 'w').close()"
    return chance.choice(
        [
            Call(os.system, f"touch {canary}"),
            Call(os.mkdir, str(canary)),
            Call(exec, code),
            Call(eval, code),
            Call(open, str(canary), "w"),
            Call(subprocess.Popen, ["touch", str(canary)]),
            Call(getattr, "x", "upper"),
            Call(np.fromfile, str(canary)),
            Call(bytearray, 2**40),
            Call(np.zeros, 2**36),
            Call(Call, exec, code),
        ]
    )


def fields() -> dict[str, Any]:
    """What a sample of DragBench holds."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:5, 3:9] = 1
    points = [[1, 2], [3, 4], [5, 6], [7, 7]]
    return {"prompt": "a fox", "points": points, "mask": mask}


def corrupted_pickle(chance: random.Random, canary: Path) -> bytes:
    act, protocol = chance.random(), chance.randrange(6)
    if act < 0.45:
        return spoil(chance, pickle.dumps(fields(), protocol))
    if act < 0.65:
        plain = {**fields(), "mask": [[0, 1] * 6] * HEIGHT, "extra": {1, 2}}
        return pickle.dumps(spoil_value(chance, plain), protocol)
    if act < 0.8:
        hostile = fields()
        hostile[chance.choice(["prompt", "points", "mask", "extra"])] = payload(chance, canary)
        data = pickle.dumps(hostile, protocol)
        return spoil(chance, data) if chance.random() < 0.3 else data
    if act < 0.97:
        return opcodes(chance)
    return growing(chance)


def opcodes(chance: random.Random) -> bytes:
    """Any opcodes in any order, each with an argument of its form."""
    file = io.BytesIO()
    file.write(chance.choice([b"", b"\x80\x02", b"\x80\x04", b"\x80\x05"]))
    for _ in range(chance.randint(1, 40)):
        file.write(_opcode(chance))
    file.write(b".")
    return file.getvalue()


def _opcode(chance: random.Random) -> bytes:
    name = chance.choice(NAMES)
    number = chance.choice([0, 1, 2, 3, 255, 2**31 - 1])
    text = chance.choice([b"x", b"u1", b"f8", b"latin1", b"points", b"mask", b"prompt", b"b"])
    return chance.choice(
        [
            b"c" + name.replace(" ", "\n").encode() + b"\n",
            *[
                bytes([code])
                for code in b"(()}]tldsaeu02NR\x81\x85\x86\x87\x88\x89\x90\x91\x93\x94b"
            ],
            b"K" + bytes([number & 255]),
            b"J" + struct.pack("<i", number),
            b"I" + str(chance.choice([number, -number, 10**12])).encode() + b"\n",
            b"U" + bytes([len(text)]) + text,
            b"X" + struct.pack("<I", chance.choice([len(text), number])) + text,
            b"B" + struct.pack("<I", chance.choice([len(text), number])) + text,
            b"C" + bytes([len(text)]) + text,
            b"\x8c" + bytes([len(text)]) + text,
            b"\x8d" + struct.pack("<Q", chance.choice([len(text), number])) + text,
            b"\x8e" + struct.pack("<Q", chance.choice([len(text), number])) + text,
            b"\x8a" + bytes([4]) + chance.randbytes(4),
            b"\x8b" + struct.pack("<i", chance.choice([4, number])) + chance.randbytes(4),
            b"G" + chance.randbytes(8),
            b"q" + bytes([number & 7]),
            b"r" + struct.pack("<I", number),
            b"h" + bytes([number & 7]),
            b"j" + struct.pack("<I", number & 7),
            b"\x95" + struct.pack("<Q", number),
            b"\x96" + struct.pack("<Q", number),
            b"\x82\x01",
            b"P1\n",
            b"Q",
        ]
    )


def growing(chance: random.Random) -> bytes:
    """A large value once, and calls that copy it again and again."""
    count, calls = 20_000, chance.choice([100, 3000])
    which = chance.randrange(4)
    if which == 0:  # the text once, its bytes many times
        large = b"X" + struct.pack("<I", 10 * count) + b"x" * (10 * count)
        call = b"c_codecs\nencode\n(h\x00U\x06latin1tR"
    elif which == 1:
        numbers = b"".join(b"J" + struct.pack("<i", k) for k in range(count))
        large, call = b"](" + numbers + b"e", b"cbuiltins\nfrozenset\n(h\x00tR"
    elif which == 2:
        numbers = b"".join(b"J" + struct.pack("<i", k) for k in range(count))
        large, call = b"](" + numbers + b"e", b"cbuiltins\nset\n(h\x00tR"
    else:  # lists in lists
        return b"\x80\x04" + b"](" * 50_000 + b"e" * 50_000 + b"."
    return b"\x80\x04" + large + b"q\x00](" + call * calls + b"e."
