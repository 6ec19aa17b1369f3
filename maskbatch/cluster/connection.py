"""The Ray cluster of a run: started or joined, its nodes, what it lacks."""

import logging
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from maskbatch.cluster.launcher import read_nodes
from maskbatch.cluster.nodes import UNBOUNDED, Capacity, Node
from maskbatch.cluster.ray_internals import count_scorers, read_node_groups
from maskbatch.config import JobConfig
from maskbatch.errors import FAILED, RunFailedError, UsageError
from maskbatch.progress import quiet_output, say

CONNECT_S = 10.0
PULSE_S = 2.0
"""How often we see whether Ray still lives."""
SILENT_S = 40.0
"""When nobody has taken the news of Ray's death for so long, say it at once."""
STOP_S = 10.0
"""What we give a dead Ray to stop."""
FROZEN_STOP_S = 30.0
"""What we give any Ray to stop, where an error waits to be told: a frozen one never does."""
START_S = 300.0
"""What we give Ray at least to start, which bounds its own steps below that."""
THREAD_NAME = "ray"
LONGEST_FOLDER_BYTES = 107 - 70
"""The kernel takes sockets of 107 bytes; below a folder, Ray needs 70 for its session and the socket."""
SHORT_FOLDER = "/tmp/ray"  # noqa: S108  Ray's own default
LAUNCHER_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""What `ray up` leaves on the head."""


class Cluster:
    """A Ray cluster, started or joined in the background while the archive is listed."""

    def __init__(self, job: JobConfig, *, verbose: bool) -> None:
        self.job, self.verbose = job, verbose
        self._error: Exception | None = None
        self._in_use = False
        """Until a run waits for Ray, its death ends nothing: planning goes on."""
        self._quiet = ExitStack()
        self._ready, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name=THREAD_NAME, daemon=True)

    def __enter__(self) -> Self:
        if not self.verbose:
            self._quiet.enter_context(quiet_output())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave.set()
        # A dead Ray may not notice that we leave; `is_stuck` tells the program, which then ends by itself.
        self._thread.join(STOP_S if self._error else FROZEN_STOP_S if kind else None)
        self._quiet.close()

    def _hold(self) -> None:
        """Start Ray, and stay: the kernel ends Ray's processes with the thread that started them."""
        owned, ports = False, dict[str, tuple[str, int]]()
        try:
            owned = self._start()
            ports = _list_ports(self.job.address)
        except Exception as error:  # whatever it is, `wait` raises it
            self._error = error
        finally:
            self._ready.set()
        while self._error is None and not self._leave.wait(PULSE_S):
            self._error = _find_death(ports)
        if self._error and self._in_use:
            # Whoever waits for Ray in this process hears of it from `check`, or waits in Ray itself, which
            # ends the process a minute after its GCS died.
            if not self._leave.wait(SILENT_S):
                say(f"maskbatch: {self._error}", "error", exit_code=FAILED)
            self._leave.wait()
        if owned:
            import ray

            ray.shutdown()

    def _start(self) -> bool:
        """Start or join Ray; whether it is ours to shut down."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Its handler would abort this process at a SIGTERM, which is ours to hear.
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        # The next driver waits so long for what a killed one had of the cluster; Ray's default is 180.
        os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "60")
        import ray

        owned = not ray.is_initialized()
        if owned:
            _check_address(self.job.address)
            ray.init(
                _temp_dir=_choose_folder() if self.job.address == "local" else None,
                address=self.job.address,
                log_to_driver=self.verbose,
                logging_level=logging.INFO if self.verbose else logging.ERROR,
                include_dashboard=False if self.job.address == "local" else None,
            )
        import ray.data  # takes a second, during which the plan is made

        return owned

    def wait(self) -> None:
        """Wait for Ray. Raises RunFailedError where it did not start, or is dead."""
        if not self._ready.is_set():
            say("score: waiting for Ray to start")
        if not self._ready.wait(limit_s := max(START_S, self.job.stall_timeout_s)):
            remedy = "see whether its machine hangs, then run the same command to go on"
            raise RunFailedError(f"Ray at {self.job.address!r} did not start in {limit_s:.0f} s; {remedy}")
        self._in_use = True
        self.check()

    def check_soon(self) -> None:
        """As `check`, of a Ray that was seen to fail: its death may be a moment old."""
        end = time.monotonic() + 3 * PULSE_S
        while time.monotonic() < end and not self.is_dead:
            time.sleep(PULSE_S / 4)
        self.check()

    @property
    def is_dead(self) -> bool:
        """Whether Ray did not start, or has died."""
        return self._error is not None

    def check(self) -> None:
        """Raises RunFailedError where Ray did not start, or is dead."""
        if isinstance(self._error, RunFailedError):
            raise self._error
        if self._error is not None:
            raise RunFailedError(_explain_start(self.job.address, self._error)) from self._error

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


def _explain_start(address: str, error: Exception) -> str:
    """Why Ray did not start, without the name of its session, which has a time in it."""
    first = (str(error).strip().splitlines() or ["no reason given"])[0]
    first = re.sub(r"\S*session_\d{4}-\S*", "of its session", first).rstrip(".")
    remedy = "check --address, or leave it out"
    if address == "local":
        remedy = "a process of Ray ended or took too long: see that memory is free, then run the same command"
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            remedy = "set RAY_TMPDIR to a folder of a short name that you may write"
    return f"Ray at {address!r} did not start: {first}; {remedy}"


def is_stuck() -> bool:
    """Whether a Ray that we left has not stopped: its own handler at exit would wait for it for ever."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


def _choose_folder() -> str | None:
    """Where Ray has its sockets; None for where it likes, unless their names would be too long there."""
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or ""
    return SHORT_FOLDER if len(os.fsencode(usual)) > LONGEST_FOLDER_BYTES else None


def _list_ports(address: str) -> dict[str, tuple[str, int]]:
    """Where the two processes of Ray answer without which this driver cannot go on, by what to call them."""
    import ray

    if address.startswith("ray://"):  # the driver's own process is on the cluster, and has them there
        return {}
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    head = "Ray on this machine" if address == "local" else "the head of the Ray cluster"
    return {
        f"{head} died (its GCS does not answer)": (host.strip("[]"), int(port)),
        "Ray on this machine died (its raylet does not answer)": (
            here["NodeManagerAddress"],
            here["NodeManagerPort"],
        ),
    }


def _find_death(ports: Mapping[str, tuple[str, int]]) -> RunFailedError | None:
    """The error where a process of Ray is gone: nothing listens at its port, twice.

    Without a raylet a driver waits for ever; without the GCS, Ray ends the driver after a minute, silently.
    """
    for sentence, port in ports.items():
        with suppress(OSError):  # a network that fails for a while is Ray's to judge
            try:
                socket.create_connection(port, CONNECT_S).close()
            except ConnectionRefusedError:
                time.sleep(PULSE_S / 2)
                try:
                    socket.create_connection(port, CONNECT_S).close()
                except ConnectionRefusedError:
                    return RunFailedError(f"{sentence}; the same command goes on where it stopped")
    return None


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
