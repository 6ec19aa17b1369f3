"""A whole run, as the diagram has it: plan, read + decode, score, staging, commit, report."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from maskbatch import archive, staging
from maskbatch.carry import Carrier
from maskbatch.checkpoint import Checkpoint, open_checkpoint
from maskbatch.clock import Clock
from maskbatch.commit import commit
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig, as_dict
from maskbatch.errors import NoImagesError, RunFailedError
from maskbatch.lease import Lease
from maskbatch.pipeline import Cluster
from maskbatch.plan import Listing, now, plan_rows
from maskbatch.planning import (
    Settings,
    Target,
    drafted,
    planned,
    refuse_difference,
    refuse_other_images,
)
from maskbatch.progress import event, say, step
from maskbatch.rows import Work, shard_size
from maskbatch.rundir import RunDir, remove_tree, write_json
from maskbatch.stores import NO_OPTIONS, Access, StorageOptions

if TYPE_CHECKING:
    from maskbatch.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished run."""

    run: RunDir
    success: dict[str, Any]
    report: "Report"
    rescored: bool
    """False when the run was finished before."""


def make_plan(
    out: str, config: PlanConfig, *, options: StorageOptions = NO_OPTIONS, fresh: bool = False
) -> Settings:
    """Plan `config` in the run directory `out`, unless it is there; returns the run's settings."""
    target = Target(RunDir.at(out, options))
    with Lease(target.run):
        return planned(target, config, archive.access_of(config, options), fresh=fresh)


def dry_run(config: PlanConfig, *, options: StorageOptions = NO_OPTIONS) -> Listing:
    """List the archive and write nothing."""
    listing = Listing()
    access = archive.access_of(config, options)
    with step("list") as shown:
        for _ in plan_rows(config, Clock.parse(config.timezone, now()), listing, access):
            shown.advance()
    return listing


def score(
    out: str,
    plan_config: PlanConfig,
    score_config: ScoreConfig,
    job: JobConfig,
    *,
    checkpoint: str | None = None,
    options: StorageOptions = NO_OPTIONS,
    reuse: Sequence[str] = (),
    retry_failed: bool = True,
    fresh: bool = False,
    verbose: bool = False,
) -> Result:
    """Plan, score, commit and report, going on where an earlier call stopped.

    Rows of the finished runs `reuse` are carried over. With `out` among them, what is new since its
    highest version goes to the next one; that highest one is the result where nothing is, images that
    failed before counted with `retry_failed` only.
    Raises UsageError, before anything is touched, when the run that lies at `out` is another one.
    """
    began = time.monotonic()
    opened = open_checkpoint(checkpoint)
    target = Target.at(out, reuse, options)
    run, access = target.run, archive.access_of(plan_config, options, job)
    if target.replaces:
        refuse_other_images(target.replaces, plan_config)
    if run.success.exists() and fresh:
        run.clear()  # which refuses a committed run
    found = run.read_run() or {}
    if run.success.exists() or not fresh:
        refuse_difference(run, found, plan_config, score_config, opened)
    with ExitStack() as stack:
        success = run.read_success()
        if success is not None:
            return _finish(run, success, rescored=False)
        archive.sources(plan_config, access)  # a wrong path is refused before Ray is started
        listed = None
        if target.reused and (fresh or "listing" not in found):
            standing = None if found else target.replaces
            try:
                listed = stack.enter_context(drafted(target, plan_config, score_config, opened, access))
            except NoImagesError as error:
                if standing is None:
                    raise
                say(f"{error}; {standing.run.path} stays as it is")
            if standing and not (listed and listed.is_new(standing, plan_config, retry_failed=retry_failed)):
                return _finish(standing.run, standing.success, rescored=False)
        stack.enter_context(Lease(run))
        success = run.read_success()
        if success is not None:  # committed by another driver since
            refuse_difference(run, run.read_run() or {}, plan_config, score_config, opened)
            return _finish(run, success, rescored=False)
        cluster = Cluster(job, verbose=verbose)
        with cluster if listed is None or listed.num_to_score else nullcontext():
            settings = planned(target, plan_config, access, fresh=fresh, drafted=listed)
            settings = _scoring(run, settings, score_config, job, opened)
            planned_s = time.monotonic() - began
            work = _work(run, settings, plan_config, score_config, opened, access)
            carrier = Carrier(settings["reuse"], options) if work.num_carried else None
            devices, timings = _stage(run, work, cluster)
            timings = {"plan": planned_s, **timings}
            with step("commit", settings["listing"]["num_images"]) as shown:
                success = commit(run, work, devices, timings, began, job.max_error_rate, shown, carrier)
        return _finish(run, success, rescored=True)


def _scoring(
    run: RunDir, settings: Settings, config: ScoreConfig, job: JobConfig, opened: Checkpoint
) -> Settings:
    """run.json completed by how it is scored; from here on it never changes."""
    if "score" in settings:
        return settings
    settings = {
        **settings,
        "score": as_dict(config),
        "job": as_dict(job),
        "checkpoint": {"path": opened.path, "digest": opened.digest, "card": opened.card_dict()},
        "shard_size": shard_size(_num_to_score(settings), opened.card.input_size),
    }
    write_json(run.run_json, settings)
    return settings


def _num_to_score(settings: Settings) -> int:
    return int(settings["listing"]["num_images"] - settings["reuse_counts"].get("carried", 0))


def _work(
    run: RunDir,
    settings: Settings,
    plan_config: PlanConfig,
    score_config: ScoreConfig,
    opened: Checkpoint,
    access: Access,
) -> Work:
    return Work(
        run_id=f"{opened.digest[:16]} {settings['created_at']}",
        archives=plan_config.archives,
        out=str(run.path),
        checkpoint=opened.path,
        digest=opened.digest,
        config=score_config,
        clock=Clock.parse(plan_config.timezone, datetime.fromisoformat(settings["created_at"])),
        num_images=_num_to_score(settings),
        num_carried=settings["reuse_counts"].get("carried", 0),
        shard_size=settings["shard_size"],
        access=access,
        keep_column=plan_config.keep_column,
    )


def _stage(run: RunDir, work: Work, cluster: Cluster) -> tuple[dict[str, int], dict[str, float]]:
    """Score every shard that is not staged; shards by device, and seconds by phase."""
    done = staging.staged(run.staging, work.run_id)
    statuses: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for counts, device in done.values():
        statuses.update(counts)
        devices[device] += 1
    timings = dict.fromkeys(("start", "score", "worker_read", "worker_decode", "worker_score"), 0.0)
    pending = [shard for shard in range(work.num_shards) if shard not in done]
    if done:
        say(f"resume: {len(done):,} of {work.num_shards:,} shards are staged")
    if pending:
        began = time.monotonic()
        cluster.ready()
        with step("score", work.num_images) as shown:
            shown.start_at(statuses.total())
            shown.statuses = statuses
            for item in cluster.score(work, pending):
                timings["start"] = timings["start"] or time.monotonic() - began
                statuses.update(item.statuses)
                devices[item.device] += 1
                timings["worker_read"] += item.read_s
                timings["worker_decode"] += item.decode_s
                timings["worker_score"] += item.score_s
                num_images = sum(item.statuses.values())
                event("shard", images=num_images, **asdict(item))
                shown.advance(num_images)
        timings["score"] = time.monotonic() - began - timings["start"]
    return dict(devices), timings


def _finish(run: RunDir, success: dict[str, Any], *, rescored: bool) -> Result:
    """What follows the commit and may be repeated: staging removed, the report made."""
    from maskbatch.report import make_report  # pandas: a second that Ray's start need not wait for

    try:
        remove_tree(run.staging)
    except RunFailedError as error:  # a store may grant no deletion
        say(str(error))
    return Result(run=run, success=success, report=make_report([run], run.report), rescored=rescored)
