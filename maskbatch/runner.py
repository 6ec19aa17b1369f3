"""A whole run, as the diagram has it: plan, read + decode, score, staging, commit, report."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from maskbatch.archives import arguments
from maskbatch.clock import Clock, now
from maskbatch.cluster.pipeline import Cluster
from maskbatch.config import JobConfig, PlanConfig, ReportConfig, ScoreConfig, to_dict
from maskbatch.errors import NothingToPlanError, RunFailedError
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.plan.build import Listing, plan_rows
from maskbatch.progress import event, say, step
from maskbatch.runs import staging
from maskbatch.runs.begin import (
    Request,
    Settings,
    Target,
    draft_plan,
    ensure_plan,
    num_to_score,
    refuse_difference,
    refuse_other_images,
)
from maskbatch.runs.carry import Carrier
from maskbatch.runs.commit import commit_run
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease
from maskbatch.runs.work import Work, shard_size
from maskbatch.stores.access import Access
from maskbatch.stores.files import remove_tree, write_json
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

if TYPE_CHECKING:
    from maskbatch.report.make import Report


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
    target = Target.at(out, (), options)
    with Lease(target.run):
        return ensure_plan(
            target, Request(plan=config, access=arguments.make_access(config, options)), fresh=fresh
        )


def dry_run(config: PlanConfig, *, options: StorageOptions = NO_OPTIONS) -> Listing:
    """List the archive and write nothing."""
    listing = Listing()
    access = arguments.make_access(config, options)
    sources = arguments.find_sources(config, access)
    with step("list") as shown:
        for _ in plan_rows(sources, config, Clock.parse(config.timezone, now()), listing, access):
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
    scheduled: bool = False,
    report_config: ReportConfig = ReportConfig(),  # noqa: B008 (frozen)
    fresh: bool = False,
    verbose: bool = False,
) -> Result:
    """Plan, score, commit and report, going on where an earlier call stopped.

    Rows of the finished runs `reuse` are carried over. With `out` among them, what is new since its highest
    version goes to the next one; where nothing is, that highest one is the result. `scheduled` is for calls
    that nobody looks at, see `Drafted.is_new`.
    Raises UsageError, before anything is touched, when the run that lies at `out` is another one.
    """
    began = time.monotonic()
    opened = open_checkpoint(checkpoint)
    access = arguments.make_access(plan_config, options, job)
    asked = Request(plan=plan_config, access=access, score=score_config, opened=opened)
    target = Target.at(out, reuse, options)
    finish = partial(_finish, config=report_config, options=options)
    if target.replaces:
        refuse_other_images(target.replaces, plan_config)
    success = _finished(target.run, asked, fresh=fresh)
    if success is not None:
        return finish(target.run, success, rescored=False)
    is_remote = any(source.is_remote for source in asked.sources)  # refuses a wrong path before Ray starts
    with ExitStack() as stack:
        listed, standing = None, target.standing
        if fresh or target.needs_draft():
            try:
                listed = stack.enter_context(draft_plan(target, asked)) if target.reused else None
            except NothingToPlanError as error:
                if standing is None:
                    raise
                say(f"{error}; {standing.run.path} stays as it is")
        if standing and not (listed and listed.is_new(standing, plan_config, scheduled=scheduled)):
            return finish(standing.run, standing.success, rescored=False)
        stack.enter_context(Lease(target.run))
        success = _finished(target.run, asked, fresh=fresh)
        if success is not None:  # by another driver since
            return finish(target.run, success, rescored=False)
        all_carried = listed is not None and not listed.num_to_score
        with nullcontext() if all_carried else Cluster(job, verbose=verbose) as cluster:
            settings = ensure_plan(target, asked, fresh=fresh, drafted=listed)
            settings = _scoring(target.run, settings, score_config, job, opened)
            work = _work(target.run, settings, plan_config, score_config, opened, access, is_remote)
            success = _score_and_commit(target.run, work, settings, cluster, began, job.max_error_rate)
        return finish(target.run, success, rescored=True)


def _finished(run: RunDir, asked: Request, *, fresh: bool) -> dict[str, Any] | None:
    """What `_SUCCESS` of the run says, if it is committed. Raises UsageError where it is another run's."""
    success = run.read_success()
    if success is not None and fresh:
        run.clear()  # which refuses a committed run
    if success is not None or not fresh:
        refuse_difference(run, run.read_run() or {}, asked)
    return success


def _score_and_commit(
    run: RunDir,
    work: Work,
    settings: Settings,
    cluster: Cluster | None,
    began: float,
    max_error_rate: float,
) -> dict[str, Any]:
    """Score what is not staged yet, and commit; what `_SUCCESS` says then."""
    planned_s = time.monotonic() - began
    devices, timings = _stage(run, work, cluster)
    carrier = Carrier(settings, work.access.options) if work.num_carried else None
    for one in carrier.runs if carrier else ():
        devices.update(one.success["devices"])
    timings = {"plan": planned_s, **timings}
    with step("commit", work.num_planned) as shown:
        return commit_run(run, work, dict(devices), timings, began, max_error_rate, shown, carrier)


def _scoring(
    run: RunDir, settings: Settings, config: ScoreConfig, job: JobConfig, opened: Checkpoint
) -> Settings:
    """run.json completed by how it is scored; from here on it never changes."""
    if "score" in settings:
        return settings
    settings = {
        **settings,
        "score": to_dict(config),
        "job": to_dict(job),
        "checkpoint": {"path": opened.path, "digest": opened.digest, "card": opened.card_dict()},
        "shard_size": shard_size(num_to_score(settings), opened.card.input_size),
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
    is_remote: bool,
) -> Work:
    return Work(
        run_id=f"{opened.digest[:16]} {settings['created_at']}",
        archives=plan_config.archives,
        out=str(run.path),
        checkpoint=opened.path,
        digest=opened.digest,
        config=score_config,
        clock=Clock.parse(plan_config.timezone, datetime.fromisoformat(settings["created_at"])),
        is_remote=is_remote,
        num_images=num_to_score(settings),
        shard_size=settings["shard_size"],
        access=access,
        keep_column=plan_config.keep_column,
        num_carried=settings["reuse_counts"]["carried"],
    )


def _stage(run: RunDir, work: Work, cluster: Cluster | None) -> tuple[Counter[str], dict[str, float]]:
    """Score every shard that is not staged; shards by device, and seconds by phase."""
    done = staging.list_staged(run.staging, work.run_id)
    statuses: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for counts, device in done.values():
        statuses.update(counts)
        devices[device] += 1
    timings = dict.fromkeys(("start", "score", "worker_read", "worker_decode", "worker_score"), 0.0)
    pending = [shard for shard in range(work.num_shards) if shard not in done]
    if done:
        say(f"resume: {len(done):,} of {work.num_shards:,} shards are staged")
    if pending and cluster:
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
    return devices, timings


def _finish(
    run: RunDir, success: dict[str, Any], *, config: ReportConfig, options: StorageOptions, rescored: bool
) -> Result:
    """What follows the commit and may be repeated: staging removed, the report made."""
    from maskbatch.report.make import make_report

    try:
        remove_tree(run.staging)
    except RunFailedError as error:  # a store may grant no deletion
        say(str(error))
    report = make_report([run], run.report, config, options)
    return Result(run=run, success=success, report=report, rescored=rescored)
