"""Read the plain data of a pickle, without unpickling it.

A pickle is a program: it may name any function and have it called, and a few bytes of it can make
lists of lists that hold each other, memos of many gigabytes and keys that take years to hash. So it
is not run. Its opcodes are walked once, by a small machine that knows plain values and the few
calls that rebuild numpy arrays, which are ours: numpy's own code never sees what the file says.

Each opcode makes one value, no value is copied but by calls whose copies are counted, and nothing
is hashed but text and numbers: so time and memory are bounded by the file.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_OPCODES = 300_000  # 512 x 512 numbers in lists take 264 thousand
MAX_INT = 2**64  # no number of a sample is as large, and Python's have no end

_VALUES = {  # opcodes that push their argument
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_KEYS = (str, bytes, int, float, type(None))


def read_plain_pickle(data: bytes) -> Any:
    """Return what a pickle of plain data holds.

    That is ``None``, bool, int below 2**64, float, str, bytes, list, tuple, dict of plain keys,
    numpy scalars of numbers, and ``PlainArray``. Sets and complex numbers are passed over: an
    object stands for each of them.

    Raises:
        ValueError: damaged, too long, or anything else is in it.
    """
    try:
        return _Machine(data).run()
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # Of opcodes that do not follow from one another.
        raise ValueError(f"{type(error).__name__}: {error}") from error


class _Machine:
    """The stack, the marks in it and the memo of a pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # A value can be named again and again in two bytes, and copied each time by a call.
        self._left = 2 * len(data)

    def run(self) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self._data)):
            if count >= MAX_OPCODES:
                raise ValueError(f"it has more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                break
            self._do(opcode.name, argument)
        return self._stack.pop()

    def _do(self, name: str, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        if name in _VALUES:
            if type(argument) is int and abs(argument) >= MAX_INT:
                raise ValueError(f"it holds an integer of {argument.bit_length()} bits")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if count > len(stack):
                raise ValueError("it makes a tuple of what is not there")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in _GET:
            stack.append(memo[argument])
        elif name in _PUT:
            if argument > len(self._data):
                raise ValueError(f"it numbers a value {argument}")
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name not in ("PROTO", "FRAME"):
            self._do_more(name, argument)

    def _do_more(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "POP" if self._marks and self._marks[-1] == len(stack):
                self._marks.pop()
            case "POP":
                stack.pop()
            case "POP_MARK" | "ADDITEMS":
                self._marked()
            case "DUP":
                stack.append(stack[-1])
            case "LIST":
                stack.append(self._marked())
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "DICT":
                items = self._marked()
                stack.append({})
                self._set(items)
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._marked())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._marked())
            case "EMPTY_SET":
                stack.append(_PassedOver())
            case "FROZENSET":
                self._marked()
                stack.append(_PassedOver())
            case "GLOBAL":
                module, found = argument.split(" ", 1)
                stack.append(self._found(module, found))
            case "STACK_GLOBAL":
                found, module = stack.pop(), stack.pop()
                stack.append(self._found(module, found))
            case "REDUCE":
                arguments, call = stack.pop(), stack.pop()
                if not isinstance(call, _Call) or type(arguments) is not tuple:
                    raise ValueError(f"it calls {type(call).__name__}")
                stack.append(call.function(*arguments))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if not isinstance(target, PlainArray | _Dtype):
                    raise ValueError(f"it sets the state of {type(target).__name__}")
                target.build(state)
            case _:
                raise ValueError(f"it uses the opcode {name}, which plain data has no need of")

    def _marked(self) -> list[Any]:
        """Return what was pushed since the last mark, taken from the stack."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError(f"it appends to {type(target).__name__}")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("it sets items of what is no dict, or half of one")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):  # a tuple of tuples could take forever to hash
                raise ValueError(f"a key of it is of type {type(key).__name__}")
            target[key] = value

    def _found(self, module: Any, name: Any) -> _Call:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("it asks for a name that is no text")
        # Older names of the same modules: of Python 2, and of numpy before 2.0.
        module = re.sub("^__builtin__$", "builtins", module)
        module = re.sub(r"^numpy\.core\b", "numpy._core", module)
        calls: dict[str, Callable[..., Any]] = {
            "builtins.set": _PassedOver,
            "builtins.frozenset": _PassedOver,
            "builtins.complex": _PassedOver,
            "builtins.bytes": _bytes,
            "builtins.bytearray": _bytes,
            "_codecs.encode": self._encode,
            "numpy.dtype": _Dtype,
            "numpy.ndarray": PlainArray,
            "numpy._core.multiarray._reconstruct": PlainArray,
            "numpy._core.multiarray.scalar": lambda dtype, data: _numbers(data, dtype).item(),
            "numpy._core.numeric._frombuffer": _from_buffer,
        }
        if f"{module}.{name}" not in calls:
            raise ValueError(
                f"it asks for {module[:100]}.{name[:100]}, and only built-in containers, numbers, "
                "strings and numpy arrays are accepted"
            )
        return _Call(calls[f"{module}.{name}"])

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":  # how protocols before 3 write bytes
            raise ValueError(f"it asks for the text encoding {str(encoding)[:100]!r}")
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("its calls make much more than it holds")
        return text.encode("latin1")


class _Call:
    """A name that a pickle found: what it may do with it is to call it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class _PassedOver:
    """Stands for a set or a complex number; its content is let go of."""

    def __init__(self, *_: object) -> None:
        pass


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: str, *_: object) -> None:
        if not (isinstance(code, str) and re.fullmatch("[biuf][1248]", code)):
            raise ValueError(
                f"arrays of dtype {str(code)[:20]!r} are refused: only numbers are read"
            )
        self.numpy = np.dtype(code)

    def build(self, state: tuple[Any, ...]) -> None:
        _version, byte_order, *_ = state
        if byte_order not in ("<", ">", "|", "="):
            raise ValueError("the byte order of an array is none")
        self.numpy = self.numpy.newbyteorder(byte_order)


class PlainArray:
    """Stands in for ``numpy.ndarray``: made empty, then given its state.

    numbers: the array, a view of the pickle's data.
    """

    def __init__(self, *_: object) -> None:
        self.numbers: npt.NDArray[Any] = np.zeros(0)

    def build(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, data = state
        self.numbers = _numbers(data, dtype).reshape(
            _shape(shape), order="F" if is_fortran else "C"
        )


def _bytes(data: bytes = b"") -> bytes:
    if not isinstance(data, bytes | bytearray):  # a number would ask for that many bytes
        raise ValueError(f"bytes must be made of bytes, not {type(data).__name__}")
    return data


def _from_buffer(data: bytes, dtype: _Dtype, shape: Any, order: Any, *_: object) -> PlainArray:
    array = PlainArray()
    if order not in ("C", "F"):
        raise ValueError("the order of an array is none")
    array.numbers = _numbers(data, dtype).reshape(_shape(shape), order=order)
    return array


def _numbers(data: bytes, dtype: _Dtype) -> npt.NDArray[Any]:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise ValueError("an array must be made of bytes and a dtype")
    return np.frombuffer(data, dtype.numpy)


def _shape(shape: Any) -> tuple[int, ...]:
    if not (type(shape) is tuple and len(shape) <= 4 and all(type(side) is int for side in shape)):
        raise ValueError("the shape of an array is none")
    return shape
