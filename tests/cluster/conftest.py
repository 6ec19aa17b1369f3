"""A real Ray cluster of several nodes on this machine, whose GPUs are only counted, and runs on it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from maskbatch import progress, runner
from maskbatch.cluster import pipeline
from maskbatch.cluster.connection import Cluster
from maskbatch.cluster.workers import ShardDone
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.runs.work import Work
from tests.conftest import LAYOUT, save_untrained, start_ray, table_of

BATCH_SIZE = 128
"""Larger than any shard here, and padded: scoring lasts long enough for things to happen meanwhile."""


class Enough(Exception):
    """Ends a run that has shown what it had to."""


class Site:
    """A cluster whose head takes no work; nodes come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        config = {"metrics_report_interval_ms": 1000}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": config})
        self.head = self._cluster.head_node
        self.address: str = self._cluster.address
        self.nodes: dict[str, Any] = {}
        self.cpu: set[str] = set()
        self.gpu: set[str] = set()

    def add(self, kind: str) -> str:
        """A node of one core, and where `kind` is gpu of one GPU; returns its id."""
        node = self._cluster.add_node(num_cpus=1, num_gpus=int(kind == "gpu"))
        self.nodes[node.node_id] = node
        getattr(self, kind).add(node.node_id)
        return node.node_id

    def kill(self, kind: str, node_id: str) -> None:
        getattr(self, kind).remove(node_id)
        self._cluster.remove_node(self.nodes.pop(node_id), allow_graceful=False)

    def have(self, cpu: int, gpu: int) -> None:
        """Exactly so many nodes of each kind, all of them idle."""
        import ray

        for kind, number in (("cpu", cpu), ("gpu", gpu)):
            while len(getattr(self, kind)) > number:
                self.kill(kind, min(getattr(self, kind)))
            while len(getattr(self, kind)) < number:
                self.add(kind)
        wanted = {"CPU": cpu + gpu, "GPU": gpu}
        until(lambda: all(ray.available_resources().get(kind, 0) == n for kind, n in wanted.items()))
        until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1 + cpu + gpu)

    def shutdown(self) -> None:
        self._cluster.shutdown()


def until(holds: Callable[[], bool], timeout_s: float = 90) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, at 96 x 96: the images of 8 are too many bytes for Ray to keep in the driver."""
    return save_untrained(tmp_path_factory.mktemp("checkpoint"), (96, 96))


@pytest.fixture(scope="package")
def no_shared_ray() -> Iterator[None]:
    """A process joins one cluster at a time: the Ray that other tests share is gone meanwhile."""
    import ray

    shared = ray.is_initialized()
    ray.shutdown()
    yield
    if shared:
        start_ray()


@pytest.fixture(scope="package")
def single_node(
    archive: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, no_shared_ray: None
) -> pa.Table:
    """The table of a run on this machine alone."""
    out = tmp_path_factory.mktemp("single") / "out"
    score(archive, checkpoint, out)
    return table_of(out)


@pytest.fixture(scope="package")
def site(single_node: pa.Table) -> Iterator[Site]:
    """After the run on this machine alone."""
    import ray

    with (
        # Apart from any other cluster here; not below pytest's folder, as names of sockets are short.
        tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Site()
        ray.init(address=made.address, log_to_driver=False)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def score(archive: Path, checkpoint: Path, out: Path, **job: Any) -> None:
    runner.score_archive(
        PlanConfig(archives=(str(archive),), layout=LAYOUT),
        str(out),
        score=ScoreConfig(batch_size=BATCH_SIZE),
        job=JobConfig(**job),
        checkpoint=str(checkpoint),
    )


class Watched:
    """What runs stage and say from here on, and what is done at that moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster: Cluster | None = None
        self.done: list[ShardDone] = []
        self.said: list[str] = []
        self.when_done: Callable[[], None] = lambda: None
        self.when_said: Callable[[], None] = lambda: None
        original, say = pipeline.score_shards, progress.say

        def score(cluster: Cluster, work: Work, shards: list[int]) -> Iterator[ShardDone]:
            self.cluster = cluster
            for item in original(cluster, work, shards):
                self.done.append(item)
                self.when_done()
                yield item

        def said(message: str) -> None:
            say(message)
            self.said.append(message)
            self.when_said()

        monkeypatch.setattr(runner, "score_shards", score)
        monkeypatch.setattr(pipeline, "say", said)
        monkeypatch.setattr(pipeline, "PATIENCE_S", 3.0)
        monkeypatch.setattr(pipeline, "REPEAT_S", 3.0)

    @property
    def decoded_on(self) -> set[str]:
        return {item.decode_node for item in self.done}

    @property
    def scored_on(self) -> set[str]:
        return {item.node for item in self.done}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)
