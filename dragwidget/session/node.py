"""A node of a history, and the one form in which it is written to a file.

The session file, the journal and the offloaded history all write a node as a safetensors file of
its own, which ``safetensors.safe_open`` opens:

    latent                  (1, c, h, w)
    moment_1, moment_2      Adam's moments, likewise
    metadata["node"]        JSON: everything else; its instructions by
                            their SHA-256 alone: most nodes share a mask
    metadata["sha256"]      SHA-256 of the tensors' bytes

A file is named by the SHA-256 of its header, which in turn names the tensors'. So ``open_node``
reads and checks the header alone; the tensors are read, and checked, when they are asked for. They
are read plainly: of a mapped file another program could cut off a part, which ends the process.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dragwidget.data.frames import XY
from dragwidget.data.instructions import DragInstructions, PointPair
from dragwidget.data.limits import parse_json
from dragwidget.data.quoting import quoted
from dragwidget.data.settings import DragSettings
from dragwidget.drag.loop import DragStep
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session.source import Inversion
from dragwidget.storage.tensors import data_chunks, digest, header_bytes, layout

__all__ = ["Node", "NodeFile", "NodeTensors", "instructions_json", "node_bytes", "open_node"]

MAX_HEADER = 2**20  # bytes; that of a node with the most pairs takes a twentieth
MAX_TERMS = 100  # parts of a loss
MAX_COUNTS = 16  # of a drag method


@dataclass(eq=False)
class NodeTensors:
    """A node's latent and Adam's moments: in memory (``held``), or read from its file on demand."""

    held: tuple[Tensor, Moments] | None
    file: NodeFile | None = None

    def read(self) -> tuple[Tensor, Moments]:
        """Latent and moments. Raises OSError where their file is gone or damaged."""
        held = self.held  # another thread may drop it meanwhile, which sets the file first
        if held is None:
            assert self.file is not None
            held = self.file.read()
        return held

    def read_latent(self) -> Tensor:
        """The latent, (1, c, h, w). Raises OSError, likewise."""
        return self.read()[0]


@dataclass(frozen=True, eq=False)
class Node:
    """One place in the history: a latent and all that going on from it needs.

    Attributes:
        number: place in ``History.nodes``; the start is 0.
        parent: number of the node it came from; the start is its own.
        tensors: latent and Adam's moments, perhaps on disk.
        timestep: noise level of the latent.
        still: steps since a handle last moved.
        counts: what else the method counts, as in ``DragState``.
        plain_steps: denoising steps that are still part of the drag, as in ``DragState``.
        instructions: what was asked for in the step that led here, N pairs; ``None`` for the start.
        settings: drag settings of that step; ``None`` for the start.
        anchor_nodes: for each pair, the node on whose image its handle was first drawn.
        handles: where they are now, (x, y) image pixels, (N).
        step: what the user saw of it; ``None`` for the start.
    """

    number: int
    parent: int
    tensors: NodeTensors
    timestep: Time
    still: int = 0
    counts: tuple[int, ...] = ()
    plain_steps: int = 0
    instructions: DragInstructions | None = None
    settings: DragSettings | None = None
    anchor_nodes: tuple[int, ...] = ()
    handles: tuple[XY, ...] = ()
    step: DragStep | None = None

    @classmethod
    def start(cls, inversion: Inversion) -> Node:
        """Return the node that every drag on an inversion starts from."""
        latent = inversion.latents[-1]
        return cls(0, 0, NodeTensors((latent, Moments.zeros(latent))), inversion.timestep)

    @property
    def latent(self) -> Tensor:
        """(1, c, h, w) float32. Raises OSError where it was on disk, and is not any more."""
        return self.tensors.read_latent()

    @property
    def moments(self) -> Moments:
        """Adam's memory. Raises OSError, likewise."""
        return self.tensors.read()[1]

    @property
    def pairs(self) -> tuple[PointPair, ...]:
        """Handles and targets of the step that led here, image pixels; none at the start."""
        return () if self.instructions is None else self.instructions.pairs

    @property
    def index(self) -> int:
        """Drag steps from the start to here."""
        return 0 if self.step is None else self.step.index

    def continues(self, before: Node) -> bool:
        """Return whether this step carries on ``before``, and warps no warped latent."""
        mine, its = self.settings, before.settings
        assert mine is not None
        assert its is not None
        drawn, given = ({pair.handle for pair in node.pairs} for node in (before, self))
        return drawn == given and mine.method == its.method != "warp"


@dataclass(frozen=True, eq=False)
class NodeFile:
    """Where a node's tensors are on disk.

    Attributes:
        path: path of the file, or of the part of a zip, which stays open as long as this does.
        start: bytes before the tensors.
        sha256: SHA-256 of the tensors' bytes.
        like: a latent of the same shape, type and device.
        count: number of the moments.
        owner: whose life keeps the file.
    """

    number: int
    path: Path | zipfile.Path
    start: int
    sha256: str
    like: Tensor = field(repr=False)
    count: int
    owner: object = None

    @in_plain_torch
    def read(self) -> tuple[Tensor, Moments]:
        """Latent and moments, on their device. Raises OSError: the file is gone, or was changed."""
        node = f"the latent of node {self.number} of the history"
        advice = "go on from a later node, those are in memory"
        try:
            with self.path.open("rb") as file:
                data = bytearray(file.read(self.start + 3 * self.like.nbytes + 1)[self.start :])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{node} is gone: it was in {self.path.parent}, and somebody removed it; {advice}"
            ) from error
        except (zipfile.BadZipFile, EOFError, RuntimeError):
            data = bytearray()
        if digest(data) != self.sha256:
            raise OSError(f"{node} is lost: {self.path} is damaged; {advice}")
        packed = torch.frombuffer(data, dtype=self.like.dtype).view(3, *self.like.shape[1:])
        latent, first, second = torch.split(packed.to(self.like.device), 1)
        return latent, Moments(first, second, self.count)


@lru_cache(maxsize=4)
def instructions_json(instructions: DragInstructions) -> tuple[str, str]:
    """(SHA-256, text) of instructions as JSON."""
    text = instructions.to_json()
    return digest(text.encode()), text


@in_plain_torch
def node_bytes(node: Node) -> tuple[bytes, bytes]:
    """(header, tensors) of a node's file. Raises OSError where the node is on disk and lost."""
    step, (latent, moments) = node.step, node.tensors.read()
    content: dict[str, Any] = {
        "number": node.number,
        "parent": node.parent,
        "count": moments.count,
        "timestep": node.timestep,
        "still": node.still,
        "counts": node.counts,
        "plain_steps": node.plain_steps,
        "instructions": node.instructions and instructions_json(node.instructions)[0],
        "settings": node.settings and asdict(node.settings),
        "anchor_nodes": node.anchor_nodes,
        "handles": node.handles,
    }
    if step is not None:
        content |= {
            "index": step.index,
            "loss": step.loss,
            "loss_terms": dict(step.loss_terms),
            "targets": step.targets_xy.tolist(),
            "reached": step.reached.tolist(),
        }
    tensors = _named(latent, moments.first, moments.second)
    data = b"".join(data_chunks(tensors))
    return header_bytes(tensors, {"node": json.dumps(content), "sha256": digest(data)}), data


def _named(latent: Tensor, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    return {"latent": latent, "moment_1": first, "moment_2": second}


def open_node(
    path: Path | zipfile.Path,
    size: int,
    name: str,
    nodes: Sequence[Node],
    drawn: Mapping[str, DragInstructions],
    owner: object = None,
) -> Node:
    """Read a node's header; its tensors are read when they are asked for.

    Args:
        size: bytes of the file.
        name: SHA-256 of its header.
        nodes: those before it in its history, the start first.
        drawn: instructions by the SHA-256 of their JSON.
        owner: whose life keeps the file.

    Raises:
        ValueError: it is damaged, or no node that can come after these.
    """
    number, like = len(nodes), nodes[0].latent
    what = f"step {number} of its history"
    try:
        with path.open("rb") as opened:
            header = opened.read(8)
            if (length := int.from_bytes(header, "little")) > MAX_HEADER:
                raise ValueError(f"{what} has a header of {length} bytes")
            header += opened.read(length)
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise ValueError(f"{what} cannot be read: {error}") from error
    if digest(header) != name:
        raise ValueError(f"{what} is damaged")
    try:
        places = parse_json(header[8:], what)
        about = places.pop("__metadata__")
        if places != layout(_named(like, like, like)) or size != len(header) + 3 * like.nbytes:
            raise ValueError(f"{what} is of {size} bytes and of shape {quoted(places)}")
        data = parse_json(about["node"].encode(), what)
        count, sha256 = index(data["count"]), about["sha256"]
        tensors = NodeTensors(None, NodeFile(number, path, len(header), sha256, like, count, owner))
        return _node(data, what, nodes, drawn, tensors)
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{what} lacks or misstates {error}") from error


def _node(
    data: dict[str, Any],
    what: str,
    nodes: Sequence[Node],
    drawn: Mapping[str, DragInstructions],
    tensors: NodeTensors,
) -> Node:
    """The node that JSON of ``node_bytes`` describes."""
    parent, anchors = data["parent"], tuple(data["anchor_nodes"])
    if not all(type(n) is int and 0 <= n < len(nodes) for n in (parent, *anchors)):
        raise ValueError(f"{what} does not come from earlier ones")
    if (data["number"], data["index"]) != (len(nodes), nodes[parent].index + 1):
        raise ValueError(f"{what} does not come after its parent")
    if (instructions := drawn.get(data["instructions"])) is None:
        raise ValueError(f"{what} was not drawn")
    handles, targets = (np.array(data[key], dtype=float) for key in ("handles", "targets"))
    pairs, reached = len(instructions.pairs), np.array(data["reached"], dtype=bool)
    shapes = {handles.shape, targets.shape, (len(anchors), 2), (*reached.shape, 2)}
    if shapes != {(pairs, 2)}:
        raise ValueError(f"{what} has not the points that were drawn")
    if type(data["timestep"]) not in (int, float) or len(data["loss_terms"]) > MAX_TERMS:
        raise ValueError(f"{what} has no timestep, or too many terms of its loss")
    counts = tuple(index(count) for count in data["counts"])
    if len(counts) > MAX_COUNTS or min(0, data["plain_steps"], *counts) < 0:
        raise ValueError(f"{what} has counts {quoted(data['counts'])}")
    step = DragStep(
        index=index(data["index"]),
        loss=float(data["loss"]),
        loss_terms={key: float(value) for key, value in data["loss_terms"].items()},
        handles_xy=handles,
        targets_xy=targets,
        distances=np.linalg.norm(targets - handles, axis=-1),
        reached=reached,
        stored=tensors.read_latent,
    )
    return Node(
        number=len(nodes),
        parent=parent,
        tensors=tensors,
        timestep=data["timestep"],
        still=index(data["still"]),
        counts=counts,
        plain_steps=index(data["plain_steps"]),
        instructions=instructions,
        settings=DragSettings(**data["settings"]),
        anchor_nodes=anchors,
        handles=tuple((x, y) for x, y in data["handles"]),
        step=step,
    )
