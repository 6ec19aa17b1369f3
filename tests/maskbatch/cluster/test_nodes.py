from collections import Counter
from pathlib import Path

import pytest

from maskbatch.cluster import connection
from maskbatch.cluster.nodes import SCORER_CPUS, Capacity, Node
from maskbatch.cluster.pipeline import Pools
from maskbatch.config import JobConfig

CPU, GPU, BARE_GPU = Node(8, 0), Node(4, 1), Node(0, 2)


def capacity(*nodes: Node, largest: dict[Node, int] | None = None) -> Capacity:
    return Capacity(Counter(nodes), None if largest is None else Counter(largest))


def pools(
    at: Capacity, num_shards: int = 10_000, address: str = "auto", **job: float
) -> tuple[bool, int, int]:
    made = Pools.of(at, JobConfig(address=address, **job), num_shards)  # type: ignore[arg-type]
    return made.on_gpus, made.start, made.most


@pytest.mark.parametrize(
    ("share", "scorers"), [(1, 4), (0.5, 8), (0.3, 12), (0.1, 40), (2, 1), (3, 0), (0, 0)]
)
def test_scorers_are_those_that_each_node_holds(share: float, scorers: int) -> None:
    assert capacity(CPU, GPU, GPU, BARE_GPU).num_scorers(share) == scorers


def test_all_scorers_start_at_once_and_more_may_come() -> None:
    assert pools(capacity(CPU, GPU, GPU)) == (True, 2, 1000)
    assert pools(capacity(CPU, GPU, GPU), max_scorers=1, max_workers=3) == (True, 1, 1)
    assert pools(capacity(CPU, GPU, GPU), num_shards=1) == (True, 1, 1)
    assert pools(capacity(CPU, *[GPU] * 2000)) == (True, 2000, 2000)


def test_without_gpus_or_with_none_wanted_each_core_has_a_worker() -> None:
    assert pools(capacity(CPU, CPU)) == (False, 16, 1000)
    assert pools(capacity(CPU, CPU), max_workers=5, max_scorers=1, address="local") == (False, 5, 5)
    assert pools(capacity(CPU, GPU), gpus_per_worker=0) == (False, 12, 1000)
    assert pools(capacity(CPU, GPU), gpus_per_worker=2) == (False, 12, 1000)
    assert pools(capacity(Node(0, 0))) == (False, 1, 1000)  # a head alone: what joins is used


def test_a_cluster_that_can_grow_to_gpus_scores_on_gpus() -> None:
    grows = capacity(CPU, largest={CPU: 4, GPU: 3})
    assert pools(grows) == (True, 3, 1000)
    assert (grows.num_workers(), grows.num_scorers(1)) == (44, 3)
    assert pools(capacity(CPU, largest={CPU: 4})) == (False, 32, 1000)


def test_a_cluster_that_does_not_say_is_asked_for_max_scorers() -> None:
    assert pools(capacity(CPU), max_scorers=4) == (True, 4, 4)
    assert pools(capacity(CPU), max_scorers=4, gpus_per_worker=0) == (False, 8, 1000)
    assert pools(capacity(CPU), max_scorers=4, address="local") == (False, 8, 1000)


def test_scorers_keep_a_core_of_their_node_where_decoding_has_others() -> None:
    assert capacity(CPU, GPU).scorer_cpus(0.5) == SCORER_CPUS
    assert capacity(CPU, GPU).num_decoders(0.5) == 8 + 3
    assert capacity(CPU, largest={GPU: 2}).scorer_cpus(1) == SCORER_CPUS
    for at in (capacity(GPU), capacity(GPU, GPU), capacity(CPU), capacity(CPU, GPU, BARE_GPU)):
        assert at.scorer_cpus(1) == 0
        assert at.num_decoders(1) == sum(node.cpus * number for node, number in at.nodes.items())


LAUNCHED = """
max_workers: 5
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, max_workers: 0}
  decode: {resources: {CPU: 16}, min_workers: 1, max_workers: 3}
  score: {resources: {CPU: 4, GPU: 1}, max_workers: 2}
"""


def test_what_ray_up_left_on_the_head_says_how_far_a_cluster_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.state import state

    monkeypatch.setattr(state, "get_cluster_config", lambda: None)
    monkeypatch.setattr(connection, "LAUNCHER_CONFIG", tmp_path / "ray_bootstrap_config.yaml")
    assert connection._read_largest() is None
    (tmp_path / "ray_bootstrap_config.yaml").write_text(LAUNCHED)
    assert connection._read_largest() == Counter({Node(0, 0): 1, Node(16, 0): 3, Node(4, 1): 2})
    (tmp_path / "ray_bootstrap_config.yaml").write_text(LAUNCHED.replace("max_workers: 2", ""))
    assert connection._read_largest() is None
    kubernetes = LAUNCHED.replace("max_workers: 5", "").replace("max_workers: 2", f"max_workers: {2**31 - 1}")
    (tmp_path / "ray_bootstrap_config.yaml").write_text(kubernetes)
    assert connection._read_largest() is None
