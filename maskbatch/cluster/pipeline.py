"""The Ray Data job: shards in, staged shards out; how many CPUs, GPUs and actors it takes.

    on CPUs   shard numbers -> Scorer actor, one a core: read, decode, score, stage
    on GPUs   shard numbers -> decode task on a CPU -> Scorer actor on a GPU: score, stage

A row is one block: numbers of shards, the more the larger the archive is, or one decoded shard.
Pixels cross the object store only on the way to a GPU, as uint8.
When a node dies, Ray runs again what was lost with it: tasks, actors with their work, decoded images.
"""

import logging
import queue
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from maskbatch import errors
from maskbatch.cluster.connection import PULSE_S, Cluster
from maskbatch.cluster.nodes import Capacity
from maskbatch.cluster.ray_internals import MAX_STOP_S, fill_cpu_nodes_first, stop_execution
from maskbatch.cluster.workers import Scorer, ShardDone, decode
from maskbatch.config import JobConfig
from maskbatch.decode.watch import WALL_FACTOR, forget
from maskbatch.errors import MaskbatchError, RunFailedError
from maskbatch.plan.shards import Crew
from maskbatch.progress import say
from maskbatch.runs import staging
from maskbatch.runs.work import Work
from maskbatch.schema import DECODE_WALL_FACTOR

WORKER_CPUS = 0.99
"""Of a core, for a worker that decodes and scores: one fits, and a little stays for Ray's own tasks."""
DECODE_CPUS = 1.0
CALLS_PER_ACTOR = 2
"""One decodes and scores, the other reads its first images or stages its rows."""
PATIENCE_S = 30.0
"""When nothing came for so long, log what we are waiting for; again every REPEAT_S."""
REPEAT_S = 60.0
ROWS = 2000
"""The driver gets slower and larger with the rows that it starts with: 10,000 take 13 s, 100,000 127 s."""
ROW_IMAGES = 512
"""In a row at least where GPUs decode: reading takes little, and the driver passes 40 rows a second."""
MAX_ACTORS = 1000
"""Where nobody says how far a cluster grows."""
Done = queue.Queue[ShardDone | BaseException | None]


@dataclass(frozen=True, slots=True)
class Pools:
    """How many actors score, and on what."""

    on_gpus: bool
    start: int
    """Actors that start at once; if the cluster cannot hold them yet, they wait for nodes."""
    most: int
    """Actors at most, when nodes join that nobody announced."""
    scorer_cpus: float
    """Share of a core that each reserves on a GPU node, so that not all of its cores decode."""

    @classmethod
    def of(cls, capacity: Capacity, job: JobConfig, num_shards: int) -> "Pools":
        scorers = _count_scorers(capacity, job)
        on_gpus = scorers > 0
        asked = job.max_scorers if on_gpus else job.max_workers
        bound = min(asked or num_shards, num_shards)
        start = min(bound, max(1, scorers if on_gpus else capacity.num_workers()))
        most = max(start, min(bound, MAX_ACTORS))
        return cls(on_gpus, start, most, capacity.scorer_cpus(job.gpus_per_worker))


def find_crew(cluster: Cluster) -> Crew:
    """Who decodes and scores in a cluster; call its `wait` first."""
    capacity, job = cluster.read_capacity(), cluster.job
    num_workers = max(1, capacity.num_workers())
    return Crew(min(job.max_workers or num_workers, num_workers), _count_scorers(capacity, job) > 0)


def _count_scorers(capacity: Capacity, job: JobConfig) -> int:
    """Actors that GPUs hold, or come to hold."""
    scorers = capacity.num_scorers(job.gpus_per_worker)
    if job.gpus_per_worker and capacity.largest is None and job.address != "local":
        return max(scorers, job.max_scorers or 0)  # a cluster that does not say what it can grow to
    return scorers


def cut_rows(shards: Sequence[int], num_workers: int, least: int = 1) -> list[list[int]]:
    """Shards in rows, each of which one call of a worker takes: some ROWS of them, however many there are.

    The first hold one shard, so that every worker begins at once, the next ones more; the last get smaller,
    so that all end together. Those between hold `least` or more.
    """
    rows: list[list[int]] = []
    most, at = max(least, -(-len(shards) // ROWS)), 0
    while at < len(shards):
        fair = (len(shards) - at) // (2 * num_workers)
        first = 2 ** min(16, len(rows) // (CALLS_PER_ACTOR * num_workers))
        size = max(1, min(most, fair, first))
        rows.append(list(shards[at : at + size]))
        at += size
    return rows


def score_shards(cluster: Cluster, work: Work, shards: Sequence[int]) -> Iterator[ShardDone]:
    """Score `shards`, yielding each once it is staged, in any order; logs what it waits for when none comes.

    Raises RunFailedError when the job fails or stages nothing for `stall_timeout_s`; what is staged stays.
    """
    pools = Pools.of(cluster.read_capacity(), cluster.job, len(shards))
    done: Done = queue.Queue()
    signs = staging.list_signs(work.run.staging)
    dataset = _build_dataset(cluster, work, shards, pools)
    thread = threading.Thread(target=_drain, args=(dataset, done), daemon=True)
    thread.start()
    try:
        while (item := _wait(cluster, work, done, pools, signs)) is not None:
            if isinstance(item, BaseException):
                raise _translate(cluster, item) from item
            yield item
    finally:
        if not cluster.is_dead:  # which would hold us until Ray ends this process
            stop_execution(dataset)
            thread.join(MAX_STOP_S)
        forget(work.call)


def _wait(
    cluster: Cluster, work: Work, done: Done, pools: Pools, signs: set[str]
) -> ShardDone | BaseException | None:
    """What comes next. Raises RunFailedError after `stall_timeout_s` without it or a sign of a worker.

    `signs` are those seen before, and grow: shards of a row that is not whole yet are signs. A worker that an
    image holds up gives no sign before it is ended and started again.
    """
    hang_s = cluster.job.decode_timeout_s
    stall_s = max(cluster.job.stall_timeout_s, 2 * WALL_FACTOR * hang_s + PATIENCE_S)
    checked = time.monotonic()
    end = checked + stall_s
    patience_s = PATIENCE_S
    while True:
        try:
            return _get(cluster, done, max(0.0, min(patience_s, end - time.monotonic())))
        except queue.Empty:
            new = staging.list_signs(work.run.staging) - signs
            signs |= new
            before, checked = checked, time.monotonic()
            if any(map(staging.is_slow_sign, new)):
                say("score: waiting for images that ended their worker, or take long; each is tried apart")
                end = time.monotonic() + max(stall_s, 2 * DECODE_WALL_FACTOR * hang_s)
                continue
            if new:  # some time since the check before
                end, patience_s = before + stall_s, PATIENCE_S
                continue
            missing = cluster.explain_wait(on_gpus=pools.on_gpus, scorer_cpus=pools.scorer_cpus)
        left_s = end - time.monotonic()
        if left_s <= 0:
            what = f"nothing was scored for {stall_s:.0f} s, waiting for {missing}"
            remedy = "mend that (--verbose shows of what workers die), then run the same command to go on"
            raise RunFailedError(f"{what}; {remedy}")
        about = f"{left_s:.0f} s" if left_s < 90 else f"{left_s / 60:.0f} min"
        say(f"score: waiting for {missing} (gives up in {about})")
        patience_s = REPEAT_S


def _get(cluster: Cluster, done: Done, timeout_s: float) -> ShardDone | BaseException | None:
    """What comes next. Raises queue.Empty, and RunFailedError where Ray has died."""
    end = time.monotonic() + timeout_s
    while (left_s := end - time.monotonic()) > PULSE_S:
        with suppress(queue.Empty):
            return done.get(timeout=PULSE_S)
        cluster.check()
    return done.get(timeout=max(0.0, left_s))


def _build_dataset(cluster: Cluster, work: Work, shards: Sequence[int], pools: Pools) -> Any:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = cluster.verbose
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = -1  # `_wait` has its own
    if not cluster.verbose:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"ray\.")
    least = ROW_IMAGES // work.shard_size if work.config.decoder == "gpu" else 1
    rows = [{"shards": row} for row in cut_rows(shards, find_crew(cluster).num_workers, least)]
    # Not from_arrow: it runs a task for each block, in the workers that were warmed up for the actors.
    source = ray.data.from_items(rows, override_num_blocks=len(rows))
    if not pools.on_gpus:
        return _map_actors(source, work, pools, device="cpu", num_cpus=WORKER_CPUS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scheduling_strategy
        decoded = source.map_batches(
            decode,
            fn_kwargs={"work": work},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS / (CALLS_PER_ACTOR if work.is_remote else 1),
            max_retries=-1,  # as actors have it; `Watch` counts
            compute=ray.data.TaskPoolStrategy(cluster.job.max_workers),
            **fill_cpu_nodes_first(),
        )
    gpus = cluster.job.gpus_per_worker
    return _map_actors(decoded, work, pools, device=None, num_cpus=pools.scorer_cpus, num_gpus=gpus)


def _map_actors(source: Any, work: Work, pools: Pools, *, device: str | None, **resources: Any) -> Any:
    import ray

    return source.map_batches(
        Scorer,
        fn_constructor_kwargs={"work": work, "device": device},
        batch_size=1,
        batch_format="pyarrow",  # what was decoded lies in shared memory, and is not copied
        compute=ray.data.ActorPoolStrategy(
            min_size=pools.start,
            initial_size=pools.start,
            max_size=pools.most,
            max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
            enable_true_multi_threading=True,
        ),
        **resources,
    )


def _drain(dataset: Any, done: Done) -> None:
    """Run the job, and put what it yields, then None or what ended it."""
    try:
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for row in batch.to_pylist():
                statuses = dict(zip(row.pop("statuses"), row.pop("counts"), strict=True))
                done.put(ShardDone(statuses=statuses, **row))
        done.put(None)
    except BaseException as error:  # whatever ends this thread must reach the driver, which waits
        done.put(error)


def _translate(cluster: Cluster, error: BaseException) -> MaskbatchError:
    """What stopped the job, as one of our errors: if a worker raised one, that one.

    Otherwise in words of our own: Ray's have hosts, attempts and times, which differ from run to run.
    """
    from ray.exceptions import RayError, RayTaskError

    texts: list[str] = []
    link: BaseException | None = error
    while link is not None:
        # Ray raises a mixture of its own error and ours, whose text is a remote traceback.
        ours = getattr(link, "cause", link)
        if isinstance(ours, MaskbatchError):
            return type(ours)(str(ours))
        texts.append(str(link))
        link = link.__cause__
    told = re.search(r"maskbatch\.errors\.(\w+): (.+)", "\n".join(texts))
    if told:  # an actor that dies while it is made leaves only its text
        kind: type[MaskbatchError] = getattr(errors, told[1], RunFailedError)
        return kind(told[2])
    remedy = "--verbose shows the workers' logs, the same command goes on where it stopped"
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        cluster.check_soon()
        return RunFailedError(f"Ray failed ({type(error).__name__}); {remedy}")
    cause = getattr(error, "cause", None) or error  # of a task's error, what its worker raised
    first = str(cause).strip().splitlines()[:1] or ["no reason given"]
    return RunFailedError(f"a worker failed: {type(cause).__name__}: {first[0]}; {remedy}")
