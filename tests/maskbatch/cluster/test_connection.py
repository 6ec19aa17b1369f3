"""What is said of a Ray that does not start or stop, without Ray."""

import threading
import time

import pytest

from maskbatch.cluster import connection
from maskbatch.cluster.connection import Cluster, _explain_start, is_stuck
from maskbatch.config import JobConfig
from maskbatch.errors import RunFailedError

SESSION = "/tmp/ray/session_2026-11-28_02-13-38_651769_20137/gcs_server_port_c80e"


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        (
            "local",
            RuntimeError(f"Timed out waiting for file {SESSION}."),
            "file of its session; a process of Ray",
        ),
        ("local", TimeoutError("the raylet"), "the raylet; a process of Ray ended or took too long"),
        ("local", RuntimeError(""), "no reason given; a process of Ray ended"),
        ("local", OSError("AF_UNIX path length cannot exceed"), "exceed; set RAY_TMPDIR to a folder"),
        ("local", PermissionError("no\nmore"), "no; set RAY_TMPDIR"),
        ("10.0.0.1:6379", ConnectionRefusedError("refused"), "refused; check --address"),
    ],
)
def test_why_ray_did_not_start_is_said_with_a_remedy_that_fits(
    address: str, error: Exception, said: str
) -> None:
    assert f"Ray at {address!r} did not start: " in _explain_start(address, error)
    assert said in _explain_start(address, error)
    assert "2026" not in _explain_start(address, error)


def test_an_error_is_told_though_ray_never_starts_nor_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FROZEN_STOP_S", 0.2)
    monkeypatch.setattr(connection, "START_S", 0.1)
    thawed = threading.Event()

    def start(_: Cluster) -> bool:
        thawed.wait()
        raise OSError("frozen")

    monkeypatch.setattr(Cluster, "_start", start)
    began = time.monotonic()
    cluster = Cluster(JobConfig(stall_timeout_s=1), verbose=True)
    with pytest.raises(RunFailedError, match=r"Ray at 'local' did not start in 1 s; .+"), cluster:
        cluster.wait()
    assert time.monotonic() - began < 10
    assert is_stuck()
    thawed.set()
    cluster._thread.join()
    assert not is_stuck()
