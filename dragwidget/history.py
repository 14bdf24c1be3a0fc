"""Everything that was dragged, as a tree: going on after a rewind starts a branch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragwidget.frames import XY
from dragwidget.instructions import DragInstructions, PointPair
from dragwidget.settings import DragSettings

if TYPE_CHECKING:
    from torch import Tensor

    from dragwidget.drag.loop import DragStep
    from dragwidget.drag.optimizer import Moments

__all__ = ["History", "Node"]


@dataclass(frozen=True, eq=False)
class Node:
    """One place in the history: a latent and all that going on from it needs.

    Attributes:
        number: place in ``History.nodes``; the start is 0.
        parent: number of the node it came from; the start is its own.
        latent: (1, c, h, w) float32.
        moments: of Adam.
        still: steps since a handle last moved.
        instructions: what was asked for in the step that led here, N pairs; ``None`` for the start.
        settings: of that step; ``None`` for the start.
        born: for each pair, the node on whose picture its handle was drawn.
        handles: where they are now, (x, y) image pixels, (N).
        step: what the user saw of it; ``None`` for the start.
    """

    number: int
    parent: int
    latent: Tensor
    moments: Moments
    still: int = 0
    instructions: DragInstructions | None = None
    settings: DragSettings | None = None
    born: tuple[int, ...] = ()
    handles: tuple[XY, ...] = ()
    step: DragStep | None = None

    @property
    def pairs(self) -> tuple[PointPair, ...]:
        """Handles and targets of the step that led here, image pixels; none at the start."""
        return () if self.instructions is None else self.instructions.pairs

    @property
    def index(self) -> int:
        """Drag steps from the start to here."""
        return 0 if self.step is None else self.step.index


class History(Sequence["DragStep"]):
    """The drag steps of one edit; as a sequence, those from the start to where it stands now.

    Attributes:
        nodes: every step ever taken, in the order they were taken; the first is the start.
        current: the node where the edit stands.
        tip: the end of the present branch; ``rewind`` goes back and forth between start and tip.
    """

    def __init__(self, start: Node) -> None:
        self.nodes: list[Node] = [start]
        self.current = start
        self.tip = start

    def __repr__(self) -> str:
        return f"<History: at step {len(self)} of {self.tip.index}, branches: {len(self.tips)}>"

    def __len__(self) -> int:
        return self.current.index

    def __getitem__(self, index: int) -> DragStep:  # type: ignore[override]
        return [node.step for node in self.path()[1:] if node.step is not None][index]

    def __iter__(self) -> Iterator[DragStep]:
        return (node.step for node in self.path() if node.step is not None)

    def path(self, node: Node | None = None) -> list[Node]:
        """The nodes from the start to ``node``, by default to where the edit stands."""
        node = node or self.current
        nodes = [node]
        while nodes[-1].number != nodes[-1].parent:
            nodes.append(self.nodes[nodes[-1].parent])
        return nodes[::-1]

    @property
    def tips(self) -> list[Node]:
        """The last node of every branch."""
        parents = {node.parent for node in self.nodes[1:]}
        return [node for node in self.nodes if node.number not in parents]

    def append(self, node: Node) -> None:
        """Go on from the current node to a new one."""
        assert node.number == len(self.nodes)
        assert node.parent == self.current.number
        self.nodes.append(node)
        self.current = self.tip = node

    def rewind(self, index: int) -> Node:
        """Stand ``index`` steps from the start on the present branch; nothing is thrown away.

        Raises:
            ValueError: there is no such step.
        """
        self.current = self.at(index)
        return self.current

    def at(self, index: int) -> Node:
        """The node ``index`` steps from the start on the present branch.

        Raises:
            ValueError: there is no such step.
        """
        path = self.path(self.tip)
        if not 0 <= index < len(path):
            raise ValueError(
                f"there is no step {index}: this branch has steps 0 (the start) to {len(path) - 1}"
            )
        return path[index]

    def go_to(self, number: int) -> Node:
        """Stand at any node; if need be, the newest branch that leads through it is then present.

        Raises:
            ValueError: there is no such node.
        """
        if not 0 <= number < len(self.nodes):
            last = len(self.nodes) - 1
            raise ValueError(f"there is no node {number}: this history has 0 to {last}")
        self.current = self.nodes[number]
        if self.current not in self.path(self.tip):
            self.tip = next(tip for tip in self.tips[::-1] if self.current in self.path(tip))
        return self.current
