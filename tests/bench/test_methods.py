"""Comparing methods: the same tasks for each, paired, and a failure is a row."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from dragwidget.__main__ import main
from dragwidget.bench.methods import (
    BASELINES,
    KEY,
    Job,
    Variant,
    compare,
    make_jobs,
    run_job,
    settings_of,
    summarise,
)
from dragwidget.bench.methods_command import table
from dragwidget.bench.report import csv_table
from dragwidget.bench.rows import RowFile, to_row
from dragwidget.data.settings import InversionSettings
from dragwidget.diffusion.loading import load_model
from dragwidget.drag.methods import METHODS
from dragwidget.drag.methods.dragdiffusion import DragDiffusion


@pytest.fixture(scope="module")
def critters():
    return load_model("critters")


@pytest.fixture(scope="module")
def quick(critters):
    """Variants that take little: two methods, and what is beside them."""
    found = []
    for method in ("dragdiffusion", "warp"):
        settings = settings_of(critters, method, 0)
        settings = replace(
            settings,
            inversion=replace(settings.inversion, steps=4, strength=0.5),
            drag=replace(settings.drag, steps=2),
        )
        found.append(Variant(method, settings, "a"))
    return tuple([Variant(name, None, "a") for name in BASELINES] + found)


def row(method: str, seed: int, share: float, **changes):
    plain = {
        "model": "critters", "method": method, "lora_steps": 0, "kind": "sun", "seed": seed,
        "error": "", "completion": share, "distance": 1.0, "tracker_distance": 1.0,
        "reached": share > 0.5, "tracker_reached": True, "inside_psnr": 20.0,
        "outside_psnr": None, "fit_failed": False, "steps": 3, "ended": "reached", "passes": 10,
        "seconds": {"drag": 1.0, "render": 2.0}, "peak_memory": None, "made_by": "a",
    }  # fmt: skip
    return {**plain, **changes}


def keys(jobs):
    return {
        (one.model, variant.method, one.lora_steps, one.kind, one.seed)
        for one in jobs
        for variant in one.variants
    }


def test_every_method_that_there_is_sees_the_same_tasks_with_each_lora(monkeypatch):
    monkeypatch.setitem(METHODS, "another", DragDiffusion())
    jobs = make_jobs(RowFile(None, KEY), 3, seed=5)
    tasks = {}
    for _, method, count, kind, seed in keys(jobs):
        tasks.setdefault((method, count), set()).add((kind, seed))
    assert set(tasks) == {(b, 0) for b in BASELINES} | {
        (method, count) for method in METHODS for count in (0, 80)
    }
    assert {frozenset(some) for some in tasks.values()} == {
        frozenset({("turn", 5), ("nod", 6), ("ears", 7)})
    }
    for job in jobs:
        for variant in job.variants:
            if variant.settings is not None:
                assert variant.settings.drag.method == variant.method
                assert variant.settings.lora.steps == job.lora_steps


def test_what_is_done_is_no_job_any_more_and_other_settings_are_refused():
    rows = RowFile(None, KEY)
    jobs = make_jobs(rows, 2, methods=["warp"], lora_steps=[0])
    (variant,) = next(job for job in jobs if job.variants[0].method == "warp").variants
    rows.add(row("warp", 960_000, 0.5, kind="turn", made_by=variant.made_by))
    left = make_jobs(rows, 2, methods=["warp"], lora_steps=[0])
    assert keys(jobs) - keys(left) == {("critters", "warp", 0, "turn", 960_000)}
    with pytest.raises(ValueError, match="made by other settings, weights or versions"):
        make_jobs(rows, 2, methods=["warp"], lora_steps=[0], size=64)


def test_a_method_that_there_is_not_is_told(critters):
    with pytest.raises(ValueError, match=r"must be one of 'dragdiffusion'.*got 'bend'"):
        settings_of(critters, "bend")


@pytest.mark.slow
def test_a_job_has_a_row_for_each_method_and_a_failure_is_one(quick):
    settings = quick[-1].settings
    broken = Variant("gooddrag", replace(settings, drag=replace(
        settings.drag, method="gooddrag", feature_blocks=(9,)
    ), inversion=InversionSettings()), "a")  # fmt: skip
    job = Job("mountain", 900_805, "critters", 0, (*quick[:4], broken, quick[4]), size=64)
    nothing, warped, autoencoder, dragged, failed, last = run_job(job)
    assert (nothing.completion, nothing.passes) == (0.0, 0)
    assert autoencoder.inside_psnr > nothing.inside_psnr
    assert warped.outside_psnr > 50
    assert "feature blocks are" in failed.error
    assert failed.completion is None
    assert 1 <= dragged.steps <= 2
    assert dragged.passes >= 2 * 2 + 1  # inversion, render, drag
    assert set(dragged.seconds) == {"lora", "prepare", "drag", "render"}
    assert last.error == ""
    rows = [to_row(one) for one in (nothing, warped, autoencoder, dragged, failed, last)]
    assert json.loads(json.dumps(rows)) == rows
    by_method = {one["method"]: one for one in summarise(rows)}
    assert by_method["gooddrag"]["errors"] == 1
    assert by_method["gooddrag"]["completion"] is None
    assert "warp" in table(list(by_method.values()))


def test_a_job_that_is_lost_is_a_row_with_its_error_for_each_of_its_methods(quick):
    job = Job("no such kind", 1, "critters", 0, quick)
    (rows,) = compare([job])
    assert [one.method for one in rows] == [one.method for one in quick]
    assert all("kind must be one of turn" in one.error for one in rows)


def test_gains_are_taken_task_by_task_and_corrected_for_how_many_there_are():
    shares = [0.2, 0.8, 0.5, 0.4, 0.6, 0.1, 0.9, 0.3]
    rows = [row("dragdiffusion", k, share) for k, share in enumerate(shares)]
    rows += [row("warp", k, share + 0.1) for k, share in reversed(list(enumerate(shares)))]
    rows += [row("gooddrag", k, share + (-1) ** k * 0.1) for k, share in enumerate(shares)]
    rows += [row("gooddrag", 99, 0.9), row("warp", 99, 0.0, error="it failed", completion=None)]
    by_method = {one["method"]: one for one in summarise(rows)}
    assert by_method["dragdiffusion"]["gain"] is None
    gain = by_method["warp"]["gain"]
    assert [gain["mean"], gain["low"], gain["high"]] == pytest.approx([0.1] * 3)
    assert gain["p"] == pytest.approx(2 * 2 / 2**8)  # two gains are tested
    assert by_method["gooddrag"]["gain"]["p"] == 1.0
    assert (by_method["warp"]["n"], by_method["warp"]["errors"]) == (9, 1)
    assert by_method["warp"]["confirmed"]["count"] == 4
    text = table(list(by_method.values()))
    assert "+0.10 (+0.10 to +0.10)" in text


def test_a_table_has_a_column_for_each_part_in_csv():
    rows = [row("nothing", 1, 0.0), row("dragdiffusion", 1, 0.5), row("warp", 1, 0.7)]
    read = list(csv.DictReader(csv_table(summarise(rows)).splitlines()))
    assert [one["method"] for one in read] == ["nothing", "dragdiffusion", "warp"]
    assert float(read[2]["gain.mean"]) == pytest.approx(0.2)
    assert read[0]["gain.mean"] == ""
    assert "gain" not in read[0]


@pytest.mark.slow
def test_the_command_writes_rows_tables_and_a_figure_and_goes_on_from_the_rows(tmp_path, capsys):
    words = ["bench", "methods", "--methods", "warp", "--lora-steps", "0", "--n", "1"]
    words += ["--size", "64", "--out", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| warp " in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "rows.jsonl", "table.md", "table.csv", "completion.png", "made_by.json",
    }  # fmt: skip
    assert (tmp_path / "table.md").read_text() == printed
    rows = (tmp_path / "rows.jsonl").read_text()
    assert rows.count("\n") == 4
    assert main(words) == 0  # all is there
    assert (tmp_path / "rows.jsonl").read_text() == rows


@pytest.mark.parametrize(
    "words",
    [["--methods", "bend"], ["--executor", "ray://x:1"], ["--n", "0"], ["--lora-steps", "-1"]],
)
def test_bad_input_is_told_in_one_line(words, capsys):
    assert main(["bench", "methods", *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert words[1] in told


def test_rows_of_something_else_are_told_in_one_line(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text("a diary\n")
    assert main(["bench", "methods", "--n", "1", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "line 1, is no row of this benchmark" in told
    assert (tmp_path / "rows.jsonl").read_text() == "a diary\n"
