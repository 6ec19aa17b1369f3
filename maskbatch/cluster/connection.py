"""The Ray cluster of a run: started or joined, and what it lacks."""

import logging
import os
import socket
import threading
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from maskbatch.cluster.launcher import read_nodes
from maskbatch.cluster.nodes import LAUNCHER_CONFIG, UNBOUNDED, Capacity, Node
from maskbatch.config import JobConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.progress import quiet_output

CONNECT_S = 10.0


class Connection:
    """Ray, started or joined in the background while the archive is being planned."""

    def __init__(self, job: JobConfig, *, verbose: bool) -> None:
        self.job, self.verbose = job, verbose
        self._error: Exception | None = None
        self._quiet = ExitStack()
        self._ready, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="ray", daemon=True)

    def __enter__(self) -> Self:
        if not self.verbose:
            self._quiet.enter_context(quiet_output())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join()
        self._quiet.close()

    def _hold(self) -> None:
        """Start Ray, and stay: the kernel ends Ray's processes with the thread that started them."""
        owned = False
        try:
            owned = self._start()
        except Exception as error:  # whatever it is, the driver waits to hear of it
            self._error = error
        finally:
            self._ready.set()
        self._leave.wait()
        if owned:
            import ray

            ray.shutdown()

    def _start(self) -> bool:
        """Start or join Ray; whether it is ours to shut down."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # A driver that was killed keeps its share of the cluster from the next one for so long; Ray's: 180.
        os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "60")
        import ray

        owned = not ray.is_initialized()
        if owned:
            _check_address(self.job.address)
            options: dict[str, Any] = {}
            if self.job.address == "local":
                options["include_dashboard"] = False
            ray.init(
                address=self.job.address,
                log_to_driver=self.verbose,
                logging_level=logging.INFO if self.verbose else logging.ERROR,
                **options,
            )
        import ray.data  # a second of imports, while the plan is being made

        return owned

    def ready(self) -> None:
        """Wait for Ray. Raises RunFailedError where it did not start."""
        self._ready.wait()
        if self._error is not None:
            first = (
                str(self._error).strip().splitlines()[0] if str(self._error).strip() else "no reason given"
            )
            message = f"Ray at {self.job.address!r} did not start: {first}; check --address, or leave it out"
            raise RunFailedError(message) from self._error

    def capacity(self) -> Capacity:
        """What the cluster has, and can grow to; ready() comes first."""
        import ray

        nodes = Counter(Node.of(node["Resources"]) for node in ray.nodes() if node["Alive"])
        return Capacity(nodes, None if self.job.address == "local" else _largest())

    def missing(self, *, on_gpus: bool, scorer_cpus: float = 0) -> str:
        """What a run waits for when no shard comes, in words; its scorers reserve `scorer_cpus` each."""
        import ray

        nodes = self.capacity().nodes
        if on_gpus and not any(node.num_scorers(self.job.gpus_per_worker) for node in nodes):
            return "a GPU node: the cluster has none"
        if not any(node.cpus - (scorer_cpus if node.gpus else 0) >= 1 for node in nodes):
            return "a CPU node: the cluster has none"
        total, free = ray.cluster_resources(), ray.available_resources()
        kinds = ("CPU", "GPU") if on_gpus else ("CPU",)
        room = " and ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in kinds)
        return f"a shard: {_num_actors()} scoring workers up, {room} free"


def _num_actors() -> int:
    """Actors of this driver that are alive."""
    import ray
    from ray._private.state import actors  # the public way asks a dashboard, which may not be there

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return sum(
        actor["ActorClassName"].startswith("MapWorker") for actor in actors(None, job, "ALIVE").values()
    )


def _largest() -> Counter[Node] | None:
    """The nodes of the cluster at its largest, from Ray's own store or from what `ray up` left here."""
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        kinds = [(Node.of(kind.resources), kind.max_count) for kind in config.node_group_configs]
    else:
        try:
            types = read_nodes(LAUNCHER_CONFIG.expanduser())
        except UsageError:  # most often, it is not there
            return None
        kinds = [(Node(kind.num_cpus, kind.num_gpus), kind.max_nodes) for kind in types]
    largest: Counter[Node] = Counter()
    for node, number in kinds:
        largest[node] += number
    return largest if all(0 <= number < UNBOUNDED for _, number in kinds) else None


def _check_address(address: str) -> None:
    """Raises OSError where nothing listens at `HOST:PORT`: Ray would try it for minutes, past any signal."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        with socket.create_connection((host, int(port)), CONNECT_S):
            pass
