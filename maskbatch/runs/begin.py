"""A run's settings and plan: found in its directory, or written there now."""

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from maskbatch.archives.arguments import Source, find_sources
from maskbatch.clock import Clock, now
from maskbatch.config import PlanConfig, ScoreConfig, list_differences, to_dict
from maskbatch.errors import RunLockedError, UsageError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.plan.build import Listing, plan_rows
from maskbatch.plan.table import write_groups, write_plan
from maskbatch.progress import say, step
from maskbatch.runs.committed import CommittedRun, open_committed
from maskbatch.runs.directory import FORMAT_VERSION, RunDir
from maskbatch.runs.draft import Draft, make_draft, pick_usable
from maskbatch.runs.versions import VERSION, find_next
from maskbatch.stores.access import Access
from maskbatch.stores.files import Location, remove_tree, write_json
from maskbatch.stores.options import StorageOptions

Settings = dict[str, Any]


LIBRARIES = ("maskbatch", "ray", "torch", "torchvision", "pyarrow", "pillow", "simplejpeg")


SAME_IMAGES = ("archives", "since", "until", "camera", "limit")
"""Settings that a version has in common with the run it replaces."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a call asks for; a mere plan has no checkpoint."""

    plan: PlanConfig
    access: Access
    score: ScoreConfig | None = None
    opened: Checkpoint | None = None

    @cached_property
    def sources(self) -> list[Source]:
        """What the archives are, asked of their store once. Raises UsageError."""
        return find_sources(self.plan, self.access)

    def clock(self, created_at: str) -> Clock:
        return Clock.parse(self.plan.timezone, datetime.fromisoformat(created_at))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call works, and the finished runs whose rows may be carried over to there."""

    run: RunDir
    replaces: CommittedRun | None = None
    reused: tuple[CommittedRun, ...] = ()
    """The replaced one first."""

    @classmethod
    def at(cls, out: str, reuse: Sequence[str], options: StorageOptions) -> "Target":
        """OUT, or with OUT among `reuse` its next version. Raises UsageError."""
        run = RunDir.at(out, options)
        earlier = {_place(one.path): one for one in (RunDir.at(name, options) for name in reuse)}
        own, replaces = earlier.pop(_place(run.path), None), None
        if own is not None:
            run, replaced = find_next(run)
            replaces = open_committed(replaced) if replaced else None
        else:
            _refuse_version_name(run)
        others = [open_committed(one) for one in earlier.values()]
        return cls(run, replaces, tuple([replaces, *others] if replaces else others))

    @property
    def standing(self) -> CommittedRun | None:
        """The run that is the result where nothing is new: the replaced one, until its version is begun."""
        return None if self.run.run_json.exists() else self.replaces

    def needs_draft(self) -> bool:
        """Whether there are rows to carry over and a plan to make of them."""
        return bool(self.reused) and "score" not in (self.run.read_run() or {})


def _place(path: Location) -> str:
    return os.path.realpath(path) if isinstance(path, Path) else str(path)


def _refuse_version_name(run: RunDir) -> None:
    """A version is begun and gone on with by the name of the first one alone."""
    match = VERSION.fullmatch(run.path.name)
    if not match or run.success.exists():
        return
    first = RunDir(run.path.parent / match["first"])
    is_version = (run.read_run() or {}).get("replaces") if run.run_json.exists() else first.run_json.exists()
    if is_version:
        what = f"{run.path} is the name of a version of {first.path}"
        raise UsageError(f"{what}; give --out {first.path} --reuse {first.path}")


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """An archive listed and held against earlier runs, before anything is written to the run directory."""

    created_at: str
    listing: Listing
    draft: Draft
    reused: list[CommittedRun]
    """Those whose rows may be carried over, as `reuse_run` counts them."""

    @property
    def num_to_score(self) -> int:
        return self.listing.num_images - self.draft.counts()["carried"]

    def is_new(self, standing: CommittedRun, config: PlanConfig, *, scheduled: bool) -> bool:
        """Whether there is something to make a new version of.

        `scheduled`: images that failed before, or have no version to tell a change by, are no reason; and
        where images are in the archive no more, the run that has them is not replaced.
        """
        counts, draft = self.draft.counts(), self.draft
        num_new = counts["new"] + counts["changed"] + draft.retold
        if scheduled and draft.gone and num_new:
            gone = f"{draft.gone:,} of its images are in the archive no more, and {num_new:,} are new"
            say(f"reuse: {standing.run.path} is not replaced: {gone}; `maskbatch score --reuse` does it")
            return False
        if not scheduled:
            num_new += counts["failed before"] + counts["without a version"]
        return num_new > 0 or to_dict(config) != standing.settings["plan"]


@contextmanager
def draft_plan(target: Target, asked: Request) -> Iterator[DraftPlan]:
    """List the archive, and find what the reused runs hold of it; all of it lies on local disk."""
    created_at = (target.run.read_run() or {}).get("created_at", now().isoformat())
    digest = asked.opened.digest if asked.opened else ""
    reused = pick_usable(target.reused, digest, to_dict(asked.score) if asked.score else {})
    listing, clock = Listing(), asked.clock(created_at)
    with TemporaryDirectory(prefix="maskbatch-") as folder:
        with step("plan") as listed:
            folder_plan = Path(folder) / "plan"
            write_plan(
                folder_plan, plan_rows(asked.sources, asked.plan, clock, listing, asked.access), listed
            )
        with step("reuse", sum(len(one.success["files"]) for one in reused), "files") as compared:
            made = make_draft(folder_plan, listing.num_images, clock, reused, compared)
        yield DraftPlan(created_at, listing, made, reused)


def ensure_plan(
    target: Target, asked: Request, *, fresh: bool = False, drafted: DraftPlan | None = None
) -> Settings:
    """The settings of the run with its listing: found there, written from `drafted`, or listed now."""
    run = target.run
    if fresh:
        run.clear()
    settings = run.read_run()
    if settings is None:
        settings = _begun(target, asked.plan, drafted.created_at if drafted else now().isoformat())
    else:
        refuse_difference(run, settings, asked)
    if "listing" in settings and drafted is None:
        say(f"plan: {settings['listing']['num_images']:,} images, listed before")
        return settings
    for folder in (run.plan, run.staging):  # of a listing, or a throwing away, that was cut off
        remove_tree(folder)
    if drafted:
        settings |= _numbered(target, drafted)
    else:
        listing, clock = Listing(), asked.clock(settings["created_at"])
        try:
            with step("plan") as shown:
                write_plan(
                    run.plan, plan_rows(asked.sources, asked.plan, clock, listing, asked.access), shown
                )
        except UsageError:
            run.clear()
            raise
        settings |= {"listing": listing.as_dict(), "reuse": [], "reuse_counts": {"carried": 0}}
    write_json(run.run_json, settings)
    return settings


def num_to_score(settings: Settings) -> int:
    """Of the planned images, those that are not carried over."""
    return int(settings["listing"]["num_images"] - settings["reuse_counts"]["carried"])


def refuse_difference(run: RunDir, settings: Settings, asked: Request) -> None:
    """Raises UsageError naming how the run at OUT differs from the one asked for."""
    found = list_differences(to_dict(asked.plan), settings["plan"]) if settings else []
    if asked.score and asked.opened and "score" in settings:
        found += list_differences(to_dict(asked.score), settings["score"])
        found += list_differences(
            {"checkpoint": asked.opened.digest[:12]}, {"checkpoint": settings["checkpoint"]["digest"][:12]}
        )
    if found:
        finished = run.success.exists()
        what = "a finished run" if finished else "an unfinished run"
        remedy = "name another --out" if finished else "--fresh throws it away, or name another --out"
        raise UsageError(f"{run.path} holds {what} made with other settings: {'; '.join(found)}; {remedy}")


def refuse_other_images(replaces: CommittedRun, config: PlanConfig) -> None:
    """Raises UsageError where a version would replace a run of other images."""
    ours = {name: value for name, value in to_dict(config).items() if name in SAME_IMAGES}
    theirs = {name: replaces.settings["plan"].get(name) for name in SAME_IMAGES}
    found = list_differences(ours, theirs)
    if found:
        what = f"a new version of {replaces.run.path} would hold other images: {'; '.join(found)}"
        raise UsageError(f"{what}; name another --out, which may --reuse it")


def _begun(target: Target, config: PlanConfig, created_at: str) -> Settings:
    settings = {
        "format_version": FORMAT_VERSION,
        "created_at": created_at,
        "plan": to_dict(config),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "replaces": target.replaces.run.path.name if target.replaces else None,
    }
    try:
        write_json(target.run.run_json, settings, exclusive=True)
    except FileExistsError as error:
        message = "was begun by another driver at this moment; wait for it, then run the same command"
        raise RunLockedError(f"{target.run.path} {message}") from error
    return settings


def _numbered(target: Target, drafted: DraftPlan) -> Settings:
    """Write the plan from the draft; what run.json says of it."""
    counts = drafted.draft.counts()
    with step("number", drafted.listing.num_images) as shown:
        write_groups(target.run.plan, drafted.draft.groups(), shown)
    reasons = {**counts, "carried with another site, camera or time": drafted.draft.retold, "carried": 0}
    why = ", ".join(f"{count:,} {name}" for name, count in reasons.items() if count)
    say(
        f"reuse: {counts['carried']:,} of {drafted.listing.num_images:,} rows are carried over, "
        f"{drafted.num_to_score:,} to score{f' ({why})' if why else ''}"
    )
    if target.replaces and drafted.draft.gone:
        gone = f"{drafted.draft.gone:,} images of {target.replaces.run.path} are in the archive no more"
        say(f"reuse: {gone}; {target.run.path} does not have them")
    return {
        "listing": drafted.listing.as_dict(),
        "reuse": [
            {"path": str(one.run.path), "success_sha256": one.success_sha256} for one in drafted.reused
        ],
        "reuse_counts": {**counts, "gone": drafted.draft.gone},
    }
