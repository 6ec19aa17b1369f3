"""Runs on a cluster of CPU and GPU nodes that come, go and die while they work."""

import json
import os
import re
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from maskbatch.cluster.connection import Cluster
from maskbatch.cluster.nodes import Node
from maskbatch.config import JobConfig
from maskbatch.errors import RunFailedError
from maskbatch.runs import begin
from tests.cluster.conftest import BATCH_SIZE, Enough, Site, Watched, score, until
from tests.conftest import LAYOUT, Cli, table_of

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(begin, "choose_shard_size", lambda *_: 8)


def counted(site: Site, name: str, tag: str) -> dict[str, Counter[str]]:
    """A metric of every node's Prometheus page, summed by one of its tags."""
    found = {}
    for node_id, node in {site.head.node_id: site.head, **site.nodes}.items():
        page = f"http://127.0.0.1:{node.metrics_export_port}/metrics"
        with urllib.request.urlopen(page, timeout=10) as answer:
            lines = re.findall(rf'^{name}{{.*\b{tag}="(.+?)".*}} (\S+)$', answer.read().decode(), re.M)
        found[node_id] = Counter[str]()
        for value, number in lines:
            found[node_id][value] += float(number)  # type: ignore[assignment]
    return found


def test_cpu_nodes_decode_gpu_nodes_score_and_the_head_does_nothing(
    site: Site, watched: Watched, single_node: pa.Table, archive: Path, checkpoint: Path, tmp_path: Path
) -> None:
    site.have(cpu=2, gpu=2)
    before = counted(site, "ray_maskbatch_images_total", "status")
    score(archive, checkpoint, tmp_path / "out", address=site.address)
    assert table_of(tmp_path / "out").equals(single_node)
    assert watched.decoded_on == site.cpu
    assert watched.scored_on == site.gpu
    assert sum(before.values(), Counter()).total() == 0

    def images() -> Counter[str]:
        return sum(counted(site, "ray_maskbatch_images_total", "status").values(), Counter())

    until(lambda: images().total() == 200)
    assert images() == {"ok": 196, "truncated": 2, "unsupported": 2}
    stages = counted(site, "ray_maskbatch_seconds_total", "stage")
    assert {node for node, seconds in stages.items() if set(seconds) == {"read", "decode"}} == site.cpu
    assert {node for node, seconds in stages.items() if set(seconds) == {"score"}} == site.gpu
    assert not stages[site.head.node_id]
    busy = counted(site, "ray_maskbatch_busy", "device")
    for node in site.gpu:
        ((device, share),) = busy[node].items()
        assert device.startswith("cpu/")
        assert 0 < share <= 1
    timings = json.loads((tmp_path / "out" / "_SUCCESS").read_text())["timings_s"]
    assert timings["worker_read"] == pytest.approx(sum(item.read_s for item in watched.done))
    assert 0 < timings["worker_read"] < timings["worker_score"]


def test_a_run_survives_a_node_killed_in_each_stage(
    site: Site, watched: Watched, single_node: pa.Table, archive: Path, checkpoint: Path, tmp_path: Path
) -> None:
    site.have(cpu=2, gpu=2)

    def kill() -> None:
        item = watched.done[-1]
        if len(watched.done) == 3:
            site.kill("cpu", item.decode_node)
        if len(watched.done) == 8:
            site.kill("gpu", item.node)

    watched.when_done = kill
    score(archive, checkpoint, tmp_path / "out", address=site.address)
    assert table_of(tmp_path / "out").equals(single_node)
    assert len(watched.decoded_on) == 2 and len(watched.scored_on) == 2
    assert {watched.done[-1].decode_node} == site.cpu
    assert {watched.done[-1].node} == site.gpu


def test_without_gpu_nodes_a_run_waits_and_says_so_gives_up_and_is_resumed(
    site: Site,
    watched: Watched,
    single_node: pa.Table,
    archive: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    site.have(cpu=2, gpu=1)
    out = tmp_path / "out"

    def kill_twice() -> None:
        if len(watched.done) in (3, 10) and site.gpu:
            site.kill("gpu", watched.done[-1].node)
        if len(watched.done) == 10:  # not before: a busy machine takes long to start a scorer again
            object.__setattr__(watched.cluster.job, "stall_timeout_s", 33.0)
            object.__setattr__(watched.cluster.job, "decode_timeout_s", 1.0)

    def come_back_once() -> None:
        if "GPU node" in watched.said[-1] and len(watched.done) < 10 and not site.gpu:
            site.add("gpu")

    watched.when_done, watched.when_said = kill_twice, come_back_once
    with pytest.raises(RunFailedError, match="for 33 s, waiting for a GPU node: the cluster has none; mend"):
        score(archive, checkpoint, out, address=site.address)
    assert len(watched.scored_on) == 2
    assert 10 <= len(watched.done) < 25
    assert re.search(
        r"waiting for a GPU node: the cluster has none \(gives up in \d+ s\)", "\n".join(watched.said)
    )
    assert not (out / "_SUCCESS").exists()
    before = len(watched.done)
    site.have(cpu=2, gpu=1)  # which also waits until nothing of the first call holds a core
    score(archive, checkpoint, out, address=site.address)
    assert len(watched.done) == 25 and before >= 10
    assert table_of(out).equals(single_node)


@pytest.fixture
def many(archive: Path, tmp_path: Path) -> Path:
    """Minutes of work, for Ray Data takes half a minute to see that a node joined."""
    folder = tmp_path / "many" / "north/gate/2026/10/01"
    folder.mkdir(parents=True)
    sound = min(archive.rglob("*.jpg"))
    for k in range(2000):
        os.link(sound, folder / f"{k // 3600:02d}{k // 60 % 60:02d}{k % 60:02d}.jpg")
    return tmp_path / "many"


@pytest.mark.parametrize("gpus_per_worker", [1, 0])
def test_nodes_that_join_a_run_are_used(
    gpus_per_worker: int,
    site: Site,
    watched: Watched,
    many: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(begin, "choose_shard_size", lambda *_: 1)
    site.have(cpu=1, gpu=gpus_per_worker)
    scoring = site.gpu if gpus_per_worker else site.cpu

    def join() -> None:
        if len(watched.done) == 1:
            for kind in ("cpu", "gpu")[: 1 + gpus_per_worker]:
                site.add(kind)
        elif watched.scored_on == scoring and watched.decoded_on >= site.cpu:
            raise Enough

    watched.when_done = join
    with pytest.raises(Enough):
        score(many, checkpoint, tmp_path / "out", address=site.address, gpus_per_worker=gpus_per_worker)
    assert len(scoring) == 2


def test_a_cluster_that_can_grow_to_gpus_scores_on_gpus_all_at_once(
    site: Site,
    watched: Watched,
    many: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an autoscaler tells Ray of itself, told here; the nodes that it would start are added by hand."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    monkeypatch.setattr(begin, "choose_shard_size", lambda *_: 1)
    site.have(cpu=1, gpu=0)
    config = ClusterConfig()
    config.node_group_configs.add(resources={"CPU": 1}, max_count=1)
    config.node_group_configs.add(resources={"CPU": 1, "GPU": 1}, max_count=2)
    global_worker.gcs_client.report_cluster_config(config.SerializeToString())
    try:
        with Cluster(JobConfig(address=site.address), verbose=False) as cluster:
            cluster.wait()
            capacity = cluster.read_capacity()
        assert capacity.nodes[Node(1, 0)] == 1
        assert capacity.largest == {Node(1, 0): 1, Node(1, 1): 2}

        def grow() -> None:
            while "GPU node" in watched.said[-1] and len(site.gpu) < 2:
                site.add("gpu")

        def both() -> None:
            if watched.scored_on == site.gpu:
                raise Enough

        watched.when_said, watched.when_done = grow, both
        with pytest.raises(Enough):
            score(many, checkpoint, tmp_path / "out", address=site.address)
    finally:
        global_worker.gcs_client.report_cluster_config(ClusterConfig().SerializeToString())


def test_a_driver_that_was_killed_is_resumed(
    cli: Cli,
    site: Site,
    watched: Watched,
    single_node: pa.Table,
    archive: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    site.have(cpu=1, gpu=1)
    out = tmp_path / "out"
    script = """
import os, signal
from maskbatch import runner
from maskbatch.runs import begin
begin.choose_shard_size = lambda *_: 8
score = runner.score_shards
def score_two(cluster, work, shards):
    for k, shard in enumerate(score(cluster, work, shards)):
        if k == 2: os.kill(os.getpid(), signal.SIGKILL)
        yield shard
runner.score_shards = score_two
"""
    command = ["score", archive, "--out", out, "--checkpoint", checkpoint, "--layout", LAYOUT]
    killed = cli(*command, "--address", site.address, "--batch-size", BATCH_SIZE, script=script)
    assert killed.returncode == -9, killed.stderr
    assert (out / "_lease.json").exists()
    site.have(cpu=1, gpu=1)  # what the killed driver had is free again
    staged = len(list((out / "staging").glob("0*.parquet")))
    assert 2 <= staged < 25
    score(archive, checkpoint, out, address=site.address)
    assert len(watched.done) == 25 - staged
    assert table_of(out).equals(single_node)
