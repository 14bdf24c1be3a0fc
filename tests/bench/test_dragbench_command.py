"""DragBench: one row a sample and method, none twice, whatever is interrupted or killed."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image

from dragwidget.__main__ import main
from dragwidget.bench.dragbench_command import table
from dragwidget.bench.matching import Matcher, match_points
from dragwidget.bench.metrics import dragging_accuracy, psnr
from dragwidget.bench.rows import RowFile, to_row
from dragwidget.bench.sample_runs import (
    KEY,
    draw_samples,
    make_jobs,
    run_samples,
    summarise,
)
from dragwidget.bench.scenes import to_image
from dragwidget.data.image_reading import read_image
from dragwidget.data.samples import find_samples
from dragwidget.demo.tasks import drag_task
from dragwidget.diffusion.loading import load_model
from dragwidget.session.executors import opened

NUMBERS = 3  # samples
pytestmark = pytest.mark.filterwarnings("ignore:the prompt has")  # too long for the tiny model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Samples drawn in DragBench's form, and one that cannot be read. Read only."""
    made = tmp_path_factory.mktemp("bench")
    draw_samples(made, NUMBERS, size=64)
    (made / "zzz").mkdir()
    (made / "zzz" / "meta_data.pkl").write_bytes(b"c__main__\nmain\n.")
    return made


@pytest.fixture(scope="module")
def plan(folder, tiny_folder):
    """Jobs on the tiny model for what is not in the rows, quick settings."""

    def jobs(rows):
        made = make_jobs(rows, find_samples(folder), ["warp"], model=str(tiny_folder), lora_steps=0)
        return [
            (files, replace(job, variants=tuple(map(quick, job.variants)))) for files, job in made
        ]

    def quick(variant):
        if variant.settings is None:
            return variant
        inversion = replace(variant.settings.inversion, steps=6, strength=0.5)
        return replace(variant, settings=replace(variant.settings, inversion=inversion))

    return jobs


def fixed(rows):
    """Rows without what the clock and the system say, in order, numbers to 6 digits."""
    found = []
    for row in rows:
        row = {k: v for k, v in row.items() if k not in ("seconds", "peak_memory")}
        found.append({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
    return sorted(found, key=lambda row: (row["sample"], row["method"]))


@pytest.fixture(scope="module")
def expected(plan):
    """All rows, made here, one after the other."""
    return fixed(to_row(row) for some in run_samples(plan(RowFile(None, KEY))) for row in some)


@pytest.mark.slow
def test_every_sample_has_a_row_for_each_method_and_a_bad_one_has_its_error(expected):
    names = ["ears/ears_970002_64", "nod/nod_970001_64", "turn/turn_970000_64", "zzz"]
    assert [(row["sample"], row["method"]) for row in expected] == [
        (name, method) for name in names for method in ("nothing", "pixel warp", "warp")
    ]
    for row in expected:
        if row["sample"] == "zzz":
            assert "original_image.png" in row["error"]
            continue
        assert row["error"] == ""
        assert row["mean_distance"] >= 0
        assert min(row["dai_1"], row["dai_5"], row["dai_10"], row["dai_20"]) >= 0
        assert row["inside_psnr"] is None  # there is no ground truth
        if row["method"] == "nothing":
            assert (row["drag_back"], row["outside_psnr"], row["passes"]) == (99.0, 99.0, 0)
        if row["method"] == "warp":
            assert row["passes"] >= 6
            assert row["tracker_distance"] is not None
    assert "| warp " in table(summarise(expected_rows(expected), "dragdiffusion"))


def expected_rows(rows):
    return [{**row, "seconds": {"drag": 1.0}, "peak_memory": None} for row in rows]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_rows_and_no_task_twice(tmp_path, plan, expected):
    path = tmp_path / "rows.jsonl"
    rows = RowFile(path, KEY)
    first = run_samples(plan(rows))
    for row in next(first):
        rows.add(to_row(row))
    first.close()
    half = path.read_bytes()
    path.write_bytes(half + b'{"sample": "nod/nod_97')  # killed while it wrote
    rows = RowFile(path, KEY)
    left = plan(rows)
    assert len(left) == NUMBERS
    for some in run_samples(left):
        for row in some:
            rows.add(to_row(row))
    assert path.read_bytes().startswith(half)
    assert fixed(map(json.loads, path.read_text().splitlines())) == expected
    assert plan(RowFile(path, KEY)) == []


@pytest.mark.slow
@pytest.mark.parametrize("address", ["threads:2", "processes:2"])
def test_every_executor_gives_the_same_rows(address, plan, expected):
    with opened(address) as executor:
        found = [row for some in run_samples(plan(RowFile(None, KEY)), executor) for row in some]
    assert fixed(map(to_row, found)) == expected


@pytest.mark.slow
def test_a_killed_worker_costs_no_row(plan, expected):
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        running = run_samples(plan(RowFile(None, KEY)), pool)
        found = list(next(running))
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        found += [row for some in running for row in some]
    assert fixed(map(to_row, found)) == expected


def test_the_accuracy_index_is_the_squared_difference_of_patches_by_pixel_and_pair():
    numbers = torch.Generator().manual_seed(0)
    source, edited = torch.rand(2, 3, 20, 24, generator=numbers)
    edited[:, 8:13, 10:15] = source[:, 6:11, 4:9]  # what is around (6, 8) is around (12, 10)
    assert dragging_accuracy(source, edited, [(6, 8)], [(12, 10)], 2) == 0
    expected = ((source[:, 5:12, 3:10] - edited[:, 7:14, 9:16]) ** 2).sum() / 49
    found = dragging_accuracy(source, edited, [(6, 8)], [(12, 10)], 3)
    assert found == pytest.approx(float(expected))
    both = ([(6, 8), (6, 8)], [(12, 10), (12, 10)])
    assert dragging_accuracy(source, edited, *both, 3) == pytest.approx(float(expected))
    assert dragging_accuracy(source, edited, *both, 3, twice=True) == pytest.approx(
        float(expected) / 2
    )


def test_of_a_patch_over_the_border_the_same_part_of_both_counts():
    source = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))
    edited = source.roll((-3, -5), (1, 2))
    assert dragging_accuracy(source, edited, [(5, 4)], [(0, 1)], 4) == 0
    assert dragging_accuracy(source, edited, [(23, 19)], [(18, 16)], 4) == 0


@pytest.mark.slow
def test_points_are_matched_where_their_content_went():
    model = load_model("critters")
    far = []
    for kind, seed in (("turn", 970_000), ("move", 970_005), ("sun", 970_006)):
        task = drag_task(kind, seed)
        source, target = (read_image(to_image(image)) for image in (task.source, task.target))
        drawn = task.instructions
        matcher = replace(Matcher.of_editing(model), ensemble=2)
        found = match_points(model, matcher, source, target, drawn.handles_xy, drawn.prompt)
        far.append(np.linalg.norm(found - drawn.targets_xy, axis=1).max())
        stays = match_points(model, matcher, source, source, drawn.handles_xy, drawn.prompt)
        assert np.linalg.norm(stays - drawn.handles_xy, axis=1).max() < 4
    assert np.median(far) < 4


def test_images_of_two_sizes_are_not_matched(tiny):
    one, other = (read_image(np.zeros((32, side, 3), np.uint8)) for side in (32, 64))
    with pytest.raises(ValueError, match="must be of one size"):
        match_points(tiny, Matcher.dift(), one, other, np.array([[1.0, 1.0]]))


@pytest.mark.slow
def test_the_command_draws_its_samples_measures_pairs_too_and_says_what_is_missing(
    tmp_path, capsys, monkeypatch, tiny_folder
):
    monkeypatch.setitem(__import__("sys").modules, "lpips", None)
    monkeypatch.setattr("dragwidget.bench.sample_runs.find_spec", lambda _: None)
    task = drag_task("sun", 970_006, 64)
    place = tmp_path / "samples"
    place.mkdir()
    for name, image in (("input", task.source), ("gt", task.target)):
        to_image(image).save(place / f"sun.{name}.png")
    Image.fromarray(task.instructions.mask.astype(np.uint8) * 255).save(place / "sun.mask.png")
    points = [list(p) for pair in task.instructions.pairs for p in (pair.handle, pair.target)]
    (place / "sun.points.json").write_text(json.dumps({"points": points}))
    words = ["bench", "dragbench", str(place), "--draw", "1", "--methods", "warp"]
    words += ["--model", str(tiny_folder), "--no-drag-back", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "LPIPS is not measured: pip install lpips" in printed.err
    assert "to the truth, dB" in printed.out
    assert "drag back, dB" not in printed.out
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert {(row["sample"], row["method"]) for row in rows} == {
        (sample, method)
        for sample in ("sun", "turn/turn_970000_128")
        for method in ("nothing", "pixel warp", "warp")
    }
    (nothing,) = (row for row in rows if row["sample"] == "sun" and row["method"] == "nothing")
    as_read = read_image(place / "sun.input.png").pixels, read_image(place / "sun.gt.png").pixels
    source, truth = (torch.tensor(np.array(a)).permute(2, 0, 1) / 255 for a in as_read)
    assert nothing["inside_psnr"] == pytest.approx(psnr(source, truth, task.instructions.mask))
    assert main(words) == 0  # all is there
    assert len((tmp_path / "out/rows.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no such folder"], "no such folder"),
        ([".", "--methods", "bend"], "bend"),
        ([".", "--executor", "ray://x:1"], "ray://x:1"),
    ],
)
def test_bad_input_is_told_in_one_line(words, told, capsys):
    assert main(["bench", "dragbench", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert told in said
