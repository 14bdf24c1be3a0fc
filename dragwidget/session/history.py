"""Everything that was dragged, as a tree: going on after a rewind starts a branch.

What is large of a node, latent and moments, is in memory for the nodes that were stood at last, and
beyond a number of bytes on disk. Whoever asks a node for it gets the same bits from either.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dragwidget.data.frames import XY
from dragwidget.data.instructions import DragInstructions, PointPair
from dragwidget.data.settings import DragSettings
from dragwidget.drag.loop import DragStep
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments
from dragwidget.session.source import Inversion
from dragwidget.storage.offload import Offload

__all__ = ["History", "Node"]

log = logging.getLogger(__name__)

MEMORY = 256 * 2**20  # bytes of latents and moments that a history keeps out of files


@dataclass(frozen=True, eq=False)
class Node:
    """One place in the history: a latent and all that going on from it needs.

    Attributes:
        number: place in ``History.nodes``; the start is 0.
        parent: number of the node it came from; the start is its own.
        latent: (1, c, h, w) float32.
        moments: of Adam.
        timestep: noise level of the latent.
        still: steps since a handle last moved.
        instructions: what was asked for in the step that led here, N pairs; ``None`` for the start.
        settings: of that step; ``None`` for the start.
        anchor_nodes: for each pair, the node on whose image its handle was first drawn.
        handles: where they are now, (x, y) image pixels, (N).
        step: what the user saw of it; ``None`` for the start.
    """

    number: int
    parent: int
    latent: Tensor
    moments: Moments
    timestep: Time
    still: int = 0
    instructions: DragInstructions | None = None
    settings: DragSettings | None = None
    anchor_nodes: tuple[int, ...] = ()
    handles: tuple[XY, ...] = ()
    step: DragStep | None = None

    @classmethod
    def start(cls, inversion: Inversion) -> Node:
        """The node that every drag on an inversion starts from."""
        latent = inversion.latents[-1]
        return cls(0, 0, latent, Moments.zeros(latent), inversion.timestep)

    @property
    def pairs(self) -> tuple[PointPair, ...]:
        """Handles and targets of the step that led here, image pixels; none at the start."""
        return () if self.instructions is None else self.instructions.pairs

    @property
    def index(self) -> int:
        """Drag steps from the start to here."""
        return 0 if self.step is None else self.step.index

    @property
    def packed(self) -> Tensor:
        """Latent and Adam's moments, (3, c, h, w)."""
        if distant := self._distant:
            return distant.read()
        return torch.cat([self.latent, self.moments.first, self.moments.second])

    @property
    def in_memory(self) -> bool:
        """Whether latent and moments are; otherwise they are read when they are asked for."""
        return self._distant is None

    # Latent and moments are taken out of the instance while they are on disk. Whoever holds the
    # node need not know: what an instance does not have is asked for here.

    @property
    def _distant(self) -> _Distant | None:
        distant: _Distant | None = self.__dict__.get("distant")
        return distant

    def __getattr__(self, name: str) -> Any:
        if name in ("latent", "moments") and (distant := self._distant):
            latent, moments = distant.latent_and_moments()
            return latent if name == "latent" else moments
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def to_disk(self, offload: Offload) -> None:
        """Put latent and moments into a file. Raises OSError, and then they stay."""
        offload.write(self.number, self.packed)
        distant = _Distant(offload, self.number, self.moments.count, self.latent.device)
        own = self.__dict__
        own["distant"] = distant
        if self.step is not None:  # it holds the latent too; the user's own step keeps it
            own["step"] = _DistantStep.of(self.step, distant)
        del own["latent"], own["moments"]

    def to_memory(self) -> None:
        """Read latent and moments back. Raises OSError."""
        if distant := self._distant:
            own = self.__dict__
            latent, moments = distant.latent_and_moments()
            own["latent"], own["moments"] = latent, moments
            if isinstance(self.step, _DistantStep):
                own["step"] = self.step.near(latent)
            own["distant"] = None


@dataclass(frozen=True)
class _Distant:
    """Where latent and moments of a node are."""

    offload: Offload
    number: int
    count: int
    device: torch.device

    def read(self) -> Tensor:
        return self.offload.read(self.number).to(self.device)

    def latent_and_moments(self) -> tuple[Tensor, Moments]:
        packed = self.read()
        latent, first, second = (packed[k : k + 1] for k in range(3))
        return latent, Moments(first, second, self.count)


class _DistantStep(DragStep):
    """A step whose latent is read from disk whenever it is asked for."""

    @classmethod
    def of(cls, step: DragStep, distant: _Distant) -> _DistantStep:
        made = object.__new__(cls)
        made.__dict__.update(vars(step))
        made.__dict__.pop("latent", None)
        made.__dict__["distant"] = distant
        return made

    def near(self, latent: Tensor) -> DragStep:
        own = self.__dict__
        names = [field.name for field in fields(DragStep) if field.name != "latent"]
        return DragStep(**{name: own[name] for name in names}, latent=latent)

    def __getattr__(self, name: str) -> Any:
        if name == "latent":
            return self.__dict__["distant"].latent_and_moments()[0]
        raise AttributeError(f"'DragStep' object has no attribute {name!r}")


class History(Sequence["DragStep"]):
    """The drag steps of one edit; as a sequence, those from the start to where it stands now.

    Args:
        memory: bytes of latents and moments to keep in memory; by default ``MEMORY``. Beyond, those
            that were stood at longest ago are in files.

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
        self._depth = [0]  # of every node: its place on any path
        self._tips = {0: None}  # numbers, in the order of the nodes
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
        nodes = self._branch[1 : self._depth[self.current.number] + 1][index]
        if isinstance(nodes, Node):
            return nodes.step  # type: ignore[return-value]
        return [node.step for node in nodes]

    def __iter__(self) -> Iterator[DragStep]:
        return (node.step for node in self.path() if node.step is not None)

    def __bool__(self) -> bool:
        """There is a history, even where no step was taken yet; ``len`` counts steps."""
        return True

    def snapshot(self) -> tuple[tuple[Node, ...], int, int]:
        """(all nodes, number of the current one, number of the tip), at one moment."""
        with self._lock:
            return tuple(self.nodes), self.current.number, self.tip.number

    def path(self, node: Node | None = None) -> list[Node]:
        """The nodes from the start to ``node``, by default to where the edit stands."""
        node = node or self.current
        depth = self._depth[node.number]
        if self._is_present(node):
            return self._branch[: depth + 1]
        nodes = [node]
        while nodes[-1].number != nodes[-1].parent:
            nodes.append(self.nodes[nodes[-1].parent])
        return nodes[::-1]

    def _is_present(self, node: Node) -> bool:
        """Whether the present branch leads through a node."""
        depth = self._depth[node.number]
        return depth < len(self._branch) and self._branch[depth] is node

    @property
    def tips(self) -> list[Node]:
        """The last node of every branch."""
        return [self.nodes[number] for number in self._tips]

    def append(self, node: Node) -> None:
        """Go on from the current node to a new one."""
        with self._lock:
            assert node.parent == self.current.number
            self.add(node)
            del self._branch[self._depth[node.parent] + 1 :]
            self._branch.append(node)
            self.current = self.tip = node

    def add(self, node: Node) -> None:
        """Put a node into the tree, and stand where it stood."""
        with self._lock:
            assert node.number == len(self.nodes)
            self.nodes.append(node)
            self._depth.append(self._depth[node.parent] + 1)
            self._tips.pop(node.parent, None)
            self._tips[node.number] = None
            self._use(node)

    def rewind(self, index: int) -> Node:
        """Stand ``index`` steps from the start on the present branch; nothing is thrown away.

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
        """The node ``index`` steps from the start on the present branch.

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
        node.to_memory()
        self._bytes -= self._kept.pop(node.number, 0)
        moments = node.moments
        size = node.latent.nbytes + moments.first.nbytes + moments.second.nbytes
        self._kept[node.number] = size
        self._bytes += size
        while self._bytes > self._limit and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            try:
                self.nodes[oldest].to_disk(self.offload)
            except OSError as error:
                self._limit = 2 * self._bytes  # tried again then
                log.warning("the history stays in memory, which it fills: %s", error)
                return
            self._bytes -= self._kept.pop(oldest)
