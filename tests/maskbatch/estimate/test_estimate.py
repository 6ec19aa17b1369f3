"""The sample is random and whole groups, the arithmetic holds, and the command writes nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.cluster.launcher import NodeType, read_nodes, read_prices
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.estimate.calibration import Calibration, draw_groups
from maskbatch.estimate.cost import Estimate, describe_estimate, estimate_run, project
from maskbatch.plan.columns import Row
from maskbatch.plan.listing import Listing
from maskbatch.progress import Step
from tests.conftest import LAYOUT, Cli
from tests.maskbatch.samples import speckle, write_files

ROOT = Path(__file__).parents[3]
HEAD = NodeType(name="head", instance="m7i.large", num_cpus=0, num_gpus=0, min_nodes=1, max_nodes=1)
DECODE = NodeType(name="decode", instance="c7i.4xlarge", num_cpus=16, num_gpus=0, min_nodes=0, max_nodes=4)
SCORE = NodeType(name="score", instance="g6.xlarge", num_cpus=0, num_gpus=1, min_nodes=0, max_nodes=2)
ON_CPUS = Calibration(
    listing=Listing(num_images=10_000_000, num_bytes=4 * 10**12),
    num_shards=10_000,
    statuses={"ok": 3_900, "truncated": 100},
    cores=2,
    gpus=0,
    listing_s=300,
    start_s=15,
    num_started=128,
    images_per_s=200,
    spread=0.05,
    read_s=0.001,
    decode_s=0.005,
    score_s=0.004,
)
ON_GPU = replace(ON_CPUS, cores=16, gpus=1, images_per_s=1_500, score_s=0.0005)


def rows(number: int) -> list[Row]:
    return [{"id": k, "uri": f"file:///{k:06d}.jpg", "encoding": "raw"} for k in range(number)]


def drawn(number: int, group_size: int, num_groups: int) -> list[list[int]]:
    groups = draw_groups(rows(number), group_size, num_groups, Step("list", None, "images"))
    return [group["id"].to_pylist() for group in groups]


def projected(nodes: list[NodeType], measured: Calibration = ON_CPUS, **options: Any) -> Estimate:
    values = {"job": JobConfig(), "gpu_rate": None, "per_hour": {}} | options
    return project(measured, nodes, **values)


@given(st.integers(0, 300), st.integers(1, 20), st.integers(1, 20))
def test_a_sample_is_of_whole_different_groups_of_neighbours(number: int, size: int, most: int) -> None:
    groups = drawn(number, size, most)
    assert len(groups) == min(most, -(-number // size))
    assert len({group[0] for group in groups}) == len(groups)
    for group in groups:
        assert group[0] % size == 0
        assert group == list(range(group[0], min(group[0] + size, number)))
    assert all(len(group) == size for group in groups[:-1])  # so that each is one shard


def test_every_part_of_an_archive_is_as_likely_and_comes_in_random_order() -> None:
    first = [group[0] for group in drawn(40_000, 4, 2_000)]
    for tenth in range(10):
        share = [tenth * 4_000 <= one < (tenth + 1) * 4_000 for one in first]
        assert 140 < sum(share) < 260
        assert 60 < sum(share[:1_000]) < 140


def test_twice_the_nodes_halve_the_scoring_of_a_cluster_that_decodes() -> None:
    nodes = [HEAD, DECODE, SCORE]
    once = projected(nodes, gpu_rate=10**6)
    twice = projected([HEAD, replace(DECODE, max_nodes=8), SCORE], gpu_rate=10**6)
    assert once.limit == twice.limit == "decoding cores"
    assert twice.seconds["scoring"] == pytest.approx(once.seconds["scoring"] / 2)
    for phase in ("start", "listing", "commit and report"):
        assert twice.seconds[phase] == once.seconds[phase]


def test_cores_only_decode_where_gpus_score() -> None:
    with_gpus, without = projected([HEAD, DECODE, SCORE]), projected([HEAD, DECODE])
    assert without.images_per_s == pytest.approx(200 / 2 * 64)
    assert with_gpus.images_per_s == pytest.approx(without.images_per_s / 0.6)
    assert without.limit == "cores"
    assert with_gpus.limit == "decoding cores"


def test_the_slower_of_cores_and_gpus_is_the_limit() -> None:
    nodes = [HEAD, DECODE, SCORE]
    slow = projected(nodes, gpu_rate=1_000)
    assert (slow.limit, slow.images_per_s) == ("GPUs", 2_000)
    assert projected(nodes, gpu_rate=50_000).limit == "decoding cores"
    assert any("1,000 images a second, as given" in line for line in slow.assumptions)
    assert any("give --gpu-rate" in line for line in projected(nodes).assumptions)


def test_cores_only_read_where_gpus_decode_too() -> None:
    nodes = [HEAD, DECODE, SCORE]
    made = projected(nodes, gpu_rate=4_000, decoder="gpu")
    assert (made.limit, made.images_per_s) == ("GPUs", 8_000)
    assert made.paces["reading cores"] == pytest.approx(64 / (0.0013 * (2 / 200) / 0.01))
    assert any("decodes and scores 4,000 images a second, as given" in line for line in made.assumptions)
    assert any("could not be tried here" in line for line in made.assumptions)
    few = projected([HEAD, replace(DECODE, num_cpus=2), SCORE], gpu_rate=4_000, decoder="gpu")
    assert few.limit == "reading cores"
    here = projected(nodes, replace(ON_GPU, decode_s=0.0003), decoder="gpu")
    assert here.paces.keys() == {"reading cores", "GPUs"}
    assert not any("could not be tried here" in line for line in here.assumptions)


def test_gpus_that_decode_must_be_there_and_their_pace_known(
    archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    def ask(job: JobConfig = JobConfig(), **options: Any) -> None:  # noqa: B008
        config, score = PlanConfig(archives=(str(archive),)), ScoreConfig(decoder="gpu")
        estimate_run(config, score, job, checkpoint=str(small_checkpoint), **options)

    on_cpus = write_cluster(tmp_path / "cluster.yaml")
    with pytest.raises(UsageError, match=r"cluster.yaml have no GPU that scores; leave it out"):
        ask(cluster=on_cpus, gpu_rate=4_000)
    with pytest.raises(UsageError, match="--gpus-per-worker 0 uses none"):
        ask(JobConfig(gpus_per_worker=0), cluster=ROOT / "cluster.yaml")


def test_a_gpu_here_is_the_measure_of_those_there() -> None:
    nodes = [HEAD, replace(DECODE, max_nodes=40), SCORE]
    made = projected(nodes, ON_GPU)
    assert (made.limit, made.images_per_s) == ("GPUs", pytest.approx(2 * 2_000))  # its calls took 0.5 ms
    assert any("2,000 images a second, as measured here" in line for line in made.assumptions)
    assert projected(nodes, ON_GPU, gpu_rate=100).images_per_s == 200


def test_a_gpu_node_without_room_for_a_scorer_scores_nothing() -> None:
    made = projected([HEAD, DECODE, SCORE], job=JobConfig(gpus_per_worker=2))
    assert made.paces.keys() == {"cores"}


def test_listing_is_the_limit_of_a_cluster_that_is_large_enough() -> None:
    made = projected([HEAD, replace(DECODE, max_nodes=400)], replace(ON_CPUS, listing_s=3_000))
    assert made.limit == "listing"
    assert made.whole_s > 3_000


def test_this_machine_takes_its_own_start_and_pace() -> None:
    made = projected([])
    rest = (ON_CPUS.listing.num_images - ON_CPUS.num_started) / ON_CPUS.images_per_s
    assert made.seconds["start"] == ON_CPUS.start_s
    assert made.seconds["scoring"] == pytest.approx(rest)
    assert (made.limit, made.cost, made.unpriced) == ("cores", None, [])
    assert projected([], ON_GPU).images_per_s == ON_GPU.images_per_s


def test_the_cost_is_hours_times_prices_and_names_what_it_leaves_out() -> None:
    nodes = [HEAD, DECODE, SCORE]
    prices = read_prices(["c7i.4xlarge=0.7", "head=0.1"], nodes)
    made = projected(nodes, per_hour=prices)
    assert made.cost == pytest.approx(made.whole_s / 3600 * (4 * 0.7 + 1 * 0.1))
    assert made.unpriced == ["score"]
    whole = projected(nodes, per_hour={**prices, "score": 1.0})
    assert whole.cost == pytest.approx(whole.whole_s / 3600 * (4 * 0.7 + 0.1 + 2 * 1.0))
    text = "\n".join(describe_estimate(made))
    assert "left out, without a price: score" in text
    assert "Nodes: decode (c7i.4xlarge), 0 to 4, each 16 CPU." in text
    for sentence in made.assumptions:
        assert sentence in text


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ("spot=1", "one of head, m7i.large"),
        ("1", "TYPE=PER_HOUR"),
        ("head=-1", "no price"),
        ("head=x", "'x'"),
    ],
)
def test_a_price_of_nothing_known_is_refused(price: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_prices([price], [HEAD])


def test_the_clusters_own_file_is_read_with_its_head() -> None:
    nodes = read_nodes(ROOT / "cluster.yaml")
    by_name = {node.name: node for node in nodes}
    assert (by_name["head"].num_cpus, by_name["head"].max_nodes) == (0, 1)
    assert any(node.num_gpus for node in nodes)
    assert all(node.instance for node in nodes)


def write_cluster(path: Path, change: Callable[[dict[str, Any]], object] = lambda cluster: None) -> Path:
    worker = {
        "resources": {"CPU": 8},
        "min_workers": 0,
        "max_workers": 3,
        "node_config": {"InstanceType": "c7i.2xlarge"},
    }
    cluster = {
        "cluster_name": "test",
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {"head": {"resources": {"CPU": 0}, "node_config": {}}, "cpu": worker},
    }
    change(cluster)
    path.write_text(yaml.safe_dump(cluster))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("available_node_types"), "no available_node_types"),
        (lambda c: c["available_node_types"]["cpu"].pop("resources"), "cpu has no resources"),
        (lambda c: c["available_node_types"]["cpu"].pop("max_workers"), "cpu has no max_workers"),
        (lambda c: c["available_node_types"]["cpu"].update(max_workers="3"), "max_workers '3'"),
        (lambda c: c["available_node_types"]["cpu"].update(min_workers=4), "min_workers is more"),
        (lambda c: c["available_node_types"]["cpu"]["resources"].update(CPU=0), "no CPU between them"),
        (lambda c: c.update(max_workers=2), "max_workers 2 is less than the 3"),
        (lambda c: c.update(max_workers="3"), "max_workers '3', a whole number"),
        (lambda c: c.update(head_node_type=["head"]), r"head_node_type \['head'\], one of .*: cpu, head"),
        (lambda c: c.update(head_node_type="heads"), "head_node_type 'heads'"),
        (lambda c: c.pop("head_node_type"), "head_node_type None"),
        (lambda c: c["available_node_types"].update(cpu=[8]), "cpu has no resources"),
        (lambda c: c["available_node_types"]["cpu"].update(resources=8), "cpu has no resources"),
        (lambda c: c["available_node_types"]["cpu"]["resources"].update(CPU=-8), "CPU -8, a whole number"),
        (lambda c: c["available_node_types"]["cpu"]["resources"].update(GPU="1"), "GPU '1', a whole number"),
    ],
)
def test_a_cluster_file_that_does_not_say_its_size_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    path = write_cluster(tmp_path / "cluster.yaml", change)
    with pytest.raises(UsageError, match=told) as refused:
        read_nodes(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("text", [None, "a: [", "just words", "a: 2026-13-01"])
def test_a_cluster_file_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="--cluster"):
        read_nodes(path)


@pytest.mark.parametrize("flags", [{"prices": ["cpu=1"]}, {"gpu_rate": 10.0}])
def test_flags_of_a_cluster_need_one(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--cluster"):
        estimate_run(PlanConfig(archives=("/nowhere",)), ScoreConfig(), JobConfig(), **flags)


def estimated(archive: Path, checkpoint: Path, **options: Any) -> Estimate:
    config = PlanConfig(archives=(str(archive),))
    return estimate_run(config, ScoreConfig(), JobConfig(), checkpoint=str(checkpoint), **options)


@pytest.mark.slow
def test_without_a_gpu_here_one_that_decodes_needs_a_rate(
    archive: Path, small_checkpoint: Path, cli: Cli
) -> None:
    flags = (
        "--decoder",
        "gpu",
        "--limit",
        "64",
        "--checkpoint",
        small_checkpoint,
        "--cluster",
        ROOT / "cluster.yaml",
    )
    refused = cli("estimate", archive, *flags, RAY_TMPDIR="/tmp")
    assert refused.returncode == 2
    assert (
        "this machine has no GPU to measure how fast one decodes and scores; give --gpu-rate"
        in refused.stderr
    )
    made = cli("estimate", archive, *flags, "--gpu-rate", "4000", "--json", RAY_TMPDIR="/tmp")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["paces"].keys() == {"reading cores", "GPUs"}


@pytest.mark.slow
def test_gpus_are_measured_where_there_is_one_unless_the_cluster_has_none(
    archive: Path, small_checkpoint: Path, tmp_path: Path, ray_with_a_logical_gpu: None
) -> None:
    with_gpu = estimated(archive, small_checkpoint)
    assert with_gpu.calibration.gpus == 1
    assert with_gpu.paces.keys() == {"decoding cores", "GPUs"}
    assert sum(with_gpu.calibration.statuses.values()) == 200
    on_cpus = estimated(archive, small_checkpoint, cluster=write_cluster(tmp_path / "cluster.yaml"))
    assert on_cpus.calibration.gpus == 0
    assert on_cpus.paces.keys() == {"cores"}


def test_an_archive_of_a_few_images_is_scored_whole(
    small_checkpoint: Path, tmp_path: Path, ray_with_a_logical_gpu: None
) -> None:
    few = write_files(tmp_path / "few", {f"{k}.jpg": speckle(k) for k in range(5)})
    made = estimated(few, small_checkpoint)
    assert made.calibration.statuses == {"ok": 5}
    assert made.seconds["scoring"] == 0
    assert made.images_per_s > 0


def test_an_archive_of_which_nothing_can_be_scored_gives_no_estimate(
    small_checkpoint: Path, tmp_path: Path, ray_with_a_logical_gpu: None
) -> None:
    spoilt = write_files(tmp_path / "spoilt", {f"{k}.jpg": b"no image" for k in range(70)})
    with pytest.raises(UsageError, match="none of 70 sampled images could be scored"):
        estimated(spoilt, small_checkpoint)


@pytest.mark.slow
def test_the_command_counts_as_the_plan_does_and_leaves_nothing_behind(
    archive: Path, small_checkpoint: Path, tmp_path: Path, cli: Cli
) -> None:
    cluster, temporary = write_cluster(tmp_path / "cluster.yaml"), tmp_path / "temporary"
    temporary.mkdir()
    flags = ("--layout", LAYOUT, "--camera", "gate-1", "--limit", "90", "--json")
    planned = json.loads(cli("plan", archive, *flags, "--dry-run").stdout)["listing"]
    asked = ("--cluster", cluster, "--price", "cpu=0.5", "--checkpoint", small_checkpoint)
    result = cli("estimate", archive, *flags, *asked, TMPDIR=str(temporary), RAY_TMPDIR="/tmp")
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["calibration"]["listing"] == planned
    assert sum(made["calibration"]["statuses"].values()) == planned["num_images"] == 90
    assert made["hours"] == pytest.approx(sum(made["seconds"].values()) / 3600)
    assert made["hours_low"] < made["hours"] < made["hours_high"]
    assert made["cost"] == pytest.approx(made["hours"] * 3 * 0.5)
    assert made["unpriced"] == ["head"]
    assert "sample: 90 images" in result.stderr
    assert not list(temporary.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml", "temporary"]
