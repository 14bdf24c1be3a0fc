"""Ablations: one setting at a time, the same tasks at every point, and nothing is run twice."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.resources import files

import pytest

from dragwidget.__main__ import main
from dragwidget.bench.ablations import (
    SWEEPS,
    Job,
    Point,
    Result,
    base_settings,
    make_jobs,
    make_points,
    run_job,
    summarise,
    sweep,
)
from dragwidget.bench.ablations_command import table
from dragwidget.data.settings import InversionSettings, Settings
from dragwidget.diffusion.loading import load_model


@pytest.fixture(scope="module")
def critters():
    return load_model("critters")


@pytest.fixture(scope="module")
def quick(critters):
    """A base that takes little."""
    base = base_settings("paper", critters)
    return replace(
        base, inversion=InversionSettings(steps=4, strength=0.5), drag=replace(base.drag, steps=2)
    )


def changed(settings: Settings, base: Settings) -> list[str]:
    one, other = settings.to_dict(), base.to_dict()
    return [
        f"{stage}.{name}"
        for stage, values in one.items()
        for name, value in values.items()
        if value != other[stage][name]
    ]


def result(point: str, seed: int, share: float, **changes: object) -> Result:
    plain = {
        "error": 5.0, "inside_psnr": 20.0, "outside_psnr": 40.0, "fit_failed": False,
        "steps": 9, "ended": "reached", "seconds": 1.0,
    }  # fmt: skip
    return Result(point=point, kind="sun", seed=seed, completion=share, **{**plain, **changes})


# ---------------------------------------------------------------- what is swept


def test_the_papers_base_is_the_papers_but_for_what_belongs_to_the_network(critters):
    base = base_settings("paper", critters)
    assert set(changed(base, Settings())) <= {
        "lora.steps", "drag.feature_blocks", "render.start_layer",
    }  # fmt: skip
    assert base.drag.start == "inverted"
    assert base_settings("recommended", critters) == critters.recommended


@pytest.mark.parametrize("name", ["paper", "recommended"])
def test_a_point_differs_from_the_base_in_one_setting(name, critters):
    base = base_settings(name, critters)
    first, *others = make_points(base, critters)
    assert first == Point("base", base)
    assert len({point.settings for point in others}) == len(others)
    for point in others:
        one = SWEEPS[point.name.partition("=")[0]]
        assert changed(point.settings, base) == [f"{one.stage}.{one.field}"]
    swept = {point.name.partition("=")[0] for point in others}
    assert swept == set(SWEEPS)


def test_blocks_are_those_that_the_models_decoder_has(critters):
    base = base_settings("paper", critters)
    names = {point.name for point in make_points(base, critters, ["block"])}
    every = {f"block={k}" for k in range(1, critters.feature_block_count)}
    assert names == every - {f"block={base.drag.feature_blocks[0]}"} | {"base"}


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["radius", "warp"], "no sweep 'warp'; there are strength, "),
        ({"block": (9,)}, "feature blocks are 0 .* to 3, got \\(9,\\)"),
        ({"strength": (1.5,)}, "strength must lie in"),
    ],
)
def test_what_cannot_be_swept_is_said(only, message, critters):
    with pytest.raises(ValueError, match=message):
        make_points(base_settings("paper", critters), critters, only)


def test_an_unknown_base_is_an_error(critters):
    with pytest.raises(ValueError, match="one of paper, recommended, got 'ours'"):
        base_settings("ours", critters)


# ---------------------------------------------------------------- jobs


def test_every_point_sees_the_same_tasks_and_a_job_has_one_lora(critters):
    points = make_points(base_settings("paper", critters), critters)
    jobs = make_jobs(points, 3, seed=950_000)
    tasks = {point.name: [] for point in points}
    for job in jobs:
        assert len({point.settings.lora for point in job.points}) == 1
        for point in job.points:
            tasks[point.name].append((job.kind, job.seed))
    assert set(map(tuple, tasks.values())) == {
        (("turn", 950_000), ("nod", 950_001), ("ears", 950_002))
    }


def test_what_is_done_is_no_job_any_more(critters):
    points = make_points(base_settings("paper", critters), critters, {"radius": (0, 2)})
    done = {("base", 1), ("radius=0", 1), ("radius=2", 1), ("base", 2)}
    jobs = make_jobs(points, 2, seed=1, done=lambda point, _kind, seed: (point, seed) in done)
    assert [(job.seed, [point.name for point in job.points]) for job in jobs] == [
        (2, ["radius=0", "radius=2"])
    ]


def test_no_tasks_are_an_error(critters):
    with pytest.raises(ValueError, match="n must be 1 task or more, got 0"):
        make_jobs(make_points(base_settings("paper", critters), critters, []), 0)


@pytest.mark.slow
def test_points_on_one_session_are_as_if_each_had_its_own(critters, quick):
    """The inversion is shared, and nothing else passes from one point to the next."""
    points = make_points(quick, critters, {"rate": (0.5,), "strength": (1.0,)})
    together = run_job(Job("mountain", 900_805, tuple(points), size=64))
    alone = [run_job(Job("mountain", 900_805, (point,), size=64))[0] for point in points]

    def measured(results):
        return {r.point: replace(r, seconds=0) for r in results}

    assert measured(together) == measured(alone)
    assert len({replace(r, seconds=0, point="") for r in together}) == 3  # they do differ


class Submits:
    """The least that an executor can be; what was not begun can be taken back."""

    def __init__(self, limit: int = 99) -> None:
        self.left = limit
        self.futures: list[Future] = []

    def submit(self, function, job):
        future: Future = Future()
        self.futures.append(future)
        self.left -= 1
        if self.left >= 0:
            future.set_result(function(job))
        elif self.left == -1:
            future.set_exception(ArithmeticError("not finite"))
        return future


@pytest.mark.slow
def test_any_executor_gives_the_same_results_in_the_order_of_the_jobs(critters, quick):
    points = make_points(quick, critters, [])
    jobs = [replace(job, size=64) for job in make_jobs(points, 2, seed=900_805)]

    def run(executor=None):
        return [[replace(r, seconds=0) for r in found] for found in sweep(jobs, executor)]

    one_at_a_time = run(Submits())
    assert [found[0].seed for found in one_at_a_time] == [900_805, 900_806]
    with ThreadPoolExecutor(2) as executor:
        assert run(executor) == one_at_a_time


def test_a_failure_takes_back_what_was_not_begun(critters, quick):
    jobs = make_jobs(make_points(quick, critters, []), 3)
    executor = Submits(limit=0)
    with pytest.raises(ArithmeticError, match="not finite"):
        list(sweep(jobs, executor))
    assert [future.cancelled() for future in executor.futures] == [False, True, True]


def test_what_is_no_executor_is_said():
    with pytest.raises(TypeError, match=r"submit\(function, task\).*got int"):
        list(sweep([], 4))


# ---------------------------------------------------------------- what is said of them


def test_a_gain_is_taken_task_by_task(critters):
    base = base_settings("paper", critters)
    points = make_points(base, critters, {"radius": (0, 2)})
    results = [
        result("base", 1, 0.2), result("base", 2, 0.8), result("base", 3, 0.5),
        result("radius=2", 2, 0.9), result("radius=2", 1, 0.3, fit_failed=True),
    ]  # fmt: skip
    rows = summarise(points, results, base)
    assert [(row["sweep"], row["value"], row["n"]) for row in rows] == [
        ("radius", 1, 3),
        ("radius", 2, 2),
    ]
    gain = rows[1]["gain"]
    assert [gain["mean"], gain["low"], gain["high"]] == pytest.approx([0.1, 0.1, 0.1])
    assert rows[1]["completion"]["low"] < 0.4
    assert rows[1]["fit_failures"] == 1
    text = table(rows)
    assert "motion_radius 1        *   3  0.50 [0.20, 0.80]" in text
    assert "+0.10 [+0.10, +0.10]" in text


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_writes_goes_on_and_refuses_what_is_of_other_weights(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(SWEEPS, "prior", replace(SWEEPS["prior"], values=(1.0,)))
    file = tmp_path / "out.json"
    words = ["bench", "ablations", "--settings", "recommended", "--only", "prior", "--n", "1"]
    words += ["--json", str(file)]
    assert main(words) == 0
    first = json.loads(file.read_text())
    assert [row["point"] for row in first["points"]] == ["base", "prior=1.0"]
    assert [row["point"] for row in first["results"]] == ["base", "prior=1.0"]
    assert not list(tmp_path.glob("*.part"))
    before = file.stat().st_mtime_ns
    capsys.readouterr()
    assert main(words) == 0  # all is there: nothing is run, nothing is written
    assert file.stat().st_mtime_ns == before
    assert "prior_weight 1.0" in capsys.readouterr().out
    file.write_text(json.dumps({**first, "weights": "another's"}))
    assert main(words) == 2
    assert "holds results of other weights" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--only", "warp"], ["--jobs", "0"], ["--n", "0"]])
def test_bad_input_is_told_in_one_line(words, capsys):
    assert main(["bench", "ablations", *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert words[1] in told


def test_the_results_that_are_kept_are_of_this_model_and_compare_the_same_tasks(critters):
    kept = json.loads((files("dragwidget.bench") / "ablations.json").read_text())
    assert kept["weights"] == critters.fingerprint
    assert kept["settings"] == json.loads(
        json.dumps(base_settings(kept["base"], critters).to_dict())
    )
    rows = kept["points"]
    assert {row["sweep"] for row in rows} >= {
        "strength", "lora_steps", "block", "lambda", "radius", "step", "prior",
    }  # fmt: skip
    tasks = {(row["kind"], row["seed"]) for row in kept["results"]}
    assert min(seed for _, seed in tasks) >= 950_000  # never tuned on
    by_point = {}
    for one in kept["results"]:
        by_point.setdefault(one["point"], set()).add((one["kind"], one["seed"]))
    assert {row["n"] for row in rows} == {len(tasks)}
    assert all(found == tasks for found in by_point.values())
