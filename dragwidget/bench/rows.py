"""Results as JSON lines: one row a task, written as soon as it is there, never twice."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dragwidget.storage.atomic import Lock, check_writable, write_whole

Row = dict[str, Any]
Key = tuple[Any, ...]


def machine() -> str:
    """Return the name of the CPU that the times were measured on, and its cores."""
    name = platform.machine()
    with suppress(OSError):  # Linux tells it in a file, and by no function
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers, as kept beside them."""
    return {name: version(name) for name in ("dragwidget", "torch", "diffusers")}


def digest(made_by: Mapping[str, Any]) -> str:
    """Return what stands in a row for all that its numbers depend on, 12 hexadecimal digits."""
    text = json.dumps(made_by, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """Return plain data as JSON holds it: a number that is not finite is ``None``."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


class RowFile:
    """The rows of a run and of those before it that were interrupted.

    Each has ``made_by``, the ``digest`` of what it depends on.

    Attributes:
        rows: by their key.

    Args:
        path: ``None``: they are not written.
        key: names of the fields that a row is known by.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it holds something else.
    """

    def __init__(self, path: Path | None, key: Sequence[str]) -> None:
        self.path, self.key = path, tuple(key)
        self.rows: dict[Key, Row] = {}
        if path is None:
            return
        check_writable(path)
        if not path.is_file():
            return
        *lines, last = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self.rows[self._key_of(row)] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}, is no row of this benchmark: name another file"
                ) from error
        if last:  # a run was killed while it wrote this line
            write_whole(path, b"".join(line + b"\n" for line in lines))

    def has(self, key: Key, made_by: str) -> bool:
        """Return whether a row is there.

        Raises:
            ValueError: it was made by other settings, weights or versions.
        """
        row = self.rows.get(key)
        if row is None:
            return False
        if row["made_by"] != made_by:
            raise ValueError(
                f"{self.path} holds a row for {', '.join(map(str, key))} that was made by other "
                "settings, weights or versions: name another place, or move the file"
            )
        return True

    def add(self, row: Row) -> None:
        """Add a row, and append it to the file."""
        row = plain(row)
        key = self._key_of(row)
        assert key not in self.rows, f"{key} is there already"
        self.rows[key] = row
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(json.dumps(row).encode() + b"\n")

    def _key_of(self, row: Row) -> Key:
        if not isinstance(row["made_by"], str):
            raise TypeError("made_by must be text")
        return tuple(row[name] for name in self.key)


def to_row(result: Any) -> Row:
    """Return a result, a dataclass, as a row."""
    row: Row = plain(asdict(result))
    return row


@contextmanager
def row_file(path: Path | None, key: Sequence[str]) -> Iterator[RowFile]:
    """Open the rows for one run at a time; see ``RowFile``.

    Raises OSError, also where another run has them open.
    """
    if path is None:
        yield RowFile(None, key)
        return
    lock = Lock(path.with_name(f"{path.name}.lock"))
    try:
        lock.take()
    except OSError as error:
        raise OSError(
            error.errno, "another run writes these rows, or may not", str(path)
        ) from error
    try:
        yield RowFile(path, key)
    finally:
        lock.release()
        lock.path.unlink(missing_ok=True)
