"""The Ray cluster of a run: started or joined, what nodes it has, what it can grow to, what it lacks."""

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from maskbatch.config import JobConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.nodes import read_nodes
from maskbatch.progress import quiet_output

CONNECT_S = 10.0
SCORER_CPUS = 0.001
"""Enough that one core of a GPU node is never filled with decoding, and so little that Ray Data, which keeps
cores for actors that may come, keeps none."""
UNBOUNDED = 10**6
"""More nodes of a kind than anyone means: Kubernetes has 2**31 - 1 where no maximum is set."""
LAUNCHER_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""What `ray up` leaves on the head."""


class Node(NamedTuple):
    """The shape of a node."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> "Node":
        return cls(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))

    def num_scorers(self, gpus_each: float) -> int:
        """Scoring actors that its GPUs hold."""
        return int(self.gpus / gpus_each + 1e-6) if gpus_each else 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """The nodes of a cluster by shape: those that are there, and those at its largest, if it says so."""

    nodes: Counter[Node]
    largest: Counter[Node] | None = None

    @property
    def cpus(self) -> float:
        return sum(node.cpus * number for node, number in self.nodes.items())

    @property
    def gpus(self) -> float:
        return sum(node.gpus * number for node, number in self.nodes.items())

    @property
    def max_cpus(self) -> float | None:
        """CPUs at its largest; None where it does not say, or sets no bound."""
        return None if self.largest is None else max(self.cpus, Capacity(self.largest).cpus)

    @property
    def max_gpus(self) -> float | None:
        """GPUs at its largest; None where it does not say, or sets no bound."""
        return None if self.largest is None else max(self.gpus, Capacity(self.largest).gpus)

    def num_workers(self) -> int:
        """Decoding workers that it holds at its largest, as far as that is known; one a core."""
        return max(sum(int(node.cpus) * n for node, n in nodes.items()) for nodes in self._known())

    def num_scorers(self, gpus_each: float) -> int:
        """Scoring actors that it holds at its largest, as far as that is known."""
        return max(
            sum(node.num_scorers(gpus_each) * n for node, n in nodes.items()) for nodes in self._known()
        )

    def scorer_cpus(self, gpus_each: float) -> float:
        """Of a core, what a scorer reserves: SCORER_CPUS, or 0 where that would take decoding's own."""
        known = {node for nodes in self._known() for node in nodes}
        scoring = [node for node in known if node.num_scorers(gpus_each)]
        decoding = any(node.cpus >= 1 and not node.gpus for node in known)
        return SCORER_CPUS if decoding and scoring and all(node.cpus >= 1 for node in scoring) else 0.0

    def num_decoders(self, gpus_each: float) -> int:
        """Cores that decode while others score on its GPUs."""
        scorer_cpus = self.scorer_cpus(gpus_each)
        return sum(
            int(node.cpus - scorer_cpus * node.num_scorers(gpus_each)) * n for node, n in self.nodes.items()
        )

    def _known(self) -> list[Counter[Node]]:
        return [self.nodes, self.largest or Counter()]


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
