"""How long a driver waits for its workers, without Ray."""

import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from maskbatch.cluster import pipeline
from maskbatch.cluster.pipeline import Done, Pools, _wait
from maskbatch.config import JobConfig
from maskbatch.errors import RunFailedError


def wait(staging: Path, done: Done, job: JobConfig) -> Any:
    cluster = SimpleNamespace(job=job, explain_wait=lambda **_: "a shard", check=lambda: None)
    work = SimpleNamespace(run=SimpleNamespace(staging=staging))
    return _wait(cast("Any", cluster), cast("Any", work), done, Pools(False, 1, 1, 0))


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
