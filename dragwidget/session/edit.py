"""A drag on one inverted image, with its history: from what the user drew to the method's steps.

A method (``drag.methods``) knows feature cells and one fixed task. Here instructions in pixels can
change between two steps, and handles keep their identity while they do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dragwidget.data.frames import PARTS, XY, Grid, Size
from dragwidget.data.instructions import DragInstructions, on_grid, to_grid
from dragwidget.data.regions import Regions
from dragwidget.data.settings import DragSettings
from dragwidget.diffusion.attention import AttendingToSource
from dragwidget.drag.correspondence import Correspondence, correspondence
from dragwidget.drag.evaluation import DragModel, Evaluation, Passes
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.loop import DragStep, describe, protected_cells
from dragwidget.drag.method import DragState, Ended, Problem, Start
from dragwidget.drag.methods import method_named
from dragwidget.drag.noise_path import Time
from dragwidget.drag.supervision import Anchor, GaussianPrior
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.drag.tracking import confidence
from dragwidget.drag.trajectory import PlainTrajectory
from dragwidget.drag.warping import in_latent
from dragwidget.session.cached_stages import find_features, keep_features
from dragwidget.session.history import History
from dragwidget.session.node import Node, NodeTensors
from dragwidget.session.replaying import replays_of
from dragwidget.session.snapshot import EditSnapshot
from dragwidget.session.source import Inversion, finite
from dragwidget.storage.cache import Store


class Checked(NamedTuple):
    """Confidences, (N,), of the handles of ``instructions`` at the node of this number."""

    node: int
    instructions: DragInstructions
    settings: DragSettings
    confidences: npt.NDArray[np.float64]


class Edit:
    """Everything that was and can be dragged on one inversion.

    ``advance`` and ``change`` are called in ``PlainTorch``.

    Attributes:
        inversion: where it starts.
        history: every step that was taken.
        before_pass: called before every forward pass; it may raise to stop the work.
        store: where the pass at the start is looked for, and cached for other sessions.
        checked: the last confidences, and what they are of.
        regions: of the source image, once they are wanted.
        ending: why a drag was over, and the number of the node where it was.
    """

    @in_plain_torch
    def __init__(self, inversion: Inversion) -> None:
        self.inversion = inversion
        self.before_pass: Callable[[], None] = lambda: None
        self.store: Store | None = None
        self.ending: tuple[int, Ended | None] = (0, None)
        self.regions: Regions | None = None
        self.checked: Checked | None = None
        self.history = History(Node.start(inversion))
        # The last pass with its graph, for the next step; and, without graphs, the passes at nodes
        # on whose images handles were drawn, also at other timesteps; all of one set of settings.
        self._passes: Passes | None = None
        self._seen: dict[int, Evaluation] = {}
        self._plain: dict[int, PlainTrajectory] = {}
        # By which map the pass at a latent attends to the source.
        self._map: Callable[[Tensor], Correspondence | None] = lambda _: None

    @classmethod
    def of(cls, copy: EditSnapshot) -> Edit:
        """An edit that goes on where a copy was taken."""
        edit = cls(copy.inversion)
        for node in copy.nodes[1:]:
            edit.history.add(node)
        edit.history.go_to(copy.tip)
        edit.history.go_to(copy.current)
        return edit

    @property
    def _size(self) -> Size:
        """(width, height) of the image as it was given; the frame of instructions."""
        return self.inversion.request.image.size

    @in_plain_torch
    def restart(self) -> None:
        """Go back to the start; all steps stay in the history."""
        self.history.go_to(0)
        self.ending = (0, None)

    def ended(self, instructions: DragInstructions, settings: DragSettings) -> Ended | None:
        """Whether, and why, there is nothing left to do. It takes no forward pass."""
        node, grid = self.history.current, self._grid(settings)
        handles, _ = self._handles(node, instructions, grid)
        state = self._state(node, instructions, settings, handles, ())
        targets = torch.from_numpy(to_grid(instructions.targets_xy, self._size, grid))
        task = self._task(settings, targets, None, lambda _: ())
        return method_named(settings.method).ended(state, task)

    def advance(self, instructions: DragInstructions, settings: DragSettings) -> DragStep:
        """One step from the current node; the history grows by it, or is as it was on an error."""
        passes = self._match_features(settings)
        node, grid = self.history.current, passes.grid
        cells = on_grid(instructions, grid, (node.latent.shape[2], node.latent.shape[3]))
        targets = torch.from_numpy(cells.targets_rc)
        protected = None if cells.mask is None else protected_cells(cells.mask, node.latent)
        handles, anchor_nodes = self._handles(node, instructions, grid)
        positions = torch.from_numpy(cells.handles_rc)

        def anchors(timestep: Time) -> tuple[Anchor, ...]:
            return self._anchors(anchor_nodes, positions, timestep, settings.motion_radius)

        task = self._task(settings, targets, protected, anchors)
        if node.timestep != self.inversion.timestep:  # what takes passes of its own goes first
            if task.has_region_loss:
                task.source(node.timestep)
            earlier = [self.history.nodes[n].timestep != node.timestep for n in anchor_nodes]
            self._anchors(
                tuple(itertools.compress(anchor_nodes, earlier)),
                positions[torch.tensor(earlier)],
                node.timestep,
                settings.motion_radius,
            )
        new = any(pair not in node.pairs for pair in instructions.pairs)
        self._prime(node, task, any_pass=new and settings.start == "warped")
        warps_on = new and settings.start == "warped" and node.index > 0
        # From here, not from functions that look there: a traceback of a pass stays short.
        first = self.history.nodes[0]
        if task.has_region_loss or warps_on:  # before the anchors, which need less of that pass
            if node.timestep == first.timestep:
                self._look(first, previous=True)
            else:
                task.source(node.timestep)
        for number in anchor_nodes:
            if self.history.nodes[number].timestep == node.timestep:
                self._look(self.history.nodes[number])
        begun = self._state(node, instructions, settings, handles, anchors(node.timestep))
        if settings.correspondence > 0 and begun.start is not None:
            origin, here = self.history.path(node)[begun.start.index], self.correspondence(node)
            known = (begun.latent, self._map_of(node)), (begun.start.latent, self._map_of(origin))
            self._map = lambda latent: next((of for seen, of in known if seen is latent), here)
        try:
            state, report = method_named(settings.method).advance(passes, begun, task)
        except BaseException:
            passes.release()  # the graph is used up by the step, whether it succeeds or not
            raise
        step = describe(state, task, report, self._size, grid)
        tensors = NodeTensors((state.latent, state.moments))
        after = Node(
            number=len(self.history.nodes),
            parent=node.number,
            tensors=tensors,
            timestep=state.timestep,
            still=state.still,
            counts=state.counts,
            plain_steps=state.plain_steps,
            instructions=instructions,
            settings=settings,
            anchor_nodes=anchor_nodes,
            handles=tuple((float(x), float(y)) for x, y in step.handles_xy),
            step=replace(step, stored=tensors.read_latent),  # the user's own step keeps it
        )
        self.history.append(after)
        # Passes at nodes that no handle of this step was drawn on are seldom needed, and large.
        self._seen = {n: seen for n, seen in self._seen.items() if n in {0, *anchor_nodes}}
        self._plain = {n: plain for n, plain in self._plain.items() if n in {0, *anchor_nodes}}
        return step

    def release(self, *, graph_only: bool = False) -> None:
        """Free what only the next step would need; it is recomputed then."""
        if graph_only and self._passes is not None:
            self._passes.release()
        elif not graph_only:
            self._passes, self._seen, self._plain = None, {}, {}

    @in_plain_torch
    def protected(self, instructions: DragInstructions, settings: DragSettings) -> Tensor | None:
        """1 in the protected region, (h, w) latent cells; ``None`` without a mask."""
        latent = self.history.current.latent
        cells = on_grid(instructions, self._grid(settings), (latent.shape[2], latent.shape[3]))
        return None if cells.mask is None else protected_cells(cells.mask, latent)

    @in_plain_torch
    def correspondence(self, node: Node) -> Correspondence | None:
        """Return where each cell of a node's latent came from; ``None`` at the start.

        By the warp of the handles from where they were drawn to where they are, in the settings of
        the last step; by several, where the handles or the method changed, or with ``"warp"``,
        which warps its own result.
        """
        path, found = self.history.path(node)[1:], None
        while path:
            last = 0
            while last + 1 < len(path) and path[last + 1].continues(path[last]):
                last += 1
            begin, end, path = self.history.nodes[path[0].parent], path[last], path[last + 1 :]
            one = self._correspondence(begin, end)
            found = one if found is None else found.then(one)
        return found

    def _correspondence(self, begin: Node, end: Node) -> Correspondence:
        drawn, settings = end.instructions, end.settings
        assert drawn is not None
        assert settings is not None
        grid, size = self._grid(settings), (begin.latent.shape[2], begin.latent.shape[3])
        handles, targets = (
            in_latent(self._handles(node, drawn, grid)[0], grid, begin.latent)
            for node in (begin, end)
        )
        return correspondence(
            size, handles, targets, self.protected(drawn, settings),
            field=settings.warp_field, combine=settings.warp_combine, reach=settings.warp_reach,
        )  # fmt: skip

    def change(self, node: Node, settings: DragSettings) -> Tensor:
        """How a drag has changed the network's guess at the clean latent, (1, c, h, w)."""
        if node.number == 0:
            return torch.zeros_like(node.latent)
        passes = self._match_features(settings)
        first = self.history.nodes[0]
        same = node.timestep == first.timestep
        start = self._look(first, previous=True) if same else self._source(node.timestep)
        with self._attending_as(node):
            here = self._finite(passes.at(node.latent, node.timestep, previous=True, graph=False))
        assert here.x0 is not None
        assert start.x0 is not None
        return here.x0.detach() - start.x0

    @in_plain_torch
    def confidence(
        self, instructions: DragInstructions, settings: DragSettings
    ) -> npt.NDArray[np.float64]:
        """Return how surely each handle is still on its content, (N,), 0 to 1; computed once."""
        node = self.history.current
        if self.checked is not None and self.checked[:3] == (node.number, instructions, settings):
            return self.checked.confidences
        # The map would show what was drawn wherever it takes the handle to.
        passes = self._match_features(settings.without_map)
        cells = on_grid(instructions, passes.grid, (node.latent.shape[2], node.latent.shape[3]))
        handles, anchor_nodes = self._handles(node, instructions, passes.grid)
        here = passes.at(node.latent, node.timestep, graph=False).features.detach()
        found = []
        for handle, drawn, number in zip(
            handles, torch.from_numpy(cells.handles_rc), anchor_nodes, strict=True
        ):
            origin = self.history.nodes[number]
            if origin.timestep == node.timestep:
                original = self._look(origin).features
            else:
                original = self._plain_from(number).features(node.timestep)
            found.append(confidence(here, handle, original, drawn, radius=settings.tracking_radius))
        self.checked = Checked(node.number, instructions, settings, np.array(found))
        return self.checked.confidences

    @in_plain_torch
    def similarity(self, xy: XY, settings: DragSettings) -> list[npt.NDArray[np.float32]]:
        """How similar the features under a point are to those elsewhere, on the current image.

        Args:
            xy: the point, image pixels.
            settings: their ``feature_blocks`` are compared, in one pass.

        Returns:
            For each block the cosine, -1..1, (rows, columns) of the feature grid.
        """
        node, grid = self.history.current, self._grid(settings)
        passes = self._new_passes(settings.without_map)
        features = passes.at(node.latent, node.timestep, graph=False).features
        row, column = to_grid(np.array([xy]), self._size, grid)[0].astype(int)
        found = []
        for block in features.blocks:
            directions = normalize(FeatureMap((block,), grid).full(), dim=0)
            found.append(torch.einsum("c,cij->ij", directions[:, row, column], directions))
        return [cosine.clamp(-1, 1).cpu().numpy() for cosine in found]

    def _task(
        self,
        settings: DragSettings,
        targets: Tensor,
        protected: Tensor | None,
        anchors: Callable[[Time], tuple[Anchor, ...]],
    ) -> Problem:
        inversion = self.inversion
        prior = None
        if settings.prior_weight > 0:
            clean = inversion.latents[0]
            prior = GaussianPrior.of(clean, inversion.schedule, self.history.current.timestep)
        return Problem(
            targets=targets,
            settings=settings,
            path=inversion.schedule,
            source=self._source,
            anchors=anchors,
            clean=inversion.latents[0],
            protected=protected,
            prior=prior,
        )

    def _source(self, timestep: Time) -> Evaluation:
        """The pass at a timestep of the inverted latent, denoised to there without a drag."""
        if timestep == self.inversion.timestep:
            return self._look(self.history.nodes[0], previous=True)
        with self._attending_as(self.history.nodes[0]):
            return self._plain_from(0).at(timestep)

    def _anchors(
        self, numbers: tuple[int, ...], positions: Tensor, timestep: Time, radius: int
    ) -> tuple[Anchor, ...]:
        """What handles that were drawn at ``positions`` on the images of nodes are at a timestep.

        Where it is the node's own, the features of that pass; else of its plain denoising.
        """
        nodes = [self.history.nodes[number] for number in numbers]
        for number in {n.number for n in nodes if n.timestep != timestep}:  # all of one at once
            there = [p for n, p in zip(nodes, positions, strict=True) if n.number == number]
            with self._attending_as(self.history.nodes[number]):
                self._plain_from(number).anchors(timestep, there, radius)
        return tuple(
            Anchor(self._look(node).features, position)
            if node.timestep == timestep
            else self._plain_from(node.number).anchors(timestep, [position], radius)[0]
            for node, position in zip(nodes, positions, strict=True)
        )

    def _plain_from(self, number: int) -> PlainTrajectory:
        if number not in self._plain:
            assert self._passes is not None
            node = self.history.nodes[number]
            self._plain[number] = PlainTrajectory(self._passes, node.latent, node.timestep)
        return self._plain[number]

    def _state(
        self,
        node: Node,
        instructions: DragInstructions,
        settings: DragSettings,
        handles: Tensor,
        anchors: tuple[Anchor, ...],
    ) -> DragState:
        """The current node in the method's terms."""
        same = node.pairs == instructions.pairs and node.settings == settings
        return DragState(
            latent=node.latent,
            timestep=node.timestep,
            handles=handles,
            anchors=anchors,
            moments=node.moments,
            counts=node.counts,
            plain_steps=node.plain_steps,
            index=node.index,
            still=node.still if same else 0,  # counted since the task was last changed
            retarget=any(pair not in node.pairs for pair in instructions.pairs),
            start=self._start(node, instructions, settings),
        )

    def _start(self, node: Node, instructions: DragInstructions, settings: DragSettings) -> Start:
        """Where the steps of this method with these handles began; the history tells.

        With another handle, or one less, they begin at the current node: there the handles were
        drawn, and there the content stays that was dragged by one that is gone.
        """
        wanted = {pair.handle for pair in instructions.pairs}
        while (
            node.settings is not None
            and node.settings.method == settings.method
            and {pair.handle for pair in node.pairs} == wanted
            and self.history.nodes[node.parent].timestep == node.timestep
        ):
            node = self.history.nodes[node.parent]
        handles, _ = self._handles(node, instructions, self._grid(settings))
        return Start(node.latent, handles, node.index)

    def _handles(
        self, node: Node, instructions: DragInstructions, grid: Grid
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Where each handle is on a node's image, (N, 2) cells, and the node that it was drawn on.

        A handle that was deleted and is there again goes on from where it last was. It is at a
        whole cell, unless a method moved it by fractions of cells of this grid.
        """
        known: dict[XY, tuple[XY, int, int]] = {}
        wanted = {pair.handle for pair in instructions.pairs}
        for earlier in reversed(self.history.path(node)):
            parts = PARTS if earlier.settings and self._grid(earlier.settings) == grid else 1
            there = zip(earlier.pairs, earlier.handles, earlier.anchor_nodes, strict=True)
            known = {pair.handle: (xy, number, parts) for pair, xy, number in there} | known
            if wanted <= known.keys():
                break
        found = [
            known.get(pair.handle, (pair.handle, node.number, 1)) for pair in instructions.pairs
        ]
        cells = [to_grid([xy], self._size, grid, parts)[0] for xy, _, parts in found]
        return torch.from_numpy(np.stack(cells)), tuple(number for _, number, _ in found)

    def _grid(self, settings: DragSettings) -> tuple[int, int]:
        width, height = self.inversion.request.image.fitted_size
        return settings.grid(height, width)

    def _prime(self, node: Node, task: Problem, *, any_pass: bool) -> None:
        """Have the pass at the current node at hand: the last step's, where it will do.

        With ``any_pass`` no gradient is needed: at the start, any session's pass will do.
        """
        passes, previous = self._match_features(task.settings), task.has_region_loss
        if passes.live(node.latent, node.timestep, previous=previous) is not None:
            return
        cached = any_pass and node.number == 0 and not task.settings.attends
        if cached:
            found = find_features(self.store, self.inversion, task.settings, passes.grid, previous)
            if found is not None:
                self._seen[node.number] = found
                return
        with self._attending_as(node):
            evaluation = self._finite(passes.at(node.latent, node.timestep, previous=previous))
        if node.number in self._seen:
            # The same kernels for what is compared: other rounding would be told as movement.
            self._seen[node.number] = evaluation.detach()
        if cached:
            keep_features(self.store, self.inversion, task.settings, evaluation)

    def _look(self, node: Node, *, previous: bool = False) -> Evaluation:
        """The pass at a node that handles were drawn on, without its graph; computed once."""
        seen = self._seen.get(node.number)
        if seen is None or (previous and seen.previous is None):
            assert self._passes is not None
            with self._attending_as(node):
                seen = self._passes.at(node.latent, node.timestep, previous=previous, graph=False)
            seen = self._finite(seen).detach()
            self._seen[node.number] = seen
        return seen

    def _finite(self, evaluation: Evaluation) -> Evaluation:
        """The pass, where its features are finite; otherwise nothing of it is cached."""
        try:
            for block in evaluation.features.blocks:
                finite(block, "a feature map")
        except ArithmeticError:
            self.release()
            raise
        return evaluation

    def _new_passes(self, settings: DragSettings) -> Passes:
        inversion, weight = self.inversion, settings.correspondence
        model: DragModel = inversion.predictor
        if settings.attends:
            model = AttendingToSource(inversion.predictor, inversion.latent_at, weight)

        def before(latent: Tensor) -> None:
            self.before_pass()
            if isinstance(model, AttendingToSource) and weight > 0:
                model.moved = self._map(latent)

        replays = replays_of(model, inversion.predictor.model, settings)
        return Passes(model, inversion.schedule, self._grid(settings), settings, before, replays)

    def _map_of(self, node: Node) -> Correspondence | None:
        """Return the map of every pass at a node's latent: that of the step that made it."""
        # Its own handles are known only after the first such pass, which tracks them.
        return self.correspondence(self.history.nodes[node.parent])

    @contextmanager
    def _attending_as(self, node: Node) -> Iterator[None]:
        """Let passes attend by a node's map, as long as this lasts."""
        before, self._map = self._map, lambda _: self._map_of(node)
        try:
            yield
        finally:
            self._map = before

    def _match_features(self, settings: DragSettings) -> Passes:
        """The passes; those of other feature settings are forgotten."""
        passes, grid = self._passes, self._grid(settings)
        if passes is None or (passes.settings.seen_by, passes.grid) != (settings.seen_by, grid):
            self.release()
            passes = self._passes = self._new_passes(settings)
        return passes
