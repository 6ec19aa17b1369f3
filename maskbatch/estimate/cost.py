"""How long a run will take and what it will cost, from a calibration on this machine.

    maskbatch estimate ARCHIVE... --cluster cluster.yaml --gpu-rate 2500 --price score=0.40

Time is start + listing + images / pace + commit and report. The pace is the slower one of decoding (on cores)
and scoring (on GPUs, or on the same cores).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from maskbatch.cluster.launcher import NodeType, read_nodes, read_prices
from maskbatch.cluster.nodes import Capacity, Node
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig, check_decoder
from maskbatch.errors import UsageError
from maskbatch.estimate.calibration import Calibration, calibrate
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

RANGE = 0.25
"""The share by which the time may be off, sampling aside; `python -m tests.benchmarks.estimate` checks it."""
NODES_S = 300.0
"""Until the nodes of a cluster are ready; assumed."""
END_S = 4.0
"""Python's start, Ray's end, and commit and report of hardly any image."""
IMAGE_S = 12e-6
"""The driver's time for an image: 2 us to write the plan, 6 to commit, 4 to report; measured on one core."""
SHARD_S = 1.4e-3
"""The driver's time to commit a shard."""
SORT_S = 3e-4
"""A core's time for an image that a GPU decodes, beside reading it: .29 ms for 180 KB, .08 for 20."""
STEPS = ("read", "decode", "score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The time and cost of a run, with the measurements and assumptions behind them."""

    calibration: Calibration
    nodes: list[NodeType]
    """The largest cluster; empty for this machine."""
    seconds: dict[str, float]
    """By phase of the run."""
    images_per_s: float
    """While scoring."""
    paces: dict[str, float]
    """Images a second that each kind of worker can do, where that is known."""
    limit: str
    """What the run waits for most."""
    margin: float
    """The share by which the time may be off."""
    cost: float | None
    """For the nodes that have a price, in its currency."""
    unpriced: list[str]
    """Node types that the cost leaves out."""
    assumptions: list[str]

    @property
    def whole_s(self) -> float:
        return sum(self.seconds.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        hours, factor = self.whole_s / 3600, 1 + self.margin
        time = {"hours": hours, "hours_low": hours / factor, "hours_high": hours * factor}
        calibration = asdict(self.calibration) | {"listing": self.calibration.listing.as_dict()}
        return {**asdict(self), "calibration": calibration, **time}


def estimate_run(
    plan_config: PlanConfig,
    score_config: ScoreConfig,
    job: JobConfig,
    *,
    cluster: Path | None = None,
    gpu_rate: float | None = None,
    prices: Sequence[str] = (),
    checkpoint: str | None = None,
    detector: str | None = None,
    options: StorageOptions = NO_OPTIONS,
    verbose: bool = False,
) -> Estimate:
    """Calibrate on this machine, and estimate the run on it, or on the cluster of a launcher file.

    `gpu_rate`: images a second of one GPU there. `prices`: `TYPE=PER_HOUR`, TYPE a node type or InstanceType.
    Raises UsageError for unusable options or an unusable cluster file, before anything is listed, and where
    no image of the sample can be scored. GPUs that decode need a `gpu_rate`, or one of them here.
    """
    check_decoder(score_config, job)
    if cluster is None and (prices or gpu_rate is not None):
        raise UsageError("--price and --gpu-rate are for a cluster; name its file with --cluster")
    if gpu_rate is not None and not gpu_rate > 0:
        raise UsageError(f"--gpu-rate {gpu_rate:g}: images a second of one GPU expected, more than 0")
    nodes = read_nodes(cluster) if cluster else []
    per_hour = read_prices(prices, nodes)
    job = replace(job, address="local")
    on_cpus = nodes and not _workforce(nodes, job)[1]
    if on_cpus and score_config.decoder == "gpu":
        what = f"--decoder gpu: the nodes of {cluster} have no GPU that scores"
        raise UsageError(f"{what}; leave it out, or name the file of a cluster that has")
    here = replace(job, gpus_per_worker=0) if on_cpus else job
    measured = calibrate(
        plan_config,
        score_config,
        here,
        checkpoint=checkpoint,
        detector=detector,
        options=options,
        needs_gpu=gpu_rate is None,
        verbose=verbose,
    )
    return project(measured, nodes, job, gpu_rate, per_hour, decoder=score_config.decoder)


def project(
    measured: Calibration,
    nodes: list[NodeType],
    job: JobConfig,
    gpu_rate: float | None,
    per_hour: Mapping[str, float],
    *,
    decoder: str = "cpu",
) -> Estimate:
    """The run on `nodes`, as many as there may be, or without any on the measured machine.

    `per_hour`: prices by name of node type.
    """
    cores, gpus = _workforce(nodes, job) if nodes else (measured.cores, measured.gpus)
    paces = _paces(measured, cores, gpus, gpu_rate, decoder)
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
        assumptions=list(_assumptions(measured, bool(nodes), gpus, gpu_rate, decoder, bool(costs))),
    )


def _workforce(nodes: Sequence[NodeType], job: JobConfig) -> tuple[float, float]:
    """How many cores decode and GPUs score when every node is up."""
    shapes: Counter[Node] = Counter()
    for node in nodes:
        shapes[Node(node.num_cpus, node.num_gpus)] += node.max_nodes
    capacity, share = Capacity(+shapes), job.gpus_per_worker
    cores, scorers = capacity.num_decoders(share), capacity.num_scorers(share)
    return min(cores, job.max_workers or cores), min(scorers, job.max_scorers or scorers) * share


def _paces(
    measured: Calibration, cores: float, gpus: float, gpu_rate: float | None, decoder: str
) -> dict[str, float]:
    """Images a second that each kind of worker can do; GPUs are left out where their pace is unknown."""
    core_s = measured.cores / measured.images_per_s  # for an image, with Ray's own work
    worker_s = measured.read_s + measured.decode_s
    if not gpus:
        return {"cores": cores / core_s}
    name = "decoding cores" if decoder == "cpu" else "reading cores"
    if measured.gpus:
        own_s = min(core_s, worker_s)  # the cores may have waited for the GPU
        gpu_rate = gpu_rate or _gpu_rate(measured)
    else:  # then the cores decoded here
        own_s = worker_s if decoder == "cpu" else measured.read_s + SORT_S
        own_s *= core_s / (worker_s + measured.score_s)
    return {name: cores / own_s} | ({"GPUs": gpus * gpu_rate} if gpu_rate else {})


def _gpu_rate(measured: Calibration) -> float:
    """Images a second of one GPU here: as observed, or by its calls alone where it waited for decoding."""
    return max(measured.images_per_s / measured.gpus, 1 / measured.score_s)


def _assumptions(
    measured: Calibration,
    on_cluster: bool,
    gpus: float,
    gpu_rate: float | None,
    decoder: str,
    has_cost: bool,
) -> Iterator[str]:
    yield "The whole archive resembles the sample of random groups of neighbours."
    if not on_cluster:
        yield "This machine is as idle during the run as it was just now."
        return
    yield f"A core there is as fast as one of the {measured.cores} cores here."
    yield "Listing and reading are as fast there as here, also for all nodes at once."
    yield f"All nodes start at once, within {NODES_S / 60:.0f} min, and none is lost."
    if gpus:
        if decoder == "cpu":
            yield "Pixels reach the GPUs as fast as cores decode them."
        else:
            yield "Bytes reach the GPUs as fast as cores read them."
        if decoder == "gpu" and not measured.gpus:
            yield "GPUs decode every image, which could not be tried here: none is a PNG, or progressive."
        if gpu_rate or measured.gpus:
            rate, source = (gpu_rate, "as given") if gpu_rate else (_gpu_rate(measured), "as measured here")
            does = "scores" if decoder == "cpu" else "decodes and scores"
            yield f"A GPU there {does} {rate:,.0f} images a second, {source}."
        else:
            yield "GPUs keep up with decoding; none could be measured here: give --gpu-rate if you know it."
    if has_cost:
        yield "Every node costs from start to end; storage, requests and traffic are not included."


def describe_estimate(estimate: Estimate) -> Iterator[str]:
    """The estimate in sentences, a line each."""
    measured, whole_s, cost = estimate.calibration, estimate.whole_s, estimate.cost
    low, high = 1 / (1 + estimate.margin), 1 + estimate.margin
    statuses = ", ".join(f"{name} {number:,}" for name, number in measured.statuses.items())
    steps = ", ".join(f"{1e3 * getattr(measured, f'{name}_s'):.1f} to {name}" for name in STEPS)
    pace = f"{measured.images_per_s:,.0f} images/s"
    yield f"Sample, scored here: {statuses}; {pace}; a worker's ms for an image: {steps}."
    for node in estimate.nodes:
        name = f"{node.name} ({node.instance})" if node.instance else node.name
        gpus = f", {node.num_gpus} GPU" if node.num_gpus else ""
        yield f"Nodes: {name}, {node.min_nodes} to {node.max_nodes}, each {node.num_cpus} CPU{gpus}."
    phases = ", ".join(f"{name} {_time(seconds)}" for name, seconds in estimate.seconds.items())
    yield f"Time: {_time(whole_s)} ({_time(low * whole_s)} to {_time(high * whole_s)}): {phases}."
    paces = " and ".join(f"{pace:,.0f} by the {name}" for name, pace in estimate.paces.items())
    yield f"Scoring: {estimate.images_per_s:,.0f} images/s ({paces}). The bottleneck: {estimate.limit}."
    if cost is not None:
        unpriced = ", ".join(estimate.unpriced)
        left_out = f"; left out, without a price: {unpriced}" if unpriced else ""
        yield f"Cost: {cost:,.2f} ({low * cost:,.2f} to {high * cost:,.2f}){left_out}."
    yield "Assumptions, which the range does not cover:"
    yield from (f"- {sentence}" for sentence in estimate.assumptions)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
