"""A random sample of an archive, scored for some seconds by the real pipeline on this machine.

The sample is groups of neighbouring images, so that containers are read as in a run. They are drawn while the
archive is listed, and planned in random order in a temporary run directory; nothing else is written.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from os import cpu_count
from pathlib import Path
from random import Random
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import pyarrow as pa

from maskbatch import schema
from maskbatch.archives import arguments
from maskbatch.clock import Clock, now
from maskbatch.cluster.connection import Cluster
from maskbatch.cluster.pipeline import Pools, score_shards
from maskbatch.cluster.workers import ShardDone
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_networks
from maskbatch.plan.build import plan_rows
from maskbatch.plan.columns import Row
from maskbatch.plan.listing import Listing
from maskbatch.plan.shards import Crew, choose_shard_size
from maskbatch.plan.table import write_plan
from maskbatch.progress import Step, step
from maskbatch.runs.directory import RunDir
from maskbatch.runs.work import Work
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

STEADY_S = 20.0
"""How long scoring is measured, once every worker has done its first group."""
LEAST_ROUNDS = 3
"""Groups that each worker scores at least, if there are so many: fewer tell little of the steady pace."""
GROUPS_PER_CORE = 64
TIMES = ("read_s", "decode_s", "score_s")
GROUP_IMAGES = {"face": 64, "scene": 32}
MAX_GROUPS = 2048
"""About 30 MB of plan rows."""
Timed = tuple[float, ShardDone]
"""When a group was done, by the monotonic clock, and what its worker reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The time that listing the archive and scoring the sample took on this machine."""

    listing: Listing
    num_shards: int
    """In a run over the whole archive."""
    statuses: dict[str, int]
    """Scored images of the sample, by status."""
    cores: int
    """Cores that worked here."""
    gpus: float
    """GPUs that scored; 0 where the cores did."""
    listing_s: float
    start_s: float
    """From the end of the listing until every worker has done its first group."""
    num_started: int
    """Images scored by then."""
    images_per_s: float
    """From then on, by the whole machine."""
    spread: float
    """Two standard errors of the pace, as a share of it."""
    read_s: float
    """A worker's wait for the bytes of an image; decode_s and score_s are for an image too."""
    decode_s: float
    score_s: float


def calibrate(
    config: PlanConfig,
    score_config: ScoreConfig,
    job: JobConfig,
    *,
    checkpoint: str | None = None,
    detector: str | None = None,
    options: StorageOptions = NO_OPTIONS,
    needs_gpu: bool = False,
    verbose: bool = False,
) -> Calibration:
    """List the archive, and score a random sample of it for STEADY_S.

    Where GPUs are to decode, and none is here, the CPU does it, unless that `needs_gpu`.
    Raises UsageError for an archive that cannot be planned, or of whose sample no image can be scored, and
    where a GPU is needed, and none is here.
    """
    began = time.monotonic()
    opened, finder = open_networks(checkpoint, detector, score_config.view)
    access = arguments.make_access(config, options, job)
    sources = arguments.find_sources(config, access)  # refuses a wrong path before Ray starts
    listing, clock = Listing(), Clock.parse(config.timezone, now(), config.names_in)
    group_size = GROUP_IMAGES[score_config.view]
    most = min(MAX_GROUPS, GROUPS_PER_CORE * (cpu_count() or 1))
    with TemporaryDirectory(prefix="maskbatch-estimate-") as folder, Cluster(job, verbose=verbose) as cluster:
        score_config = _choose_decoder(cluster, score_config, needs_gpu=needs_gpu)
        with step("list") as progress:
            rows = plan_rows(sources, config, clock, listing, access)
            groups = draw_groups(rows, group_size, most, progress)
        listed = time.monotonic()
        write_plan(RunDir(Path(folder)).plan, _number_rows(groups), Step("plan", None, "images"))
        work = Work(
            run_id=folder,
            archives=config.archives,
            out=folder,
            checkpoint=opened.path,
            digest=opened.digest,
            detector=finder.path if finder else None,
            detector_digest=finder.digest if finder else None,
            config=score_config,
            clock=clock,
            is_remote=any(source.is_remote for source in sources),
            num_images=sum(map(len, groups)),
            shard_size=group_size,
            access=access,
            keep_column=config.keep_column,
            decode_timeout_s=job.decode_timeout_s,
        )
        cluster.wait()
        cores, gpus = _in_use(cluster, work)
        done = _score_groups(cluster, work, cores)
    shards = [shard for _, shard in done]
    whole_size = choose_shard_size(
        listing.num_images, listing.mean_bytes, opened.card.input_size, score_config, Crew(cores, gpus > 0)
    )
    num_images, statuses = _num_images(*shards), _statuses(config, shards)
    return Calibration(
        listing=listing,
        num_shards=-(-listing.num_images // whole_size),
        statuses=statuses,
        cores=cores,
        gpus=gpus,
        listing_s=listed - began,
        start_s=done[:cores][-1][0] - listed,
        num_started=_num_images(*shards[:cores]),
        images_per_s=_rate(done, cores),
        spread=_spread(shards),
        **{name: sum(getattr(shard, name) for shard in shards) / num_images for name in TIMES},
    )


def _choose_decoder(cluster: Cluster, config: ScoreConfig, *, needs_gpu: bool) -> ScoreConfig:
    """How this machine can score the sample."""
    if config.decoder == "cpu":
        return config
    cluster.wait()
    if cluster.read_capacity().num_scorers(cluster.job.gpus_per_worker):
        return config
    if needs_gpu:
        what = "--decoder gpu: this machine has no GPU to measure how fast one decodes and scores"
        raise UsageError(f"{what}; give --gpu-rate with --cluster, or leave --decoder out")
    return replace(config, decoder="cpu")


def draw_groups(rows: Iterable[Row], group_size: int, num_groups: int, progress: Step) -> list[pa.Table]:
    """At most `num_groups` groups of `group_size` consecutive rows, equally likely, in random order."""
    random = Random(0)  # noqa: S311  the same sample for the same archive
    rows, sample = iter(rows), list[pa.Table]()
    for number in count():
        group = list(islice(rows, group_size))
        if not group:
            break
        progress.advance(len(group))
        place = number if number < num_groups else random.randrange(number + 1)
        if place < num_groups:
            sample[place : place + 1] = [pa.Table.from_pylist(group, schema.PLAN)]
    random.shuffle(sample)
    return sorted(sample, key=len, reverse=True)  # the archive's last group may be a short one


def _number_rows(groups: Sequence[pa.Table]) -> Iterator[Row]:
    rows = chain.from_iterable(group.to_pylist() for group in groups)
    return ({**row, "id": number} for number, row in enumerate(rows))


def _in_use(cluster: Cluster, work: Work) -> tuple[int, float]:
    """How many cores and GPUs of this machine the job takes."""
    capacity, job = cluster.read_capacity(), cluster.job
    pools = Pools.of(capacity, job, work.num_shards)
    if not pools.on_gpus:
        return pools.start, 0.0
    cores = min(capacity.num_workers(), work.num_shards, job.max_workers or work.num_shards)
    return cores, pools.start * job.gpus_per_worker


def _score_groups(cluster: Cluster, work: Work, cores: int) -> list[Timed]:
    """The scored groups, in the order in which they were done."""
    done: list[Timed] = []
    with step("sample") as progress:
        for shard in score_shards(cluster, work, range(work.num_shards)):
            done.append((time.monotonic(), shard))
            progress.advance(_num_images(shard))
            rounds, within = divmod(len(done), cores)
            if within or rounds <= LEAST_ROUNDS:
                continue
            if done[-1][0] - done[cores - 1][0] >= STEADY_S:
                break
    return done


def _statuses(config: PlanConfig, shards: Sequence[ShardDone]) -> dict[str, int]:
    """Images by status. Raises UsageError where none could be scored, since then nothing was measured."""
    statuses: Counter[str] = Counter()
    for shard in shards:
        statuses.update(shard.statuses)
    if not statuses["ok"]:
        counts = ", ".join(f"{name} {number:,}" for name, number in statuses.items())
        where = ", ".join(config.archives[:3])
        message = f"{where}: none of {statuses.total():,} sampled images could be scored ({counts})"
        raise UsageError(f"{message}; the rows of a small run say why: maskbatch score --limit 100")
    return dict(statuses)


def _rate(done: Sequence[Timed], cores: int) -> float:
    """Images a second, from when every worker has done its first group."""
    shards = [shard for _, shard in done]
    if len(done) > cores:
        return _num_images(*shards[cores:]) / (done[-1][0] - done[cores - 1][0])
    return cores * _num_images(*shards) / sum(map(_busy_s, shards))  # one round did the whole archive


def _spread(shards: Sequence[ShardDone]) -> float:
    """Two standard errors of a group's seconds an image, as a share of their mean."""
    paces = [_busy_s(shard) / _num_images(shard) for shard in shards]
    return 2 * stdev(paces) / mean(paces) / len(paces) ** 0.5 if len(paces) > 1 else 0.0


def _busy_s(shard: ShardDone) -> float:
    return float(sum(getattr(shard, name) for name in TIMES))


def _num_images(*shards: ShardDone) -> int:
    return sum(sum(shard.statuses.values()) for shard in shards)
