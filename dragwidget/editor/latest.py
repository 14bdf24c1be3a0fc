"""``Latest``: a mailbox that holds one value; a new one takes the place of one not fetched yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty
from typing import Generic, TypeVar

__all__ = ["Latest"]

T = TypeVar("T")


class Latest(Generic[T]):
    """Hands values from any thread to one consumer, the latest wins.

    For previews: whoever makes them need not wait, whoever shows them never falls behind. Iterating
    takes values as they come and ends when the mailbox is closed.

    Attributes:
        dropped: how many values were replaced before they were fetched.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._value: list[T] = []  # none or one
        self._closed = False
        self.dropped = 0

    def put(self, value: T) -> None:
        """Leave a value; after ``close`` it is let go."""
        with self._changed:
            if self._closed:
                return
            self.dropped += len(self._value)
            self._value = [value]
            self._changed.notify()

    def get(self, timeout: float | None = None) -> T:
        """The latest value, as soon as there is one; it is fetched once.

        Raises:
            queue.Empty: there was none within ``timeout`` seconds, or the mailbox is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._value or self._closed, timeout)
            if not self._value:
                raise Empty
            return self._value.pop()

    def close(self) -> None:
        """Let nothing more in; what is there is let go."""
        with self._changed:
            self._closed = True
            self._value = []
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                yield self.get()
            except Empty:
                return
