"""How long a run would take, and what it would cost, before it is made: a calibration, and arithmetic.

    maskbatch estimate ARCHIVE... --cluster cluster.yaml --gpu-rate 2500 --price score=0.40

The time is start + listing + images / pace + commit and report; the pace is that of the slower of
decoding (on cores) and scoring (on GPUs, or on the same cores).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from maskbatch.cluster.launcher import NodeType, read_nodes, read_prices
from maskbatch.cluster.nodes import Capacity, Node
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.estimate.calibration import Calibration, calibrate
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

RANGE = 0.25
"""Share by which the time may be off, sampling aside: what `python -m tests.benchmarks.estimate` asks for."""


NODES_S = 300.0
"""Until the nodes of a cluster are up and set up; assumed."""


END_S = 4.0
"""Python's start, Ray's end, and what commit and report take however few the images are."""


IMAGE_S = 12e-6
"""Of the driver, an image: 2 us to write the plan, 6 to commit, 4 to report; measured on one core."""


SHARD_S = 1.4e-3
"""Of the driver, a shard, at the commit."""


STEPS = ("read", "decode", "score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run would take, and what that rests on."""

    calibration: Calibration
    nodes: list[NodeType]
    """Of the cluster, at most; none: this machine."""
    seconds: dict[str, float]
    """By phase of the run."""
    images_per_s: float
    """While scoring."""
    paces: dict[str, float]
    """Images a second that each kind of worker is good for, as far as that is known."""
    limit: str
    """What the run waits for most."""
    margin: float
    """By which share its time may be off."""
    cost: float | None
    """Of the nodes that have a price, in its currency."""
    unpriced: list[str]
    """Node types that the cost leaves out."""
    assumptions: list[str]

    @property
    def whole_s(self) -> float:
        return sum(self.seconds.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        hours = self.whole_s / 3600
        return {
            **asdict(self),
            "calibration": asdict(self.calibration) | {"listing": self.calibration.listing.as_dict()},
            "hours": hours,
            "hours_low": hours / (1 + self.margin),
            "hours_high": hours * (1 + self.margin),
        }


def estimate_run(
    plan_config: PlanConfig,
    score_config: ScoreConfig,
    job: JobConfig,
    *,
    cluster: Path | None = None,
    gpu_rate: float | None = None,
    prices: Sequence[str] = (),
    checkpoint: str | None = None,
    options: StorageOptions = NO_OPTIONS,
    verbose: bool = False,
) -> Estimate:
    """Calibrate on this machine, and project to the cluster of a launcher file, or to this machine as it is.

    gpu_rate: images a second of one GPU there. prices: `TYPE=PER_HOUR`, TYPE a node type or InstanceType.
    Raises UsageError, before anything is listed, for flags or a cluster file that cannot be used.
    """
    if cluster is None and (prices or gpu_rate is not None):
        raise UsageError("--price and --gpu-rate speak of a cluster; name its file with --cluster")
    if gpu_rate is not None and not gpu_rate > 0:
        raise UsageError(f"--gpu-rate {gpu_rate:g}: images a second of one GPU expected, more than 0")
    nodes = read_nodes(cluster) if cluster else []
    per_hour = read_prices(prices, nodes)
    job = replace(job, address="local")
    on_cpus = nodes and not _workforce(nodes, job)[1]
    measured = calibrate(
        plan_config,
        score_config,
        replace(job, gpus_per_worker=0) if on_cpus else job,
        checkpoint=checkpoint,
        options=options,
        verbose=verbose,
    )
    return project(measured, nodes, job, gpu_rate, per_hour)


def project(
    measured: Calibration,
    nodes: list[NodeType],
    job: JobConfig,
    gpu_rate: float | None,
    per_hour: Mapping[str, float],
) -> Estimate:
    """What the run takes on `nodes` at most, or without any on the machine that was measured.

    per_hour: price by name of node type, of those that have one.
    """
    cores, gpus = _workforce(nodes, job) if nodes else (measured.cores, measured.gpus)
    paces = _paces(measured, cores, gpus, gpu_rate)
    slowest = min(paces, key=lambda name: paces[name])
    pace = paces[slowest] if nodes else min(paces[slowest], measured.images_per_s)
    num_images = measured.listing.num_images
    seconds = {
        "start": measured.start_s + (NODES_S if nodes else 0),
        "listing": measured.listing_s,
        "scoring": (num_images - (0 if nodes else measured.num_started)) / pace,
        "commit and report": END_S + IMAGE_S * num_images + SHARD_S * measured.num_shards,
    }
    longest = max(seconds, key=lambda name: seconds[name])
    hours = sum(seconds.values()) / 3600
    costs = [hours * node.max_nodes * per_hour[node.name] for node in nodes if node.name in per_hour]
    return Estimate(
        calibration=measured,
        nodes=nodes,
        seconds=seconds,
        images_per_s=pace,
        paces=paces,
        limit=slowest if longest == "scoring" else longest,
        margin=RANGE + measured.spread,
        cost=sum(costs) if costs else None,
        unpriced=[node.name for node in nodes if node.name not in per_hour and node.max_nodes],
        assumptions=list(_assumptions(measured, bool(nodes), gpus, gpu_rate, bool(costs))),
    )


def _workforce(nodes: Sequence[NodeType], job: JobConfig) -> tuple[float, float]:
    """Cores that decode, and GPUs that score, when every node is up."""
    shapes: Counter[Node] = Counter()
    for node in nodes:
        shapes[Node(node.num_cpus, node.num_gpus)] += node.max_nodes
    capacity, share = Capacity(+shapes), job.gpus_per_worker
    cores, scorers = capacity.num_decoders(share), capacity.num_scorers(share)
    return min(cores, job.max_workers or cores), min(scorers, job.max_scorers or scorers) * share


def _paces(measured: Calibration, cores: float, gpus: float, gpu_rate: float | None) -> dict[str, float]:
    """Images a second that each kind of worker is good for; GPUs are left out where theirs is not known."""
    core_s = measured.cores / measured.images_per_s  # an image's, with all that Ray takes here
    worker_s = measured.read_s + measured.decode_s
    if not gpus:
        return {"cores": cores / core_s}
    if measured.gpus:
        decode_s = min(core_s, worker_s)  # the cores may have waited for the GPU
        gpu_rate = gpu_rate or _gpu_rate(measured)
    else:
        decode_s = core_s * worker_s / (worker_s + measured.score_s)
    return {"decoding cores": cores / decode_s} | ({"GPUs": gpus * gpu_rate} if gpu_rate else {})


def _gpu_rate(measured: Calibration) -> float:
    """Images a second of one GPU here: as it came out, or as its calls took where it waited for decoding."""
    return max(measured.images_per_s / measured.gpus, 1 / measured.score_s)


def _assumptions(
    measured: Calibration, on_cluster: bool, gpus: float, gpu_rate: float | None, has_cost: bool
) -> Iterator[str]:
    yield "The whole archive is like the sample, drawn at random in groups of neighbours."
    if not on_cluster:
        yield "This machine is as free during the run as it was just now."
        return
    yield f"A core there does what one of the {measured.cores} cores here does."
    yield "Reading and listing are as fast from there as from here, for all nodes at once."
    yield f"Every node is up from the start, which takes {NODES_S / 60:.0f} min, and none is lost."
    if gpus:
        yield "Pixels reach the GPUs as fast as they are decoded."
        if gpu_rate or measured.gpus:
            rate, source = (gpu_rate, "as given") if gpu_rate else (_gpu_rate(measured), "as measured here")
            yield f"A GPU there scores {rate:,.0f} images a second, {source}."
        else:
            yield "GPUs keep up with decoding; there is none here to measure: give --gpu-rate if you know it."
    if has_cost:
        yield "Every node is paid for from start to end; storage, requests and traffic are not counted."


def describe_estimate(made: Estimate) -> Iterator[str]:
    """The estimate as a person reads it."""
    measured, low, high = made.calibration, 1 / (1 + made.margin), 1 + made.margin
    statuses = ", ".join(f"{name} {number:,}" for name, number in measured.statuses.items())
    steps = ", ".join(f"{1e3 * getattr(measured, f'{name}_s'):.1f} to {name}" for name in STEPS)
    yield f"Sample, scored here: {statuses}; {measured.images_per_s:,.0f} images/s; ms of a worker: {steps}."
    for node in made.nodes:
        name = f"{node.name} ({node.instance})" if node.instance else node.name
        gpus = f", {node.num_gpus} GPU" if node.num_gpus else ""
        yield f"Nodes: {name}, {node.min_nodes} to {node.max_nodes}, each {node.num_cpus} CPU{gpus}."
    phases = ", ".join(f"{name} {_time(seconds)}" for name, seconds in made.seconds.items())
    whole_s = made.whole_s
    yield f"Time: {_time(whole_s)} ({_time(low * whole_s)} to {_time(high * whole_s)}): {phases}."
    paces = " and ".join(f"{pace:,.0f} by the {name}" for name, pace in made.paces.items())
    yield f"Scoring: {made.images_per_s:,.0f} images/s ({paces}). The limit: {made.limit}."
    if made.cost is not None:
        left_out = f"; left out, without a price: {', '.join(made.unpriced)}" if made.unpriced else ""
        yield f"Cost: {made.cost:,.2f} ({low * made.cost:,.2f} to {high * made.cost:,.2f}){left_out}."
    yield "Assumed, and not in the range:"
    yield from (f"- {sentence}" for sentence in made.assumptions)


def _time(seconds: float) -> str:
    """In the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
