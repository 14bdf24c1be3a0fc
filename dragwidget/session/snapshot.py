"""A frozen copy of a session at one moment: what files are made of.

Taken while a drag may go on in another thread. Nodes are frozen and a history only grows, so the
copy holds references and copies no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragwidget.data.request import EditRequest
from dragwidget.drag.method import Ended
from dragwidget.session.history import History
from dragwidget.session.node import Node
from dragwidget.session.source import Inversion, TrainedLoRA

if TYPE_CHECKING:
    from dragwidget.diffusion.backbone import Backbone


@dataclass(frozen=True, eq=False)
class EditSnapshot:
    """One inversion and everything that was dragged on it.

    Attributes:
        nodes: every step ever taken, the start first.
        current, tip: numbers of the node where the edit stands, and of the end of its branch.
    """

    inversion: Inversion
    nodes: tuple[Node, ...]
    current: int
    tip: int

    @classmethod
    def of(cls, inversion: Inversion, history: History) -> EditSnapshot:
        return cls(inversion, *history.snapshot())


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A session: what is asked for, and the stages of its image.

    Attributes:
        ended: why the last drag was over; ``None`` while it can go on.
        trained: the LoRAs that were trained on this image.
        edits: one for each prompt and settings that it was inverted with.
    """

    model: Backbone
    request: EditRequest
    ended: Ended | None
    trained: tuple[TrainedLoRA, ...]
    edits: tuple[EditSnapshot, ...]
