"""A drag on one inverted image, with its history: from what the user drew to the method's steps.

The method (``drag.loop``) knows feature cells and one fixed task. Here instructions in pixels may
change between two steps, and handles keep their identity while they do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dragwidget.data.frames import XY, Size
from dragwidget.data.instructions import DragInstructions, on_grid, to_grid
from dragwidget.data.settings import DragSettings
from dragwidget.drag.evaluation import Evaluation, evaluate
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.loop import (
    DragState,
    DragStep,
    Ended,
    Problem,
    advance,
    describe,
    ended,
    protected_cells,
)
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.supervision import Anchor, GaussianPrior
from dragwidget.session.cached_stages import find_features, keep_features
from dragwidget.session.history import History, Node
from dragwidget.session.source import Inversion, finite
from dragwidget.storage.cache import Store

__all__ = ["Dragging"]


class Dragging:
    """Everything that was and can be dragged on one inversion.

    Attributes:
        inversion: where it starts.
        history: every step that was taken.
        before_pass: called before every pass of the network; it may raise to stop the work.
        store: where the pass at the start is looked for, and kept for other sessions.
    """

    def __init__(self, inversion: Inversion) -> None:
        self.inversion = inversion
        self.before_pass: Callable[[], None] = lambda: None
        self.store: Store | None = None
        latent = inversion.latents[-1]
        self.history = History(Node(0, 0, latent, Moments.zeros(latent)))
        # The last pass with its graph, for the next step; and, without graphs, the passes at nodes
        # on whose images handles were drawn. Both belong to one set of feature settings.
        self._live: tuple[Node, Evaluation] | None = None
        self._seen: dict[int, Evaluation] = {}
        self._features: tuple[object, ...] = ()

    @property
    def _size(self) -> Size:
        """(width, height) of the image as it was given; the frame of instructions."""
        return self.inversion.source.image.size

    def ended(self, instructions: DragInstructions, settings: DragSettings) -> Ended | None:
        """Whether, and why, there is nothing left to do. It takes no pass of the network."""
        node, grid = self.history.current, self._grid(settings)
        handles, _ = self._handles(node, instructions)
        targets = torch.from_numpy(to_grid(instructions.targets_xy, self._size, grid))
        state = DragState(
            latent=node.latent,
            handles=torch.from_numpy(to_grid(handles, self._size, grid)),
            anchors=(),
            moments=node.moments,
            still=self._still(node, instructions, settings),
        )
        return ended(state, Problem(targets), settings)

    def advance(self, instructions: DragInstructions, settings: DragSettings) -> DragStep:
        """One step from the current node; the history grows by it, or is as it was on an error."""
        state, problem, evaluation, anchor_nodes = self._situation(instructions, settings)
        node = self.history.current
        self.before_pass()
        self._live = None  # its graph is used up by the step, whether that succeeds or not
        state, ahead, terms = advance(
            self.inversion.predictor,
            self.inversion.schedule,
            self.inversion.timestep,
            state,
            problem,
            evaluation,
            settings,
        )
        grid = evaluation.features.grid
        step = describe(state, problem.targets, terms, self._size, grid, settings)
        after = Node(
            number=len(self.history.nodes),
            parent=node.number,
            latent=state.latent,
            moments=state.moments,
            still=state.still,
            instructions=instructions,
            settings=settings,
            anchor_nodes=anchor_nodes,
            handles=tuple((float(x), float(y)) for x, y in step.handles_xy),
            step=step,
        )
        self.history.append(after)
        self._live = (after, ahead)
        # What no handle of this step was drawn on is seldom looked at again, and large.
        self._seen = {n: seen for n, seen in self._seen.items() if n in {0, *anchor_nodes}}
        return step

    def release(self) -> None:
        """Let go of what only the next step would need; it is made again then."""
        self._live, self._seen = None, {}

    def protected(self, instructions: DragInstructions, settings: DragSettings) -> Tensor | None:
        """1 where the mask lets nothing change, (h, w) latent cells; ``None`` without a mask."""
        latent = self.history.current.latent
        cells = on_grid(instructions, self._grid(settings), (latent.shape[2], latent.shape[3]))
        return None if cells.mask is None else protected_cells(cells.mask, latent)

    def change(self, node: Node, settings: DragSettings) -> Tensor:
        """How the network's guess at the clean latent has changed since the start, (1, c, h, w)."""
        if node.number == 0:
            return torch.zeros_like(node.latent)
        self._match_features(settings)
        start = self._look(self.history.nodes[0], settings, previous=True)
        here = self._from_live(node, previous=True) or self._pass(
            node, settings, previous=True, graph=False
        )
        assert here.x0 is not None
        assert start.x0 is not None
        return here.x0.detach() - start.x0

    def similarity(self, xy: XY, settings: DragSettings) -> list[npt.NDArray[np.float32]]:
        """How like the features under a point are those elsewhere, on the image as it is now.

        Args:
            xy: the point, image pixels.
            settings: their ``feature_blocks`` are looked at, in one pass.

        Returns:
            For each block the cosine, -1..1, (rows, columns) of the feature grid.
        """
        grid = self._grid(settings)
        features = self._pass(self.history.current, settings, previous=False, graph=False).features
        row, column = to_grid(np.array([xy]), self._size, grid)[0].astype(int)
        found = []
        for block in features.blocks:
            directions = normalize(FeatureMap((block,), grid).full(), dim=0)
            found.append(torch.einsum("c,cij->ij", directions[:, row, column], directions))
        return [cosine.clamp(-1, 1).cpu().numpy() for cosine in found]

    def _situation(
        self, instructions: DragInstructions, settings: DragSettings
    ) -> tuple[DragState, Problem, Evaluation, tuple[int, ...]]:
        """The current node and the user's wishes in the method's terms."""
        self._match_features(settings)
        node = self.history.current
        grid = self._grid(settings)
        cells = on_grid(instructions, grid, (node.latent.shape[2], node.latent.shape[3]))
        region = cells.mask is not None and settings.region_weight > 0
        new = any(pair not in node.pairs for pair in instructions.pairs)
        warped = new and settings.start == "warped"
        evaluation = self._evaluation(node, settings, previous=region, warped=warped)
        handles, anchor_nodes = self._handles(node, instructions)
        drawn = torch.from_numpy(cells.handles_rc)
        nodes = self.history.nodes
        # Before the anchors, some of which may lie there: they need less of that pass.
        start = self._look(nodes[0], settings, previous=True) if region else None
        state = DragState(
            latent=node.latent,
            handles=torch.from_numpy(to_grid(handles, self._size, grid)),
            anchors=tuple(
                Anchor(self._look(nodes[number], settings).features, position)
                for number, position in zip(anchor_nodes, drawn, strict=True)
            ),
            moments=node.moments,
            index=node.index,
            warp=new,
            still=self._still(node, instructions, settings),
        )
        problem = Problem(
            targets=torch.from_numpy(cells.targets_rc),
            protected=None if cells.mask is None else protected_cells(cells.mask, node.latent),
            reference=None if start is None else start.previous,
            prior=self._prior() if settings.prior_weight > 0 else None,
            clean=self._clean(settings) if warped else None,
        )
        return state, problem, evaluation, anchor_nodes

    def _handles(
        self, node: Node, instructions: DragInstructions
    ) -> tuple[list[XY], tuple[int, ...]]:
        """Where each handle is now, and the node on whose image it was drawn."""
        known = {pair.handle: k for k, pair in enumerate(node.pairs)}
        handles, anchor_nodes = [], []
        for pair in instructions.pairs:
            k = known.get(pair.handle)
            handles.append(pair.handle if k is None else node.handles[k])
            anchor_nodes.append(node.number if k is None else node.anchor_nodes[k])
        return handles, tuple(anchor_nodes)

    @staticmethod
    def _still(node: Node, instructions: DragInstructions, settings: DragSettings) -> int:
        """Steps in which no handle moved, since what is asked for was last changed."""
        same = node.pairs == instructions.pairs and node.settings == settings
        return node.still if same else 0

    def _prior(self) -> GaussianPrior:
        alpha = self.inversion.schedule.alpha(self.inversion.timestep)
        return GaussianPrior.of(self.inversion.latents[0], alpha)

    def _clean(self, settings: DragSettings) -> tuple[Tensor, Tensor]:
        """The clean latent in the current one, as far as is known, and its share."""
        clean = self.inversion.latents[0] + self.change(self.history.current, settings)
        return clean, self.inversion.schedule.alpha(self.inversion.timestep)

    def _grid(self, settings: DragSettings) -> tuple[int, int]:
        width, height = self.inversion.source.image.fitted_size
        return settings.grid(height, width)

    def _evaluation(
        self, node: Node, settings: DragSettings, *, previous: bool, warped: bool
    ) -> Evaluation:
        """The pass at the current node with its graph: the last step's, where it will do.

        A latent that is ``warped`` needs no gradient: at the start, any session's pass will do.
        """
        evaluation = self._from_live(node, previous=previous)
        if evaluation is not None:
            return evaluation
        kept, grid = warped and node.number == 0, self._grid(settings)
        if kept and (found := find_features(self.store, self.inversion, settings, grid, previous)):
            self._seen[node.number] = found
            return found
        self._live = None  # one graph at a time: they are what fills a device's memory
        evaluation = self._pass(node, settings, previous=previous, graph=True)
        self._live = (node, evaluation)
        if node.number in self._seen:
            # The same kernels for what is compared: other rounding would be told as movement.
            self._seen[node.number] = evaluation.detach()
        if kept:
            keep_features(self.store, self.inversion, settings, evaluation)
        return evaluation

    def _look(self, node: Node, settings: DragSettings, *, previous: bool = False) -> Evaluation:
        """The pass at a node that handles were drawn on, without its graph; made once."""
        seen = self._seen.get(node.number)
        if seen is None or (previous and seen.previous is None):
            live = self._from_live(node, previous=previous)
            seen = (live or self._pass(node, settings, previous=previous, graph=False)).detach()
            self._seen[node.number] = seen
        return seen

    def _from_live(self, node: Node, *, previous: bool) -> Evaluation | None:
        where, evaluation = self._live or (None, None)
        if where is not node or evaluation is None:
            return None
        return evaluation if evaluation.previous is not None or not previous else None

    def _pass(
        self, node: Node, settings: DragSettings, *, previous: bool, graph: bool
    ) -> Evaluation:
        self.before_pass()
        evaluation = evaluate(
            self.inversion.predictor,
            node.latent,
            self.inversion.schedule,
            self.inversion.timestep,
            self._grid(settings),
            settings,
            previous=previous,
            graph=graph,
        )
        for block in evaluation.features.blocks:
            finite(block, "a feature map")
        return evaluation

    def _match_features(self, settings: DragSettings) -> None:
        """Forget passes that were made with other feature settings."""
        wanted = (settings.feature_blocks, self._grid(settings))
        if wanted != self._features:
            self._features, self._live, self._seen = wanted, None, {}
