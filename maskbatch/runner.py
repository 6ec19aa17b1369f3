"""A whole run, as in the diagram: plan, read + decode, score, staging, commit, report."""

import time
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from maskbatch.archives.arguments import make_access
from maskbatch.clock import now
from maskbatch.cluster.connection import Cluster
from maskbatch.cluster.pipeline import find_crew, score_shards
from maskbatch.config import JobConfig, PlanConfig, ReportConfig, ScoreConfig, check_decoder
from maskbatch.errors import NothingToPlanError, RunFailedError, RunLockedError, UsageError
from maskbatch.model.checkpoint import open_networks
from maskbatch.plan.listing import Listing
from maskbatch.plan.shards import Crew
from maskbatch.progress import event, say, step
from maskbatch.runs import staging
from maskbatch.runs.begin import begin_scoring, ensure_plan
from maskbatch.runs.carry import Carrier
from maskbatch.runs.commit import Effort, commit_run
from maskbatch.runs.directory import RunDir
from maskbatch.runs.draft import Draft, draft_plan
from maskbatch.runs.lease import Lease
from maskbatch.runs.records import Success
from maskbatch.runs.request import Request, Target
from maskbatch.runs.sweep import sweep_leftovers
from maskbatch.runs.work import Work, make_work
from maskbatch.score.guard import Guard
from maskbatch.stores.files import known_errors, list_names, remove_tree, store_errors
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import Text, Texts, list_texts

if TYPE_CHECKING:
    from maskbatch.report.make import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished run."""

    run: RunDir
    success: Success
    report: "Report"
    rescored: bool
    """False when the run was finished before."""
    advice: str | None = None
    """A sentence where another view seems to suit the pictures."""

    @property
    def listing(self) -> Listing:
        """What planning found and left out."""
        settings = self.run.read_run()
        return (settings and settings.listing) or Listing()

    def explain_code(self) -> str | None:
        """Why the exit code is not 0, if too many images failed."""
        if not self.success.exit_code:
            return None
        failed = 1 - self.success.statuses.get("ok", 0) / self.success.planned
        return (
            f"{failed:.1%} of the images failed, more than --max-error-rate {self.success.max_error_rate:g} "
            f"allows: look at status and error in {self.run.path}/scores."
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the report's tables."""
        names = ("planned", "carried", "statuses", "devices", "timings_s", "exit_code")
        return {
            "out": str(self.run.path),
            "rescored": self.rescored,
            "advice": self.advice,
            **{name: getattr(self.success, name) for name in names},
            "overall": self.report.overall,
        }


def plan_archive(
    config: PlanConfig, out: Text | None = None, *, options: StorageOptions = NO_OPTIONS, fresh: bool = False
) -> Listing:
    """List an archive, and plan it in the run directory `out` unless its plan is there.

    Without `out`, list it and write nothing. `fresh` throws away an unfinished run that lies at `out`.
    Raises UsageError for an archive that cannot be planned, or where another run lies at `out`, and
    RunLockedError while another driver works there.
    """
    request = Request(plan=config, access=make_access(config, options))
    if out is not None:
        target = Target.at(out, (), options)
        with Lease(target.run) as lease:
            sweep_leftovers(target.run)
            settings = ensure_plan(target, request, lease, fresh=fresh)
        return settings.listing or Listing()
    listing = Listing()
    with step("list") as shown:
        for _ in request.list_rows(now(), listing):
            shown.advance()
    return listing


def score_archive(
    config: PlanConfig,
    out: Text,
    *,
    score: ScoreConfig = ScoreConfig(),  # noqa: B008 (frozen)
    job: JobConfig = JobConfig(),  # noqa: B008
    report: ReportConfig = ReportConfig(),  # noqa: B008
    checkpoint: str | None = None,
    detector: str | None = None,
    options: StorageOptions = NO_OPTIONS,
    reuse: Texts = (),
    scheduled: bool = False,
    fresh: bool = False,
    verbose: bool = False,
) -> Result:
    """Plan, score, commit and report an archive; goes on where an earlier call stopped.

    `checkpoint` and `detector` are paths of .safetensors files, None the packaged ones. Rows of the finished
    runs `reuse` are carried over. With `out` among them, new images go to the next version of `out`; without
    new images its highest version is the result. `scheduled` is for calls that nobody watches, see
    `Draft.is_new`. `fresh` throws away an unfinished run that lies at `out`.
    Raises UsageError, before it touches anything, where another run lies at `out`; RunLockedError while
    another driver works there; RunFailedError where the run stopped: the same call goes on.
    """
    effort = Effort(began=time.monotonic())
    check_decoder(score, job)
    opened, finder = open_networks(checkpoint, detector, score.view)
    request = Request(
        plan=config,
        access=make_access(config, options, job),
        score=score,
        checkpoint=opened,
        detector=finder,
        decode_timeout_s=job.decode_timeout_s,
    )
    target = Target.at(out, list_texts(reuse), options)
    target.refuse_other_images(config)

    finish = partial(_report, config=report, options=options)
    success = _read_success(target.run, request, fresh=fresh)
    if success is not None:
        return finish(target.run, success)
    _ = request.sources  # refuses a wrong path before Ray starts
    with ExitStack() as stack:
        draft, standing = None, target.standing
        if target.reused and (fresh or target.needs_draft()):
            draft = _draft(stack, target, request)
        if standing and not (draft and draft.is_new(standing, config, scheduled=scheduled)):
            return finish(standing.run, standing.success)
        lease = stack.enter_context(Lease(target.run))
        success = _read_success(target.run, request, fresh=fresh)
        if success is not None:  # by another driver since
            return finish(target.run, success)
        all_carried = draft is not None and not draft.num_to_score
        try:
            with nullcontext() if all_carried else Cluster(job, verbose=verbose) as cluster:
                settings = ensure_plan(target, request, lease, fresh=fresh, draft=draft)
                effort.timings_s["plan"] = time.monotonic() - effort.began
                is_first = settings.score is None and not all_carried
                is_first = is_first and not (scheduled and _has_siblings(target.run))
                sampled = make_work(target.run, settings, request)
                guard = stack.enter_context(Guard(sampled, is_wanted=is_first))
                crew = _wait_for_crew(cluster, score) if cluster and settings.score is None else Crew()
                settings = begin_scoring(target.run, settings, request, job, lease, crew)
                work = make_work(target.run, settings, request)
                _score(work, cluster, effort, lease, guard)
            carrier = Carrier(settings, options) if work.num_carried else None
            success = commit_run(work, effort, job.max_error_rate, lease, carrier)
        except known_errors():
            others = _find_others_commit(target.run, request, lease)
            if others is None:
                raise
            return finish(target.run, others)
        result = finish(target.run, success, rescored=True)
        guard.check(is_last=True)
        return replace(result, advice=guard.advice)


def _has_siblings(run: RunDir) -> bool:
    """Whether there is something beside the run; where we cannot look, too."""
    try:
        return any(name != run.path.name for name in list_names(run.path.parent, at_most=2))
    except store_errors():
        return True


def _find_others_commit(run: RunDir, request: Request, lease: Lease) -> Success | None:
    """What another driver committed while this one slept; None if this one still holds the run.

    Raises RunLockedError if another took the run over and has not committed it.
    """
    try:
        with suppress(*store_errors()):
            lease.check()
    except RunLockedError:
        success = _read_success(run, request, fresh=False)
        if success is None:
            raise
        say(f"{run.path} was committed by another driver while this one slept")
        return success
    return None


def _read_success(run: RunDir, request: Request, *, fresh: bool) -> Success | None:
    """`_SUCCESS` of the run, if it is committed. Raises UsageError where it is another run's."""
    success = run.read_success()
    if success is not None and fresh:
        run.refuse_committed()
    settings = run.read_run() if success is not None or not fresh else None
    if settings:
        request.refuse_difference(run, settings)
    return success


def _draft(stack: ExitStack, target: Target, request: Request) -> Draft | None:
    """The plan's draft; None where the archive is empty now and the run at OUT stays as it is."""
    try:
        return stack.enter_context(draft_plan(target, request))
    except NothingToPlanError as error:
        if target.standing is None:
            raise
        say(f"{error}; {target.standing.run.path} stays as it is")
        return None


def _wait_for_crew(cluster: Cluster, config: ScoreConfig) -> Crew:
    """Who is to score. Raises UsageError where GPUs are to decode, and there are none."""
    cluster.wait()
    crew = find_crew(cluster)
    if config.decoder == "gpu" and not crew.on_gpus:
        what = f"--decoder gpu: the Ray cluster at {cluster.job.address!r} has no GPUs"
        remedy = "leave it out, give --address of a cluster that has, or --max-scorers if some are to come"
        raise UsageError(f"{what}; {remedy}")
    return crew


def _score(work: Work, cluster: Cluster | None, effort: Effort, lease: Lease, guard: Guard) -> None:
    """Score every shard that is not staged, and add what it takes to `effort`."""
    staged = staging.count_staged(work.run.staging, work.run_id)
    effort.devices.update(staged.devices)
    timings = effort.timings_s
    timings |= dict.fromkeys(("start", "score", "worker_read", "worker_decode", "worker_score"), 0.0)
    pending = [shard for shard in range(work.num_shards) if shard not in staged.shards]
    if staged.shards:
        say(f"resume: {len(staged.shards):,} of {work.num_shards:,} shards are staged")
    if not pending or cluster is None:
        return
    _wait_for_crew(cluster, work.config)
    statuses, planned = staged.statuses, effort.began + timings["plan"]
    say(f"score: loading the model, and the first of {len(pending):,} shards")
    with step("score", work.num_images) as shown:
        shown.start_at(statuses.total())
        shown.statuses = statuses
        for shard in score_shards(cluster, work, pending):
            lease.watch()
            timings["start"] = timings["start"] or time.monotonic() - planned
            statuses.update(shard.statuses)
            effort.devices[shard.device] += 1
            timings["worker_read"] += shard.read_s
            timings["worker_decode"] += shard.decode_s
            timings["worker_score"] += shard.score_s
            num_images = sum(shard.statuses.values())
            event("shard", images=num_images, **asdict(shard))
            shown.advance(num_images)
            guard.check()
    timings["score"] = time.monotonic() - planned - timings["start"]


def _report(
    run: RunDir, success: Success, *, config: ReportConfig, options: StorageOptions, rescored: bool = False
) -> Result:
    """What follows the commit and may be repeated: staging removed, the report made."""
    from maskbatch.report.make import make_report

    sweep_leftovers(run)
    try:
        remove_tree(run.staging)
    except RunFailedError as error:  # a store may grant no deletion
        say(str(error))
    report = make_report([run], run.report, config, options)
    return Result(run=run, success=success, report=report, rescored=rescored)
