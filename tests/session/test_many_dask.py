"""Many edits on a Dask cluster of two processes that loses one."""

from __future__ import annotations

import os
import signal

import pytest
from test_executors import die_always, double
from test_many import fixed, request_of

from dragwidget import run_many
from dragwidget.session.executors import completed

pytestmark = [
    pytest.mark.slow,
    # The cluster's own, about a worker that was killed or a socket at the end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(tmp_path):
    import dask
    from distributed import LocalCluster

    settings = {"distributed.scheduler.allowed-failures": 0, "temporary-directory": str(tmp_path)}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # another test may have a cluster, too
        ) as made,
    ):
        yield made


def test_a_cluster_that_loses_a_worker_gives_every_row(cluster, tiny, tiny_folder):
    requests = [request_of(tiny, seed) for seed in range(4)]
    expected = fixed(run_many(requests, model=tiny_folder, device="cpu"))
    rows = run_many(
        requests,
        cluster.scheduler_address.replace("tcp://", "dask://"),
        model=tiny_folder,
        device="cpu",
    )
    found = [next(rows)]
    os.kill(cluster.workers[0].pid, signal.SIGKILL)
    found += rows
    assert [row.error for row in found] == [""] * 4
    assert [row.steps for row in fixed(found)] == [row.steps for row in expected]
    assert [row.handles_xy for row in fixed(found)] == [row.handles_xy for row in expected]


def test_a_task_that_kills_its_workers_is_an_outcome_not_the_end(cluster):
    with cluster.get_client() as client, client.get_executor() as executor:
        found = {one.index: one for one in completed(die_always, range(4), executor)}
        assert "KilledWorker" in found[2].error
        assert found[2].attempts == 3
        left = {one.index: one.result for one in completed(double, range(4), executor)}
    assert [found[k].result for k in (0, 1, 3)] == [0, 1, 3]
    assert left == {k: 2 * k for k in range(4)}
