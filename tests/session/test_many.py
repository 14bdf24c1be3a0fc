"""``run_many``: one row a request, on any executor."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from tiny_sessions import ask, settings_of, waves

from dragwidget import run_many
from dragwidget.data.image import source_image
from dragwidget.data.image_reading import read_image
from dragwidget.data.request import EditRequest
from dragwidget.diffusion.loading import load_model
from dragwidget.session.many import EditRow
from dragwidget.session.session import DragSession


def request_of(model, seed: int = 0, pair=None, **drag) -> EditRequest:
    image = source_image(waves(seed=seed), multiple=model.image_multiple, max_side=64)
    drawn = ask(pair or ((12, 12), (50, 36)))
    return EditRequest(image, "a cat", instructions=drawn, settings=settings_of(model, **drag))


def fixed(rows) -> list[EditRow]:
    """Rows in order, without what the clock says and where the images lie."""
    return [replace(row, seconds={}, image="") for row in sorted(rows, key=lambda row: row.index)]


@pytest.fixture(scope="module")
def requests(tiny):
    return [request_of(tiny, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def expected(tiny_folder, requests):
    """The rows of these requests, made one after the other in this thread."""
    return fixed(run_many(requests, model=tiny_folder, device="cpu"))


def test_a_row_says_what_became_of_a_request_and_is_json(tiny, tiny_folder, requests, tmp_path):
    (row,) = run_many(requests[:1], model=tiny_folder, folder=tmp_path / "out", device="cpu")
    session = DragSession(tiny)
    session.request = requests[0]
    last = session.run()
    assert (row.index, row.error, row.attempts) == (0, "", 1)
    assert (row.steps, row.ended) == (3, "step limit")
    assert row.handles_xy == tuple(map(tuple, last.handles_xy))
    assert row.distance == pytest.approx(float(last.distances.mean()))
    assert row.passes > 3
    assert list(row.seconds) == ["prepare", "drag", "render"]
    assert np.array_equal(read_image(row.image).pixels, session.render())
    assert row.image == str(tmp_path / "out" / "0000.png")
    assert EditRow(**json.loads(json.dumps(asdict(row)))).passes == row.passes


def test_a_failed_request_is_a_row_not_the_end(tiny, tiny_folder, requests, expected):
    bad = replace(settings_of(tiny), drag=replace(settings_of(tiny).drag, feature_blocks=(9,)))
    asked = [
        requests[0],
        requests[0].replace(settings=bad),
        requests[0].replace(instructions=None),
        "a fox",
        requests[1],
    ]
    rows = sorted(run_many(asked, model=tiny_folder, device="cpu"), key=lambda row: row.index)
    assert [bool(row.error) for row in rows] == [False, True, True, True, False]
    assert "feature blocks are 0 (the mid block) to 4, got (9,)" in rows[1].error
    assert "the request has no instructions" in rows[2].error
    assert "a request must be EditRequest, got str" in rows[3].error
    assert replace(fixed(rows)[4], index=1) == expected[1]


def test_a_model_that_cannot_be_loaded_is_an_error_of_each_row(requests, tmp_path):
    rows = list(run_many(requests[:2], model=tmp_path / "no model"))
    assert all("FileNotFoundError" in row.error for row in rows)
    assert [row.index for row in rows] == [0, 1]


@pytest.mark.parametrize("executor", ["threads:1", "threads:2"])
def test_threads_give_the_same_rows(tiny_folder, requests, expected, executor):
    model = load_model(tiny_folder, device="cpu")
    rows = list(run_many(requests, executor, model=model))
    assert fixed(rows) == expected


@pytest.mark.slow
def test_processes_give_the_same_rows(tiny_folder, requests, expected, tmp_path):
    rows = list(run_many(requests, "processes:2", model=tiny_folder, folder=tmp_path, device="cpu"))
    assert fixed(rows) == expected
    assert all(read_image(row.image).pixels.shape == (48, 64, 3) for row in rows)


def test_requests_for_one_image_share_its_inversion_and_each_starts_at_its_source(
    tiny, tiny_folder
):
    asked = [request_of(tiny), request_of(tiny, pair=((20, 20), (40, 20))), request_of(tiny)]
    rows = list(run_many(asked, model=tiny_folder, device="cpu"))
    assert rows[1].passes < rows[0].passes
    first, again = fixed([rows[0]])[0], fixed([rows[2]])[0]
    assert replace(again, index=0, passes=first.passes) == first


def test_what_is_wrong_with_the_call_is_told_before_anything_runs(tiny, requests):
    with pytest.raises(ValueError, match="executor's address is"):
        run_many(requests, "ray://x:1")
    with pytest.raises(ValueError, match="the model is loaded, so it takes no device"):
        run_many(requests, model=tiny, device="cpu")
    with pytest.raises(ValueError, match="was made in this process, so that no worker can load"):
        run_many(requests, model=tiny.with_parts())
