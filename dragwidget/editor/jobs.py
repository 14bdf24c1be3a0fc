"""``Job``: one piece of work, which a runner takes item by item."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(eq=False)
class Job(Generic[Item]):
    """A piece of work, made when its first item is taken, on the thread that takes it.

    Attributes:
        make: makes the iterator.
        name: name shown to the user.
        cancel: ends an item that takes long, from another thread.
        context: what it runs in; ``None`` for the caller's own.
        items: the iterator, once it is made.
    """

    make: Callable[[], Iterator[Item]]
    name: str
    cancel: Callable[[], None] | None
    context: Context | None
    items: Iterator[Item] | None = None

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work`` in its context."""
        if self.context is None:
            return work(*args, **kwargs)
        return self.context.run(work, *args, **kwargs)

    def open(self) -> Iterator[Item]:
        """Return the iterator, which is made when it is first asked for."""
        if self.items is None:
            self.items = iter(self.run(self.make))
        return self.items

    def close(self) -> None:
        """Close the iterator, so that what it holds is released on this thread."""
        items, self.items = self.items, None
        close = getattr(items, "close", None)  # a generator has it
        if close is not None:
            close()


def clear_frames(error: BaseException | None) -> None:
    """Clear the traceback frames of an exception, which hold the large tensors of a step."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
