"""How tests let something fail: a pass of a network, a thread."""

import ctypes
import sys
from contextlib import contextmanager


@contextmanager
def raised_in(module, fault, number=1):
    """Let a part of a network fail in one of its passes; gives how many there were."""
    count = [0]

    def hook(*_):
        count[0] += 1
        if count[0] == number:
            fault()

    handle = module.register_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


@contextmanager
def untraced():
    """Without a tracer, such as that of coverage.

    While another thread has an exception to take, CPython 3.11 does not get past a traced line.
    """
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def kill(thread):
    """Let a thread raise SystemExit, wherever it is."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
    )
