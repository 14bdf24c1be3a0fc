"""Golden cases of GoodDrag and of FastDrag's field, of a folder, run by their parameters.

The folder is named by ``DRAGWIDGET_GOLDEN_METHODS`` (default ``tests/golden_methods``). Its README
says how the numbers were made, which of them can be compared, and to which tolerance.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dragwidget.data.settings import DragSettings, RenderSettings
from dragwidget.diffusion.attention import record_reference, render_latents
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.sd import Conditioning, StableDiffusion
from dragwidget.drag import denoise
from dragwidget.drag.descent import losses
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.method import DragState, Ended, Problem
from dragwidget.drag.methods import gooddrag
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.stretching import (
    Plan,
    displacements,
    fill_from_neighbours,
    move_cells,
    stretches,
)
from dragwidget.drag.supervision import originals
from dragwidget.drag.trajectory import PlainTrajectory

METHOD = gooddrag.GoodDrag()
FOLDER = Path(
    os.environ.get("DRAGWIDGET_GOLDEN_METHODS", Path(__file__).parents[1] / "golden_methods")
)
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
CASES = {f"{case['piece']}-{case['name']}": case for case in MANIFEST["cases"]}


def cases(piece: str, *, raises: bool | None = None) -> pytest.MarkDecorator:
    chosen = [
        name
        for name, case in CASES.items()
        if case["piece"] == piece and raises in (None, bool(case["params"].get("reference_raises")))
    ]
    return pytest.mark.parametrize("name", chosen)


@cache
def model(dtype: torch.dtype = torch.float32) -> StableDiffusion:
    folder = FOLDER / MANIFEST["model"]
    if not folder.is_dir():  # the same model is beside the other folder of this form
        folder = Path(__file__).parents[1] / "golden" / MANIFEST["model"]
    return load_model(folder, device="cpu", dtype=dtype)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def gap(got: Any, wanted: Any) -> float:
    difference = np.abs(np.asarray(got, dtype=np.float64) - np.asarray(wanted, dtype=np.float64))
    assert np.isfinite(difference).all()
    return float(difference.max(initial=0))


def test_every_piece_of_the_folder_is_run() -> None:
    assert {case["piece"] for case in MANIFEST["cases"]} <= {"gooddrag", "fastdrag_field"}


# ---------------------------------------------------------------- one drag, recorded


@dataclass
class Run:
    """What one drag did.

    Attributes:
        losses, motion: of each update.
        steps: for each, which dragging timestep it was made at.
        after: the latent after each update, before any denoising.
        tracked: handles after each tracking, as (timestep number, updates made by then, handles).
        found: handles as they were found again at each timestep that was entered.
        ended: why it was over.
        state: where it was then.
    """

    losses: list[float] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    after: list[torch.Tensor] = field(default_factory=list)
    tracked: list[tuple[int, int, torch.Tensor]] = field(default_factory=list)
    found: list[torch.Tensor] = field(default_factory=list)
    still: list[int] = field(default_factory=list)
    entered: list[torch.Tensor] = field(default_factory=list)
    ended: Ended | None = None
    state: DragState | None = None


class Case:
    """A case: its parameters and arrays, and how our method is called on it.

    Whole drags are run in float64. A cell whose gradient is at the level of rounding moves by up to
    twice the learning rate the other way where a processor adds in another order; in float32 one of
    these cases does so on some processors, and from there on is another drag.
    """

    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        self.case = CASES[name]
        self.params: dict[str, Any] = self.case["params"]
        with np.load(FOLDER / self.case["file"]) as arrays:
            self.arrays = dict(arrays)
        params, arrays = self.params, self.arrays
        embeddings = tensor(arrays["text_embeddings"]).to(dtype)
        self.predictor = model(dtype).predictor(Conditioning(embeddings))
        self.schedule = model(dtype).schedule(params["num_inference_steps"])
        self.count = params["num_actual"]
        self.timesteps = self.schedule.last(self.count)
        self.grid = (params["sup_res_h"], params["sup_res_w"])
        self.settings = DragSettings(
            method="gooddrag",
            learning_rate=params["lr"],
            region_weight=params["lam"],
            motion_radius=params["r_m"],
            tracking_radius=params["r_p"],
            step_length=params["beta"],
            feature_blocks=tuple(params["feature_idx"]),
            template="original",
            patience=params["patience"],
            drag_timesteps=params["drag_denoise_steps"],
            tracks_per_timestep=params["tracks_per_denoise"],
            updates_per_track=params["drags_per_track"],
            loss_threshold=params["loss_threshold"],
        )
        self.start = tensor(arrays["init_code"]).to(dtype)

    def task(self) -> tuple[Passes, Problem]:
        passes = Passes(self.predictor, self.schedule, self.grid, self.settings)
        plain = PlainTrajectory(passes, self.start, self.timesteps[0])
        handles = tensor(self.arrays["handle_points"])
        task = Problem(
            targets=tensor(self.arrays["target_points"]),
            settings=self.settings,
            path=self.schedule,
            source=plain.at,
            anchors=lambda t: plain.anchors(t, tuple(handles), self.settings.motion_radius),
            clean=torch.zeros_like(self.start),
            protected=1 - tensor(self.arrays["mask_latent"])[0, 0],
        )
        return passes, task

    def drag(self, state: DragState | None = None, *, one: bool = False) -> Run:
        """Drag to the end, or ``one`` timestep only; by default from the start."""
        passes, task = self.task()
        if state is None:
            handles = tensor(self.arrays["handle_points"])
            state = METHOD.begin(passes, self.start, handles, self.timesteps[0])
        run = Run()
        first = gooddrag.Counts(*state.counts).timesteps
        update, enter = gooddrag._update, gooddrag._enter

        def watched_update(passes: Passes, state: DragState, task: Problem) -> Any:
            after, report = update(passes, state, task)
            counts = gooddrag.Counts(*after.counts)
            run.steps.append(counts.timesteps)
            run.losses.append(sum(report.loss_terms.values()))
            run.motion.append(report.loss_terms["motion"])
            run.after.append(after.latent)
            if counts.updates == 0:
                run.tracked.append((counts.timesteps, len(run.losses), after.handles))
                run.still[-1] = after.still
            return after, report

        def watched_enter(passes: Passes, state: DragState, task: Problem) -> DragState:
            run.entered.append(state.handles)
            run.still.append(state.still)
            after = enter(passes, state, task)
            run.found.append(after.handles)
            return after

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(gooddrag, "_update", watched_update)
            monkeypatch.setattr(gooddrag, "_enter", watched_enter)
            while (ended := METHOD.ended(state, task)) is None:
                if one and gooddrag.Counts(*state.counts).timesteps > first:
                    break
                state, _ = METHOD.advance(passes, state, task)
        run.ended, run.state = ended, state
        return run


@cache
def whole_drag(name: str) -> Run:
    """The drag of a case from its start to its end, made once."""
    return Case(name).drag()


def is_clear(best_second: np.ndarray) -> np.ndarray:
    """Which trackings have no second place that is as good."""
    best, second = best_second[..., 0], best_second[..., 1]
    return np.asarray((second - best) / second > 1e-4)


# ---------------------------------------------------------------- from the start to the end


@cases("gooddrag", raises=False)
def test_the_undragged_latent_is_the_authors(name: str) -> None:
    case = Case(name, torch.float32)
    passes, task = case.task()
    plain = PlainTrajectory(passes, case.start, case.timesteps[0])
    for timestep, wanted in zip(
        case.arrays["own_timesteps"], case.arrays["own_latents"], strict=True
    ):
        assert gap(plain.at(int(timestep)).previous, wanted[None]) <= 1e-4
    first = task.anchors(case.timesteps[0])
    patches = originals(first, case.settings.motion_radius)
    for patch, wanted in zip(patches, case.arrays["anchor_patches_first"], strict=True):
        assert gap(patch.T.reshape(wanted.shape), wanted) <= 1e-4
    for timestep, wanted in zip(
        case.arrays["own_timesteps"], case.arrays["anchor_vectors"], strict=False
    ):
        vectors = originals(task.anchors(int(timestep)), 0)
        assert gap(vectors[:, 0], wanted) <= 1e-4


@cases("gooddrag", raises=False)
def test_the_drag_takes_the_authors_steps(name: str) -> None:
    case = Case(name)
    arrays, comparable = case.arrays, case.params["comparable_updates"]
    run = whole_drag(name)
    assert run.losses[:comparable] == pytest.approx(arrays["loss"][:comparable].tolist(), rel=1e-4)
    assert run.motion[:comparable] == pytest.approx(
        arrays["loss_motion"][:comparable].tolist(), rel=1e-4
    )
    for number, wanted in zip(arrays["update_index"], arrays["latents_after_update"], strict=True):
        if number <= comparable:
            assert gap(run.after[number - 1], wanted[None]) <= 2e-4
    clear = is_clear(arrays["track_best_second"])
    for (_, updates, handles), wanted, made, sure in zip(
        run.tracked, arrays["handles"], arrays["handles_after_update"], clear, strict=False
    ):
        if made <= comparable:
            assert updates == made
            np.testing.assert_array_equal(handles.numpy()[sure], wanted[sure])
    if comparable < len(arrays["loss"]):
        return
    steps = range(len(arrays["step_updates"]))
    assert [run.steps.count(i) for i in steps] == arrays["step_updates"].tolist()
    assert [sum(s == i for s, _, _ in run.tracked) for i in steps] == arrays["step_tracks"].tolist()
    assert run.still == arrays["step_unmoved"].tolist()
    wanted = {"reached": Ended.REACHED, "patience": Ended.NOT_MOVING, "steps": Ended.DENOISED}
    ended = case.case["measured"]["ended_by"]
    assert run.ended == wanted[ended] or (ended == "steps" and run.ended == Ended.REACHED)
    assert run.state is not None
    last = gooddrag.Counts(*run.state.counts).timesteps + run.state.plain_steps
    assert last == case.case["measured"]["mutual_attention_from"]
    np.testing.assert_array_equal(run.state.handles, arrays["handles_last"])


@cases("gooddrag", raises=False)
def test_what_was_dragged_is_rendered_to_the_authors_latents(name: str) -> None:
    case = Case(name)
    comparable = case.params["comparable_latents"]
    if comparable < case.count:  # then the render alone is compared, below
        return
    run = whole_drag(name)
    assert run.state is not None
    settings = RenderSettings(start_layer=case.params["mutual_start_layer"])
    branch = list(
        record_reference(case.predictor, case.start, case.schedule, case.count, settings)
    )[-1]
    first = case.timesteps.index(run.state.timestep)
    rendered = [
        run.state.latent,
        *render_latents(
            case.predictor, run.state.latent, case.schedule, case.count, branch, settings,
            first=first, plain_steps=run.state.plain_steps,
        ),
    ]  # fmt: skip
    for index, wanted in zip(case.arrays["latents_index"], case.arrays["latents"], strict=True):
        if index >= first + run.state.plain_steps:  # at a timestep that was dragged at, two are
            assert gap(rendered[index - first], wanted[None]) <= 5e-4
    assert gap(branch.latents[case.count - 1], case.arrays["reference_before_last"]) <= 5e-4


# ---------------------------------------------------------------- each timestep by itself


@cases("gooddrag", raises=False)
def test_every_dragging_timestep_is_the_authors_from_their_own_state(name: str) -> None:
    case = Case(name)
    arrays = case.arrays
    first_update = 0
    for i, comparable in enumerate(case.params["comparable_updates_restarted"]):
        start = tensor(arrays["latents"][arrays["latents_index"].tolist().index(i)])[None].to(
            case.start.dtype
        )
        state = DragState(
            start if i else case.start,
            case.timesteps[i],
            tensor(arrays["step_handles_before"][i]),
            (),
            Moments.zeros(start),
            still=int(arrays["step_unmoved"][i - 1]) if i else 0,
            counts=(i, 0, 0),
        )
        run = case.drag(state, one=True)
        sure = is_clear(arrays["retrack_best_second"][i])
        if run.found:
            found = run.found[0].numpy()[sure]
            np.testing.assert_array_equal(found, arrays["step_retrack"][i][sure])
        mine = [loss for loss, step in zip(run.losses, run.steps, strict=True) if step == i]
        wanted = arrays["loss"][first_update:][:comparable]
        assert mine[:comparable] == pytest.approx(wanted.tolist(), rel=1e-4)
        for number, latent in zip(
            arrays["update_index"], arrays["latents_after_update"], strict=True
        ):
            if first_update < number <= first_update + comparable:
                assert gap(run.after[number - first_update - 1], latent[None]) <= 2e-4
        made = int(arrays["step_updates"][i])
        if comparable == made and made:
            assert gap(run.after[made - 1], arrays["step_after"][i][None]) <= 1e-4
            assert len(mine) == made
        first_update += made


@cases("gooddrag", raises=False)
def test_the_first_gradient_at_every_timestep_is_the_authors(name: str) -> None:
    case = Case(name, torch.float32)
    arrays = case.arrays
    for step, wanted in zip(arrays["grad_step"].tolist(), arrays["step_grad_first"], strict=True):
        passes, task = case.task()
        start = tensor(arrays["latents"][arrays["latents_index"].tolist().index(step)])[None]
        start = start if step else case.start
        handles = tensor(arrays["step_handles_before"][step])
        state = DragState(
            start, case.timesteps[step], handles, (), Moments.zeros(start), counts=(step, 0, 0)
        )
        state = gooddrag._enter(passes, state, task)
        evaluation = passes.take(state.latent, state.timestep, previous=True)
        weight = (2 * case.settings.motion_radius) ** 2
        total = sum(losses(state, task, evaluation, weight).values())
        (gradient,) = torch.autograd.grad(total, evaluation.latent)
        assert gap(gradient[0], wanted) <= 1e-4 * np.abs(wanted).max()


@cases("gooddrag", raises=False)
def test_the_render_alone_is_the_authors(name: str) -> None:
    case = Case(name, torch.float32)
    arrays = case.arrays
    entered = case.case["measured"]["mutual_attention_from"]
    settings = RenderSettings(start_layer=case.params["mutual_start_layer"])
    reference = tensor(arrays["reference_at_render_start"]).reshape(case.start.shape)
    count = case.count - entered
    branch = list(record_reference(case.predictor, reference, case.schedule, count, settings))[-1]
    index = arrays["latents_index"].tolist()
    edited = tensor(arrays["latents"][index.index(entered)])[None]
    rendered = list(render_latents(case.predictor, edited, case.schedule, count, branch, settings))
    for number, wanted in zip(index, arrays["latents"], strict=True):
        if number > entered:
            assert gap(rendered[number - entered - 1], wanted[None]) <= 3e-4
    image = (model().decode(rendered[-1])[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    levels = np.abs(image.astype(int) - arrays["output"])
    assert levels.max() <= 2
    assert (levels > 0).mean() <= 0.01


@cases("gooddrag", raises=True)
def test_where_the_authors_code_fails_ours_drags(name: str) -> None:
    case = Case(name)
    run = whole_drag(name)
    assert run.after
    assert np.isfinite(run.losses).all()
    assert all(bool(latent.isfinite().all()) for latent in run.after)
    last = torch.tensor(case.grid) - 1
    for _, _, handles in run.tracked:
        assert ((handles >= 0) & (handles <= last)).all()


def test_the_render_with_no_drag_is_the_undragged_latent() -> None:
    """Mutual self-attention to itself changes nothing."""
    case = Case(next(name for name in CASES if name.startswith("gooddrag-")), torch.float32)
    plain = list(denoise(case.predictor.predict, case.start, case.schedule, case.count))
    settings = RenderSettings(start_layer=case.params["mutual_start_layer"])
    branch = list(
        record_reference(case.predictor, case.start, case.schedule, case.count, settings)
    )[-1]
    rendered = render_latents(
        case.predictor, case.start, case.schedule, case.count, branch, settings
    )
    for one, other in zip(itertools.islice(rendered, 3), plain, strict=False):
        assert gap(one, other) <= 1e-5


# ---------------------------------------------------------------- FastDrag's field


def field_of(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FOLDER / CASES[name]["file"]) as arrays:
        return CASES[name]["params"], dict(arrays)


def in_latent_cells(arrays: dict[str, np.ndarray], points: str) -> torch.Tensor:
    return tensor(arrays[points]).double() / 4


def sound(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Cells that no handle lies on: there theirs is 0 / 0, and the cell stays."""
    where = np.isfinite(arrays["scale"]).all(0)
    assert (~where).sum() == params["nan_cells"]
    return where


@cases("fastdrag_field")
def test_the_field_is_fastdrags(name: str) -> None:
    params, arrays = field_of(name)
    cells = tensor(arrays["cells"]).nonzero()
    np.testing.assert_array_equal(cells, arrays["cell"])
    handles, targets = (in_latent_cells(arrays, f"{end}_points") for end in ("handle", "target"))
    where = sound(params, arrays)
    scale = stretches(cells, handles)
    assert gap(scale[:, where], arrays["scale"][:, where]) <= 1e-5
    moves = displacements(cells, handles, targets, "mean")
    assert gap(moves[where], arrays["displacement"][where]) <= 1e-4
    last = torch.tensor([params["latent_h"] - 1, params["latent_w"] - 1])
    there = (cells + moves).round().long().clamp(min=torch.zeros(2).long(), max=last)
    clear = where & ~arrays["near_tie"]
    np.testing.assert_array_equal(there[clear], arrays["destination"][clear])
    if not where.all():  # ours move by all of the displacement there
        on_cell = ~where
        assert gap(scale[:, on_cell].amax(0), np.ones(on_cell.sum())) == 0


@cases("fastdrag_field")
def test_cells_are_moved_and_holes_are_filled_as_fastdrag_does(name: str) -> None:
    _, arrays = field_of(name)
    latent, cells = tensor(arrays["latent"]), tensor(arrays["cell"])
    moved = move_cells(latent, Plan(cells, tensor(arrays["destination"]), torch.arange(len(cells))))
    np.testing.assert_array_equal(moved.wins, arrays["wins"])
    np.testing.assert_array_equal(moved.latent, arrays["moved_over_original"])
    emptied = torch.where(moved.holes, 0.0, moved.latent)
    np.testing.assert_array_equal(emptied, arrays["moved"])
    # for them a cell is a hole too where its first channel happens to be 0
    holes = tensor(arrays["holes"])
    np.testing.assert_array_equal(moved.holes | (emptied[0, 0] == 0), holes)
    filled = fill_from_neighbours(tensor(arrays["moved"]), holes)
    assert gap(filled, arrays["filled"]) <= 1e-5
