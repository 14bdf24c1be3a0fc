"""``Job``: one piece of work, which a runner takes item by item."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass
from typing import Any

__all__ = ["Job", "Over", "clear_frames"]


class Over(Exception):  # noqa: N818 - what happened, not a fault
    """The work came to its end; ``args[0]`` is its result."""


@dataclass(eq=False)
class Job:
    """A piece of work, made when its first item is taken, on the thread that takes it.

    Attributes:
        make: makes the iterator.
        name: name shown to the user.
        cancel: ends an item that takes long, from another thread.
        context: what it runs in; ``None`` for the caller's own.
    """

    make: Callable[[], Iterator[Any]]
    name: str
    cancel: Callable[[], None] | None
    context: Context | None
    _items: Iterator[Any] | None = None

    def run(self, work: Callable[[Job], None]) -> None:
        """Call ``work`` with this, in its context."""
        if self.context is None:
            work(self)
        else:
            self.context.run(work, self)

    def take(self) -> Any:
        """Return the next item.

        Raises:
            Over: there is none.
        """
        if self._items is None:
            self._items = iter(self.make())
        items = self._items
        try:
            return next(items)
        except StopIteration as end:
            raise Over(end.value) from None

    def close(self) -> None:
        """Close the iterator, so that what it holds is released on this thread."""
        items, self._items = self._items, None
        if items is not None and hasattr(items, "close"):
            items.close()


def clear_frames(error: BaseException | None) -> None:
    """Clear the traceback frames of an exception, which hold the large tensors of a step."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
