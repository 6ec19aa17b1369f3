"""The settings and the plan of a run: those in its directory, or new ones written there."""

import platform
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version

from maskbatch.clock import now
from maskbatch.config import DECODE_RULES, PLAN_RULES, JobConfig
from maskbatch.errors import RunLockedError, UsageError
from maskbatch.model.card import BATCH_SIZES
from maskbatch.plan.listing import Listing
from maskbatch.plan.shards import Crew, choose_shard_size
from maskbatch.plan.table import check_plan, write_groups, write_plan
from maskbatch.progress import say, step
from maskbatch.runs.committed import CommittedRun
from maskbatch.runs.directory import RunDir
from maskbatch.runs.draft import Draft, number_rows
from maskbatch.runs.lease import Lease
from maskbatch.runs.records import ReusedRun, RunSettings, UsedCheckpoint, UsedDetector
from maskbatch.runs.request import Request, Target
from maskbatch.stores.files import remove_files, remove_tree, write_json

LIBRARIES = ("maskbatch", "ray", "torch", "torchvision", "pyarrow", "pillow", "simplejpeg")


def ensure_plan(
    target: Target, request: Request, lease: Lease, *, fresh: bool = False, draft: Draft | None = None
) -> RunSettings:
    """The run's settings with its listing, which is there, or comes from `draft`, or is made now."""
    run = target.run
    if fresh:
        run.clear(lease.check)
    settings = run.read_run()
    if settings is None:
        settings = _begin(target, request, draft.created_at if draft else now())
    else:
        request.refuse_difference(run, settings)
    if settings.listing and draft is None:
        check_plan(run.plan, settings.num_images)
        say(f"plan: {settings.num_images:,} images, listed before")
        return settings
    settings = _clear_plan(run, settings, lease)
    if draft:
        settings = _write_draft(target, draft, settings, lease)
    else:
        listing = Listing()
        try:
            with step("plan") as shown:
                write_plan(run.plan, request.list_rows(settings.created_at, listing), shown, lease.check)
        except UsageError:
            run.clear(lease.check)
            raise
        settings = replace(settings, listing=listing, reuse=(), reuse_counts={"carried": 0})
    settings = replace(settings, plan_rules=PLAN_RULES)  # an earlier maskbatch may have begun it
    write_json(run.run_json, settings.to_json(), check=lease.check)
    return settings


def _clear_plan(run: RunDir, settings: RunSettings, lease: Lease) -> RunSettings:
    """Remove a plan that is to be made again, or what a listing or a --fresh that was cut off has left."""
    if settings.listing:
        settings = settings.without_listing()
        write_json(run.run_json, settings.to_json(), check=lease.check)
    remove_files(run.plan, lease.check)
    lease.check()
    remove_tree(run.staging)
    return settings


def begin_scoring(
    run: RunDir,
    settings: RunSettings,
    request: Request,
    job: JobConfig,
    lease: Lease,
    crew: Crew,
) -> RunSettings:
    """Complete run.json by how `crew` scores the run, unless that is done; from here on it never changes.

    But where older decode rules began it: then every image is scored again by those of now.
    """
    if settings.score and settings.decode_rules == DECODE_RULES:
        return settings
    config, opened, detector = request.score, request.checkpoint, request.detector
    assert config and opened  # noqa: S101  a request to score
    batch_size = config.batch_size or BATCH_SIZES["cuda" if crew.on_gpus else "cpu"]
    if settings.score:
        batch_size = settings.score.batch_size or batch_size
        _refuse_older_carried(run, settings)
        older = f"decode rules {settings.decode_rules}, now {DECODE_RULES}"
        say(f"resume: {run.path} was begun under older {older}; what it staged is scored again")
    settings = replace(
        settings,
        score=replace(config, batch_size=batch_size),
        job=job,
        checkpoint=UsedCheckpoint(opened.path, opened.digest, opened.card_dict()),
        detector=UsedDetector(detector.path, detector.digest, detector.card_dict()) if detector else None,
        shard_size=settings.shard_size
        or choose_shard_size(
            settings.num_to_score,
            (settings.listing or Listing()).mean_bytes,
            opened.card.input_size,
            config,
            crew,
        ),
        decode_rules=DECODE_RULES,
    )
    write_json(run.run_json, settings.to_json(), check=lease.check)
    return settings


def _refuse_older_carried(run: RunDir, settings: RunSettings) -> None:
    """Raises UsageError where a plan of older rules, made for them, says what to carry over."""
    if settings.num_carried:
        what = f"its plan carries {settings.num_carried:,} rows over by older decode rules"
        remedy = "give --reuse as when it was begun, which plans it again, or --fresh"
        raise UsageError(f"{run.path}: {what}; {remedy}")


def _begin(target: Target, request: Request, created_at: datetime) -> RunSettings:
    settings = RunSettings(
        created_at=created_at,
        plan=request.plan,
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        replaces=target.replaces.run.path.name if target.replaces else None,
    )
    try:
        write_json(target.run.run_json, settings.to_json(), exclusive=True)
    except FileExistsError as error:
        message = "was begun by another driver at this moment; wait for it, then run the same command"
        raise RunLockedError(f"{target.run.path} {message}") from error
    return settings


def _write_draft(target: Target, draft: Draft, settings: RunSettings, lease: Lease) -> RunSettings:
    """Write the plan from the draft; returns the settings with what run.json says of it."""
    counts, num_images = draft.counts(), draft.listing.num_images
    with step("number", num_images) as shown:
        write_groups(target.run.plan, number_rows(draft.folder, draft.match), shown, lease.check)
    reasons = {**counts, "carried with another site, camera or time": draft.num_moved, "carried": 0}
    why = ", ".join(f"{count:,} {name}" for name, count in reasons.items() if count)
    say(
        f"reuse: {counts['carried']:,} of {num_images:,} rows are carried over, "
        f"{draft.num_to_score:,} to score{f' ({why})' if why else ''}"
    )
    if target.replaces and draft.num_gone:
        gone = f"{draft.num_gone:,} images of {target.replaces.run.path} are in the archive no more"
        say(f"reuse: {gone}; {target.run.path} does not have them")
    for earlier, count in zip(target.reused, draft.num_hidden, strict=True):
        if count:
            what = f"{count:,} images of {earlier.run.path} are left out by their names now"
            say(f"reuse: {what}; --include-hidden keeps them")
    return replace(
        settings,
        listing=draft.listing,
        reuse=tuple(_describe_reused(reused) for reused in draft.reused),
        reuse_counts={**counts, "gone": draft.num_gone},
    )


def _describe_reused(reused: CommittedRun) -> ReusedRun:
    rules = reused.settings.oldest_decode_rules
    return ReusedRun(str(reused.run.path), reused.success_sha256, rules)
