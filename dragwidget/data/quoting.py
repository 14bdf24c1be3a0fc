"""Values in error messages, bounded: one may be long, nested without end, or have no text."""

from __future__ import annotations

import reprlib


class _Quoting(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no number of more than 4300 digits
            return f"a number of {x.bit_length()} bits"


_quoting = _Quoting()
_quoting.maxlevel = 2
_quoting.maxstring = _quoting.maxother = 80


def quoted(value: object) -> str:
    """``repr`` of a value, cut short where it is long."""
    return _quoting.repr(value)
