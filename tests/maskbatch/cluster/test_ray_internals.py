"""What we use of Ray's inside still does what we use it for; each message says what breaks without it."""

import warnings

import pytest
import ray
import ray.data

from maskbatch.cluster.ray_internals import (
    count_scorers,
    fill_cpu_nodes_first,
    read_node_groups,
    stop_execution,
)


@pytest.mark.slow
def test_a_dataset_that_runs_has_its_actors_counted_and_is_stopped(ray_with_a_logical_gpu: None) -> None:
    class Actor:  # here, so that workers need not import this module
        def __call__(self, batch: dict) -> dict:
            return batch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scheduling_strategy, as in the pipeline
        dataset = ray.data.range(400, override_num_blocks=400).map_batches(
            Actor, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5, **fill_cpu_nodes_first()
        )
    batches = iter(dataset.iter_batches(batch_size=1, prefetch_batches=0))  # held, as its end would stop it
    next(batches)
    assert count_scorers() == 1, "a run that waits says a wrong number of scoring workers"
    assert dataset._current_executor is not None, "a run that stops early leaves its job in the cluster"
    stop_execution(dataset)
    assert not dataset._current_executor.is_alive(), "a run that stops early leaves its job in the cluster"


@pytest.mark.slow
def test_an_autoscaler_says_how_far_the_cluster_grows(ray_with_a_logical_gpu: None) -> None:
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    what = "a run on an autoscaling cluster takes only the nodes that are there when it starts"
    assert read_node_groups() == [], what
    config = ClusterConfig()
    config.node_group_configs.add(resources={"CPU": 4, "GPU": 1}, max_count=3)
    global_worker.gcs_client.report_cluster_config(config.SerializeToString())
    try:
        assert read_node_groups() == [({"CPU": 4, "GPU": 1}, 3)], what
    finally:
        global_worker.gcs_client.report_cluster_config(ClusterConfig().SerializeToString())
