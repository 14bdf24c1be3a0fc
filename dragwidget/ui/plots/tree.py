"""Draw the history of an edit as a tree: one line for each branch, and the current node."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dragwidget.ui.plots.svg import document, text
from dragwidget.ui.styles import FAINT, TEXT

MAX_BRANCHES = 8  # that are shown: the current one and the newest
_LANE = 18  # pixels from one branch to the next
_LEFT = 10
_ROOM = 28  # pixels of a number
_STRONG = "#2f7fd1"


def tree(parents: Sequence[int], current: int, tip: int, *, width: int = 320) -> str:
    """Return all branches as horizontal lines, as SVG: x is the step.

    Args:
        parents: the parent of each node; that of node 0 is 0.
        current: number of the current node.
        tip: last node of the current branch, which is drawn bold.
        width: pixels.

    Raises:
        ValueError: there is no node, or a node comes before its parent, or there is no node
            ``current`` or ``tip``.
    """
    count = len(parents)
    if not count or any(not 0 <= p < max(1, n) for n, p in enumerate(parents)):
        raise ValueError("a history starts with node 0, and every other comes after its parent")
    if not (0 <= current < count and 0 <= tip < count):
        raise ValueError(f"there are nodes 0 to {count - 1}, got current {current}, tip {tip}")
    depth = _depths(parents)
    branches = _branches(parents)
    present = _path(parents, tip)
    shown = _chosen(branches, set(present))
    hidden = len(branches) - len(shown)
    lanes = {node: row for row, branch in enumerate(shown) for node in branch}
    right = 34
    scale = (width - _LEFT - right) / max(1, *depth)
    height = _LANE * len(shown) + (14 if hidden else 0) + 4

    def x(node: int) -> float:
        return _LEFT + scale * depth[node]

    def y(node: int) -> float:
        return _LANE * lanes[node] + _LANE / 2 + 2

    def line(nodes: Sequence[int]) -> str:
        """Return the path through nodes, parent to child; it goes down where a branch begins."""
        drawn = f"M{x(nodes[0]):.1f} {y(nodes[0]):.1f}"
        for before, node in pairwise(nodes):
            if lanes[before] != lanes[node]:
                corner = min(5.0, scale)
                drawn += f"H{x(before):.1f}V{y(node) - corner:.1f}"
                drawn += f"q0 {corner:.1f} {corner:.1f} {corner:.1f}"
        return f"{drawn}H{x(nodes[-1]):.1f}"

    lines, marks = [], []
    for branch in shown:
        start, last = parents[branch[0]], branch[-1]
        nodes = [start, *branch] if start in lanes and start != branch[0] else branch
        lines.append(_stroke(line(nodes), TEXT, 1.5))
        marks.append(_dot(x(last), y(last), 2.5, FAINT))
        near = lanes.get(current) == lanes[last] and x(last) - x(current) < _ROOM
        if not near:  # else the number of the current one stands there
            words = str(depth[last])
            marks.append(text(x(last) + 7, y(last) + 3.5, words, colour=FAINT, size=10, halo=True))
    faint = f'<g opacity=".4">{"".join(lines)}</g>'  # as one: where two lie together, too
    lines = [faint, _stroke(line(present), _STRONG, 2.5)]
    marks.append(_dot(x(0), y(0), 3.5, TEXT))
    if current in lanes:
        at, level = x(current), y(current)
        words = str(depth[current])
        marks.append(_dot(at, level, 5, _STRONG))
        marks.append(text(at + 9, level + 3.5, words, weight=700, halo=True))
    if hidden:
        words = f"and {hidden} older branch{'es' if hidden > 1 else ''}"
        marks.append(text(_LEFT, height - 5, words, colour=FAINT, size=10))
    count_said = f"{len(branches)} branch{'es' if len(branches) > 1 else ''}"
    summary = f"History: at step {depth[current]} of {depth[tip]}, {count_said}"
    return document([*lines, *marks], width, height, summary)


def _depths(parents: Sequence[int]) -> list[int]:
    """Return the number of steps from the start, for each node."""
    depth = [0]
    for parent in parents[1:]:
        depth.append(depth[parent] + 1)
    return depth


def _path(parents: Sequence[int], node: int) -> list[int]:
    """Return the nodes from the start to ``node``."""
    path = [node]
    while path[-1] != 0:
        path.append(parents[path[-1]])
    return path[::-1]


def _branches(parents: Sequence[int]) -> list[list[int]]:
    """Return all nodes, by branch: a first child continues its parent's, others begin one.

    A branch keeps its place when others come.
    """
    branches, ends = [[0]], {0: 0}  # ends: last node of a branch -> its place
    for node, parent in enumerate(parents[1:], start=1):
        place = ends.pop(parent, len(branches))
        if place == len(branches):
            branches.append([])
        branches[place].append(node)
        ends[node] = place
    return branches


def _chosen(branches: list[list[int]], present: set[int]) -> list[list[int]]:
    """Return the branches to show: those of the current path, and the newest."""
    needed = [k for k, branch in enumerate(branches) if branch[0] in present]
    others = [k for k in range(len(branches)) if k not in needed]
    room = max(0, MAX_BRANCHES - len(needed))
    kept = sorted([*needed, *others[len(others) - room :]]) if room else needed
    return [branches[k] for k in kept]


def _stroke(path: str, colour: str, width: float) -> str:
    return (
        f'<path d="{path}" fill="none" stroke-width="{width}" stroke-linejoin="round" '
        f'stroke-linecap="round" style="stroke:{colour}"/>'
    )


def _dot(x: float, y: float, radius: float, colour: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" stroke-width="1.5" '
        f'style="fill:{colour};stroke:var(--jp-layout-color1,#fff)"/>'
    )
