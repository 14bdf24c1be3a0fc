"""Read samples of DragBench, whose instructions come as a pickle, without running what is in it.

A pickle is a program: it may name any function and have it called. Here every name is refused but
the few that rebuild plain values, and even those are ours: numpy's own rebuilding code never sees
what the file says. A sample is a folder::

    original_image.png
    user_drag.png        the same with the drag painted on it; not read
    meta_data.pkl        {"prompt": str, "points": [[x, y], ...], "mask": (H, W), ...}

Points are ``(x, y)`` in image pixels, handle and target by turns; mask 1 = may change.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dragwidget.data.frames import Size
from dragwidget.data.instructions import DragInstructions

MAX_BYTES = 256 * 2**20  # of a pickle; one of DragBench has a few hundred thousand
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class DragBenchSample(NamedTuple):
    """image: path of the image to edit. instructions: in pixels of that image."""

    image: Path
    instructions: DragInstructions


def read_dragbench(folder: str | os.PathLike[str]) -> DragBenchSample:
    """Read one sample folder.

    Raises:
        FileNotFoundError: the folder, or a file that it must hold, is missing.
        ValueError: a file is damaged, or ``meta_data.pkl`` holds anything but plain data.
    """
    folder = Path(folder)
    image, metadata = folder / "original_image.png", folder / "meta_data.pkl"
    for file in (image, metadata):
        if not file.is_file():
            raise FileNotFoundError(f"{folder} is not a DragBench sample: it has no {file.name}")
    try:
        instructions = _instructions(_load(metadata), size=_png_size(image))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not a DragBench sample: {error}") from error
    return DragBenchSample(image, instructions)


def _load(path: Path) -> Any:
    """What a pickle of plain data holds; its arrays as ``_Array``."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES} bytes")
    data = path.read_bytes()
    try:
        # A few bytes can make the unpickler allocate many gigabytes. This pass allocates nothing:
        # it stops where a stated length is more than there is, or a memo slot past any need.
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name.endswith("PUT") and (argument or 0) > len(data):
                raise pickle.UnpicklingError(f"it numbers a value {argument}")
        return _PlainUnpickler(data).load()
    except Exception as error:  # a damaged pickle makes the unpickler raise almost anything
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _instructions(fields: Any, size: Size) -> DragInstructions:
    if not isinstance(fields, dict):
        raise ValueError(f"meta_data.pkl must hold a dict, got {type(fields).__name__}")
    missing = {"prompt", "points", "mask"} - fields.keys()
    if missing:
        raise ValueError(f"meta_data.pkl lacks {', '.join(sorted(missing))}")
    points = _unwrap(fields["points"])
    if isinstance(points, list):
        points = [_unwrap(point) for point in points]
    return DragInstructions.from_points(
        points, size=size, mask=_unwrap(fields["mask"]), prompt=fields["prompt"]
    )


def _png_size(path: Path) -> Size:
    """(width, height) of a PNG, from its header: this module stays free of imaging libraries."""
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(_PNG_SIGNATURE):
        raise ValueError(f"{path.name} is not a PNG")
    width, height = struct.unpack(">II", header[16:])
    return width, height


class _PlainUnpickler(pickle.Unpickler):
    """Finds the few names that plain values need, and refuses every other.

    All but immutable types are its own methods: a pickle can also set attributes on what it finds,
    and a bound method has none that can be set.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        # A value can be named again and again in two bytes, and copied each time by a call.
        self._left = 2 * len(data)

    def find_class(self, module: str, name: str) -> Any:
        # Older names of the same modules: of Python 2, and of numpy before 2.0.
        module = re.sub("^__builtin__$", "builtins", module)
        module = re.sub(r"^numpy\.core\b", "numpy._core", module)
        allowed = {
            "builtins.set": self._set,
            "builtins.frozenset": self._frozenset,
            "builtins.complex": complex,
            "builtins.bytes": self._bytes,
            "builtins.bytearray": self._bytes,
            "_codecs.encode": self._encode,
            "numpy.dtype": self._dtype,
            "numpy.ndarray": self._reconstruct,
            "numpy._core.multiarray._reconstruct": self._reconstruct,
            "numpy._core.multiarray.scalar": self._scalar,
            "numpy._core.numeric._frombuffer": self._frombuffer,
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only built-in containers, numbers, strings and "
                "numpy arrays are accepted"
            )
        return allowed[f"{module}.{name}"]

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise pickle.UnpicklingError("its calls make much more than it holds")

    def _set(self, values: Any = ()) -> set[Any]:
        self._spend(len(values))
        return set(values)

    def _frozenset(self, values: Any = ()) -> frozenset[Any]:
        self._spend(len(values))
        return frozenset(values)

    def _bytes(self, data: bytes = b"") -> bytes:
        if not isinstance(data, bytes):  # a number would ask for that many bytes
            raise pickle.UnpicklingError(f"bytes must be made of bytes, not {type(data).__name__}")
        return data

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":  # how protocols before 3 write bytes
            raise pickle.UnpicklingError(f"it asks for the text encoding {encoding!r}")
        self._spend(len(text))
        return text.encode("latin1")

    def _dtype(self, code: str, *_: object) -> _Dtype:
        return _Dtype(code)

    def _reconstruct(self, *_: object) -> _Array:
        return _Array()

    def _scalar(self, dtype: _Dtype, data: bytes) -> Any:
        return _numbers(data, dtype).item()

    def _frombuffer(self, data: bytes, dtype: _Dtype, shape: Any, order: Any, *_: object) -> _Array:
        array = _Array()
        array.numbers = _numbers(data, dtype).reshape(shape, order=order)
        return array


class _Dtype:
    """Stands in for ``numpy.dtype`` while a pickle is read."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError(
                f"arrays of dtype {code!r} are refused: only numbers are read"
            )
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _version, byte_order, *_ = state
        self.numpy = self.numpy.newbyteorder(byte_order)


class _Array:
    """Stands in for ``numpy.ndarray`` while a pickle is read: made empty, then given its state."""

    def __init__(self) -> None:
        self.numbers: npt.NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, data = state
        self.numbers = _numbers(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _numbers(data: bytes, dtype: _Dtype) -> npt.NDArray[Any]:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array must be made of bytes and a dtype")
    return np.frombuffer(data, dtype.numpy)


def _unwrap(value: Any) -> Any:
    return value.numbers if isinstance(value, _Array) else value
