"""Everything that was dragged, as a tree: going on after a rewind starts a branch.

What is large of a node, latent and moments, is in memory for the most recently used nodes, and
beyond a number of bytes on disk. Whoever asks a node for it gets the same bits from either.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from dragwidget.drag.loop import DragStep
from dragwidget.session.node import Node, NodeFile, node_bytes
from dragwidget.storage.offload import Offload
from dragwidget.storage.tensors import digest

log = logging.getLogger(__name__)

MEMORY = 256 * 2**20  # bytes of latents and moments that a history keeps out of files


class History(Sequence[DragStep]):
    """The drag steps of one edit; as a sequence, those from the start to where it stands now.

    Args:
        memory: bytes of latents and moments to keep in memory; by default ``MEMORY``. Beyond, those
            that were least recently used are in files.

    Attributes:
        nodes: every step ever taken, in the order they were taken; the first is the start.
        current: the node where the edit stands.
        tip: the end of the present branch; ``rewind`` goes back and forth between start and tip.
        offload: where nodes are that are not in memory.
    """

    def __init__(self, start: Node, *, memory: int | None = None) -> None:
        self.nodes: list[Node] = [start]
        self.current = start
        self.tip = start
        self.offload = Offload()
        self._branch = [start]  # the path to the tip
        self._ends = 1, {0: start}
        self._limit = MEMORY if memory is None else memory
        # Held while nodes are added and while the place changes, and while a copy is taken.
        self._lock = threading.RLock()
        self._kept: dict[int, int] = {}  # bytes of every node in memory, used longest ago first
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<History: at step {len(self)} of {self.tip.index}, branches: {len(self.tips)}>"

    def __len__(self) -> int:
        return self.current.index

    def __getitem__(self, index: int) -> DragStep:  # type: ignore[override]
        nodes = self._branch[1 : self.current.index + 1][index]
        if isinstance(nodes, Node):
            return nodes.step  # type: ignore[return-value]
        return [node.step for node in nodes]

    def __iter__(self) -> Iterator[DragStep]:
        return (node.step for node in self.path() if node.step is not None)

    def __bool__(self) -> bool:
        """There is a history, even where no step was taken yet; ``len`` counts steps."""
        return True

    def snapshot(self) -> tuple[tuple[Node, ...], int, int]:
        """Return (all nodes, number of the current one, number of the tip), at one moment."""
        with self._lock:
            return tuple(self.nodes), self.current.number, self.tip.number

    def path(self, node: Node | None = None) -> list[Node]:
        """Return the nodes from the start to ``node``, by default to where the edit stands."""
        node = node or self.current
        if self._is_present(node):
            return self._branch[: node.index + 1]
        nodes = [node]
        while nodes[-1].number != nodes[-1].parent:
            nodes.append(self.nodes[nodes[-1].parent])
        return nodes[::-1]

    def _is_present(self, node: Node) -> bool:
        """Whether the present branch leads through a node."""
        return node.index < len(self._branch) and self._branch[node.index] is node

    @property
    def tips(self) -> list[Node]:
        """The last node of every branch."""
        seen, ends = self._ends
        count = len(self.nodes)
        if seen < count:
            ends = dict(ends)
            for node in self.nodes[seen:count]:
                ends.pop(node.parent, None)
                ends[node.number] = node
            self._ends = count, ends  # at once: an interrupt leaves what was known
        return list(ends.values())

    def append(self, node: Node) -> None:
        """Add a node after the current one, and go there."""
        with self._lock:
            assert node.parent == self.current.number
            self.add(node)
            self._branch = [*self._branch[: node.index], node]
            self.current = self.tip = node

    def add(self, node: Node) -> None:
        """Add a node to the tree without going there."""
        with self._lock:
            assert node.number == len(self.nodes)
            self.nodes.append(node)
            if node.tensors.held:
                self._use(node)

    def rewind(self, index: int) -> Node:
        """Go to ``index`` steps from the start on the present branch; nothing is deleted.

        Raises:
            ValueError: there is no such step.
            OSError: it was on disk, and is not any more.
        """
        with self._lock:
            node = self.at(index)
            self._use(node)
            self.current = node
            return node

    def at(self, index: int) -> Node:
        """Return the node ``index`` steps from the start on the present branch.

        Raises:
            ValueError: there is no such step.
        """
        if not 0 <= index < len(self._branch):
            last = len(self._branch) - 1
            raise ValueError(
                f"there is no step {index}: this branch has steps 0 (the start) to {last}"
            )
        return self._branch[index]

    def node(self, number: int) -> Node:
        """Return the node of this number.

        Raises:
            ValueError: there is no such node.
        """
        if not 0 <= number < len(self.nodes):
            last = len(self.nodes) - 1
            raise ValueError(f"there is no node {number}: this history has 0 to {last}")
        return self.nodes[number]

    def go_to(self, number: int) -> Node:
        """Stand at any node; if need be, the newest branch that leads through it is then present.

        Raises:
            ValueError: there is no such node.
            OSError: it was on disk, and is not any more.
        """
        with self._lock:
            node = self.node(number)
            self._use(node)
            if not self._is_present(node):
                self.tip = self._newest_from(node)
                self._branch = self.path(self.tip)
            self.current = node
            return node

    def _newest_from(self, node: Node) -> Node:
        """The newest node that was reached from here; it ends a branch, as any child is newer."""
        newest, inside = node, {node.number}
        for later in self.nodes[node.number + 1 :]:
            if later.parent in inside:
                inside.add(later.number)
                newest = later
        return newest

    def _use(self, node: Node) -> None:
        """Have a node in memory, and others, used longer ago, on disk where there are too many."""
        if node.number == 0:
            return  # the inversion has it in memory anyway
        node.tensors.held = latent, moments = node.tensors.read()
        size = latent.nbytes + moments.first.nbytes + moments.second.nbytes
        self._bytes += size - self._kept.pop(node.number, 0)
        self._kept[node.number] = size
        while self._bytes > self._limit and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            try:
                self._offload(self.nodes[oldest])
            except OSError as error:
                self._limit = 2 * self._bytes  # tried again then
                log.warning("the history stays in memory, which it fills: %s", error)
                return
            self._bytes -= self._kept.pop(oldest)

    def _offload(self, node: Node) -> None:
        """Have a node on disk alone. Raises OSError, and then it stays in memory."""
        tensors = node.tensors
        if tensors.file is None or not tensors.file.path.exists():
            header, data = node_bytes(node)
            path, start = self.offload.write(node.number, header + data), self.nodes[0].latent
            tensors.file = NodeFile(
                node.number, path, len(header), digest(data), start, node.moments.count,
                self.offload,
            )  # fmt: skip
        tensors.held = None
