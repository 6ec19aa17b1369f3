"""A whole run, as the diagram has it: plan, read + decode, score, staging, commit, report."""

import platform
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from maskbatch import archive, staging
from maskbatch.checkpoint import Checkpoint, open_checkpoint
from maskbatch.clock import Clock
from maskbatch.commit import commit
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig, as_dict, differences
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.lease import Lease
from maskbatch.pipeline import Cluster
from maskbatch.plan import Listing, now, plan_rows, write_plan
from maskbatch.progress import say, step
from maskbatch.rows import Work, shard_size
from maskbatch.rundir import FORMAT_VERSION, RunDir, remove_tree, write_json
from maskbatch.stores import NO_OPTIONS, Access, StorageOptions

if TYPE_CHECKING:
    from maskbatch.report import Report

Settings = dict[str, Any]
LIBRARIES = ("maskbatch", "ray", "torch", "torchvision", "pyarrow", "pillow", "simplejpeg")


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
    run = RunDir.at(out, options)
    with Lease(run):
        return _planned(run, config, archive.access_of(config, options), fresh=fresh)


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
    fresh: bool = False,
    verbose: bool = False,
) -> Result:
    """Plan, score, commit and report, going on where an earlier call stopped.

    Raises UsageError, before anything is touched, when the run that lies at `out` is another one.
    """
    began = time.monotonic()
    run = RunDir.at(out, options)
    opened = open_checkpoint(checkpoint)
    success = run.read_success()
    if success is not None:
        if fresh:
            run.clear()  # which refuses a committed run
        _refuse_difference(run, run.read_run() or {}, plan_config, score_config, opened)
        return _finish(run, success, rescored=False)
    if not fresh:
        _refuse_difference(run, run.read_run() or {}, plan_config, score_config, opened)
    with ExitStack() as stack:
        lease = stack.enter_context(Lease(run))
        success = run.read_success()
        if success is not None:  # committed by another driver since
            _refuse_difference(run, run.read_run() or {}, plan_config, score_config, opened)
            return _finish(run, success, rescored=False)
        access = archive.access_of(plan_config, options, job)
        archive.sources(plan_config, access)  # a wrong path is refused before Ray is started
        cluster = stack.enter_context(Cluster(job, verbose=verbose))
        settings = _planned(run, plan_config, access, fresh=fresh)
        settings = _scoring(run, settings, score_config, job, opened)
        planned_s = time.monotonic() - began
        work = _work(run, settings, plan_config, score_config, opened, access)
        devices, timings = _stage(run, work, cluster, lease)
        timings = {"plan": planned_s, **timings}
        with step("commit", work.num_images) as shown:
            success = commit(run, work, devices, timings, began, job.max_error_rate, shown)
    return _finish(run, success, rescored=True)


def _refuse_difference(
    run: RunDir,
    settings: Settings,
    plan_config: PlanConfig,
    score_config: ScoreConfig | None = None,
    opened: Checkpoint | None = None,
) -> None:
    """Raises UsageError naming how the run at OUT differs from the one asked for."""
    found = differences(as_dict(plan_config), settings["plan"]) if settings else []
    if score_config and opened and "score" in settings:
        found += differences(as_dict(score_config), settings["score"])
        found += differences(
            {"checkpoint": opened.digest[:12]}, {"checkpoint": settings["checkpoint"]["digest"][:12]}
        )
    if found:
        finished = run.success.exists()
        what = "a finished run" if finished else "an unfinished run"
        remedy = "name another --out" if finished else "--fresh throws it away, or name another --out"
        raise UsageError(f"{run.path} holds {what} made with other settings: {'; '.join(found)}; {remedy}")


def _planned(run: RunDir, config: PlanConfig, access: Access, *, fresh: bool) -> Settings:
    """The settings of the run at OUT, with its listing: found there, or listed now."""
    if fresh:
        run.clear()
    settings = run.read_run()
    if settings is None:
        settings = {
            "format_version": FORMAT_VERSION,
            "created_at": now().isoformat(),
            "plan": as_dict(config),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
            "replaces": None,
        }
        write_json(run.run_json, settings, exclusive=True)
    else:
        _refuse_difference(run, settings, config)
    if "listing" in settings:
        say(f"plan: {settings['listing']['num_images']:,} images, listed before")
        return settings
    for folder in (run.plan, run.staging):  # of a listing, or a throwing away, that was cut off
        remove_tree(folder)
    listing = Listing()
    clock = Clock.parse(config.timezone, datetime.fromisoformat(settings["created_at"]))
    try:
        with step("plan") as shown:
            write_plan(run.plan, plan_rows(config, clock, listing, access), shown)
    except UsageError:
        run.clear()
        raise
    settings = {**settings, "listing": listing.as_dict()}
    write_json(run.run_json, settings)
    return settings


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
        "shard_size": shard_size(settings["listing"]["num_images"], opened.card.input_size),
    }
    write_json(run.run_json, settings)
    return settings


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
        num_images=settings["listing"]["num_images"],
        shard_size=settings["shard_size"],
        access=access,
        keep_column=plan_config.keep_column,
    )


def _stage(
    run: RunDir, work: Work, cluster: Cluster, lease: Lease
) -> tuple[dict[str, int], dict[str, float]]:
    """Score every shard that is not staged; shards by device, and seconds by phase."""
    done = staging.staged(run.staging, work.run_id)
    statuses: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for counts, device in done.values():
        statuses.update(counts)
        devices[device] += 1
    timings = {"start": 0.0, "score": 0.0, "worker_decode": 0.0, "worker_score": 0.0}
    pending = [shard for shard in range(work.num_shards) if shard not in done]
    if done:
        say(f"resume: {len(done):,} of {work.num_shards:,} shards are staged")
    if pending:
        began = time.monotonic()
        cluster.ready()
        with step("score", work.num_images) as shown:
            shown.start_at(statuses.total())
            for item in cluster.score(work, pending):
                timings["start"] = timings["start"] or time.monotonic() - began
                statuses.update(item.statuses)
                devices[item.device] += 1
                timings["worker_decode"] += item.decode_s
                timings["worker_score"] += item.score_s
                lease.counts.update(planned=work.num_images, **statuses)
                shown.advance(sum(item.statuses.values()))
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
