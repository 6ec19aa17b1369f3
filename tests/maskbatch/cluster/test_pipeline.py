"""How long a driver waits for its workers, without Ray."""

import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.cluster import pipeline
from maskbatch.cluster.pipeline import Done, Pools, _wait, cut_rows
from maskbatch.config import JobConfig
from maskbatch.errors import RunFailedError


def wait(staging: Path, done: Done, job: JobConfig) -> Any:
    cluster = SimpleNamespace(job=job, explain_wait=lambda **_: "a shard", check=lambda: None)
    work = SimpleNamespace(run=SimpleNamespace(staging=staging))
    return _wait(cast("Any", cluster), cast("Any", work), done, Pools(False, 1, 1, 0), set())


def test_an_image_that_hangs_outlives_a_shorter_stall_timeout_before_its_worker_gives_a_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_S", 0.1)
    job, done = JobConfig(stall_timeout_s=1, decode_timeout_s=10), Done()
    timer = threading.Timer(2, done.put, [None])
    timer.start()
    assert wait(tmp_path, done, job) is None  # after 2 s, though one was asked for
    timer.join()


def test_a_run_that_nothing_comes_of_ends_after_its_stall_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_S", 0.1)
    began = time.monotonic()
    with pytest.raises(RunFailedError, match="nothing was scored for 1 s, waiting for a shard"):
        wait(tmp_path, queue.Queue(), JobConfig(stall_timeout_s=1, decode_timeout_s=0.1))
    assert time.monotonic() - began >= 1


def test_shards_that_come_to_staging_are_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_S", 0.1)
    done: Done = queue.Queue()

    def stage() -> None:
        for shard in range(6):  # of one row, which is not done before its last
            time.sleep(0.5)
            (tmp_path / f"{shard:08d}.parquet").touch()
        done.put(None)

    worker = threading.Thread(target=stage)
    worker.start()
    assert wait(tmp_path, done, JobConfig(stall_timeout_s=1, decode_timeout_s=0.1)) is None
    worker.join()


@given(st.integers(0, 30_000), st.integers(1, 300), st.integers(1, 40))
def test_every_shard_is_in_one_row_and_rows_are_few_however_many_shards_there_are(
    num_shards: int, num_workers: int, least: int
) -> None:
    rows = cut_rows(range(num_shards), num_workers, least)
    assert [shard for row in rows for shard in row] == list(range(num_shards))
    assert all(len(row) == 1 for row in rows[:num_workers])  # every worker begins at once
    assert all(len(row) <= max(1, num_shards // num_workers // 2) for row in rows)
    assert len(rows) <= 2000 + 30 * num_workers
