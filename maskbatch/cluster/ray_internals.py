"""Whatever of Ray is not its public interface: tests/maskbatch/cluster/test_ray_internals.py watches it."""

from typing import Any

MAX_STOP_S = 30.0


def count_scorers() -> int:
    """Actors of Ray Data, of this driver, that are alive.

    `ray.util.state.list_actors`, the public way, asks a dashboard, which may not be there.
    """
    import ray
    from ray._private.state import actors

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    alive = actors(None, job, "ALIVE").values()
    return sum(actor["ActorClassName"].startswith("MapWorker") for actor in alive)


def read_node_groups() -> list[tuple[dict[str, float], int]]:
    """Resources and the largest number of nodes of each kind, if an autoscaler told Ray.

    Ray has no public way to ask how far a cluster grows.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    return [(dict(group.resources), group.max_count) for group in groups]


def fill_cpu_nodes_first() -> dict[str, Any]:
    """Arguments of `map_batches`: tasks go to CPU nodes first.

    Ray Data's own strategy, SPREAD, takes any node; it warns of this argument, and has no other yet.
    """
    return {"scheduling_strategy": "DEFAULT"}


def stop_execution(dataset: Any) -> None:
    """End what still runs of a dataset.

    Without it the job goes on in a Ray that stays, and crashes in one that ends; no public way exists.
    """
    executor = dataset._current_executor
    if executor is not None:
        executor.shutdown(force=True)
        executor.join(MAX_STOP_S)
