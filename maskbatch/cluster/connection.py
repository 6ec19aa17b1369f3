"""The Ray cluster of a run: started or joined, its nodes, what it lacks."""

import logging
import os
import socket
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from maskbatch.cluster.launcher import read_nodes
from maskbatch.cluster.nodes import UNBOUNDED, Capacity, Node
from maskbatch.cluster.ray_internals import count_scorers, read_node_groups
from maskbatch.config import JobConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.progress import quiet_output

CONNECT_S = 10.0
LAUNCHER_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""What `ray up` leaves on the head."""


class Cluster:
    """A Ray cluster, started or joined in the background while the archive is listed."""

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

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()
        self._quiet.close()

    def _hold(self) -> None:
        """Start Ray, and stay: the kernel ends Ray's processes with the thread that started them."""
        owned = False
        try:
            owned = self._start()
        except Exception as error:  # whatever it is, `wait` raises it
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
        # The next driver waits so long for what a killed one had of the cluster; Ray's default is 180.
        os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "60")
        import ray

        owned = not ray.is_initialized()
        if owned:
            _check_address(self.job.address)
            ray.init(
                address=self.job.address,
                log_to_driver=self.verbose,
                logging_level=logging.INFO if self.verbose else logging.ERROR,
                include_dashboard=False if self.job.address == "local" else None,
            )
        import ray.data  # takes a second, during which the plan is made

        return owned

    def wait(self) -> None:
        """Wait for Ray. Raises RunFailedError where it did not start."""
        self._ready.wait()
        if self._error is not None:
            lines = str(self._error).strip().splitlines() or ["no reason given"]
            message = f"Ray at {self.job.address!r} did not start: {lines[0]}"
            raise RunFailedError(f"{message}; check --address, or leave it out") from self._error

    def read_capacity(self) -> Capacity:
        """What the cluster has, and can grow to; call `wait` first."""
        import ray

        nodes = Counter(Node.of(node["Resources"]) for node in ray.nodes() if node["Alive"])
        return Capacity(nodes, None if self.job.address == "local" else _read_largest())

    def explain_wait(self, *, on_gpus: bool, scorer_cpus: float = 0) -> str:
        """What a run waits for when no shard comes, in words; its scorers reserve `scorer_cpus` each."""
        import ray

        nodes = self.read_capacity().nodes
        if on_gpus and not any(node.num_scorers(self.job.gpus_per_worker) for node in nodes):
            return "a GPU node: the cluster has none"
        if not any(node.cpus - (scorer_cpus if node.gpus else 0) >= 1 for node in nodes):
            return "a CPU node: the cluster has none"
        total, free = ray.cluster_resources(), ray.available_resources()
        kinds = ("CPU", "GPU") if on_gpus else ("CPU",)
        room = " and ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in kinds)
        return f"a shard: {count_scorers()} scoring workers up, {room} free"


def _read_largest() -> Counter[Node] | None:
    """The nodes of the cluster at its largest, from Ray's own store or from what `ray up` left here."""
    kinds = [(Node.of(resources), number) for resources, number in read_node_groups()]
    if not kinds:
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
    """Raises OSError where nothing listens at `HOST:PORT`; Ray would try for minutes, deaf to signals."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        with socket.create_connection((host, int(port)), CONNECT_S):
            pass
