"""What a call asks for, where it works, and what it refuses there."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from maskbatch.archives.arguments import Source, find_sources
from maskbatch.clock import Clock
from maskbatch.config import DECODE_RULES, JobConfig, PlanConfig, ScoreConfig, list_differences, to_dict
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint, DetectorFile
from maskbatch.plan.build import plan_rows
from maskbatch.plan.columns import Row
from maskbatch.plan.listing import Listing
from maskbatch.runs.committed import CommittedRun, open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.runs.records import RunSettings
from maskbatch.runs.versions import VERSION, find_next
from maskbatch.stores.access import Access
from maskbatch.stores.files import Location
from maskbatch.stores.options import StorageOptions
from maskbatch.stores.uris import Text

SAME_IMAGES = ("archives", "since", "until", "camera", "limit", "exclude_path")
"""Settings that a version has in common with the run it replaces."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a call asks for; one that only plans has no checkpoint."""

    plan: PlanConfig
    access: Access
    score: ScoreConfig | None = None
    checkpoint: Checkpoint | None = None
    detector: DetectorFile | None = None
    """With the view `scene`."""
    decode_timeout_s: float = JobConfig().decode_timeout_s

    @cached_property
    def sources(self) -> list[Source]:
        """What the archives are; asks their store once. Raises UsageError."""
        return find_sources(self.plan, self.access)

    def clock(self, created_at: datetime) -> Clock:
        return Clock.parse(self.plan.timezone, created_at, self.plan.names_in)

    def list_rows(self, created_at: datetime, listing: Listing) -> Iterator[Row]:
        """The rows of the plan of a run begun at `created_at`; `listing` counts along."""
        return plan_rows(self.sources, self.plan, self.clock(created_at), listing, self.access)

    def refuse_difference(self, run: RunDir, settings: RunSettings) -> None:
        """Raises UsageError naming how the run at OUT differs from this request."""
        differences = list_differences(to_dict(self.plan), settings.plan_values)
        if self.score and self.checkpoint and settings.score_values and settings.checkpoint:
            differences += list_differences(to_dict(self.score), settings.score_values)
            for name, ours, theirs in (
                ("checkpoint", self.checkpoint, settings.checkpoint),
                ("detector", self.detector, settings.detector),
            ):
                digests = (used.digest[:12] if used else "none" for used in (ours, theirs))
                differences += list_differences(*({name: digest} for digest in digests))
        if differences:
            finished = run.success.exists()
            what = "a finished run" if finished else "an unfinished run"
            remedy = "name another --out" if finished else "--fresh throws it away, or name another --out"
            how = "; ".join(differences)
            raise UsageError(f"{run.path} holds {what} made with other settings: {how}; {remedy}")
        if not run.success.exists():
            refuse_newer_rules(run, settings.decode_rules, "name another --out")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call works, and the finished runs whose rows it may carry over to there."""

    run: RunDir
    replaces: CommittedRun | None = None
    reused: tuple[CommittedRun, ...] = ()
    """The replaced one first."""

    @classmethod
    def at(cls, out: Text, reuse: Sequence[str], options: StorageOptions) -> "Target":
        """OUT, or with OUT among `reuse` its next version. Raises UsageError."""
        run = RunDir.at(out, options)
        earlier = {_real_path(run.path): run for run in (RunDir.at(name, options) for name in reuse)}
        own, replaces = earlier.pop(_real_path(run.path), None), None
        if own is not None:
            run, replaced = find_next(run)
            replaces = open_committed(replaced) if replaced else None
        else:
            _refuse_version_name(run)
        others = [open_committed(run) for run in earlier.values()]
        return cls(run, replaces, tuple([replaces, *others] if replaces else others))

    @property
    def standing(self) -> CommittedRun | None:
        """The run that is the result if nothing is new: the replaced one, until its next version is begun."""
        return None if self.run.run_json.exists() else self.replaces

    def needs_draft(self) -> bool:
        """Whether there are rows to carry over, and a plan to make with them."""
        settings = self.run.read_run() if self.reused else None
        is_scored = settings and settings.score and settings.decode_rules >= DECODE_RULES
        return bool(self.reused) and not is_scored

    def refuse_other_images(self, config: PlanConfig) -> None:
        """Raises UsageError where a version would replace a run of other images."""
        if self.replaces is None:
            return
        configs = (to_dict(config), to_dict(self.replaces.settings.plan))
        differences = list_differences(*({name: values[name] for name in SAME_IMAGES} for values in configs))
        if differences:
            what = f"a new version of {self.replaces.run.path} would hold other images"
            remedy = "name another --out, which may --reuse it"
            raise UsageError(f"{what}: {'; '.join(differences)}; {remedy}")


def refuse_newer_rules(run: RunDir, rules: int, remedy: str) -> None:
    """Raises UsageError where a later maskbatch decoded the images of `run` by `rules` of its own."""
    if rules > DECODE_RULES:
        what = f"was scored by decode rules {rules}, this maskbatch knows up to {DECODE_RULES}"
        raise UsageError(f"{run.path} {what}; upgrade maskbatch, or {remedy}")


def _real_path(path: Location) -> str:
    return os.path.realpath(path) if isinstance(path, Path) else str(path)


def _refuse_version_name(run: RunDir) -> None:
    """Raises UsageError for the name of a version: all versions are made under the name of the first."""
    match = VERSION.fullmatch(run.path.name)
    if not match or run.success.exists():
        return
    first = RunDir(run.path.parent / match["first"])
    settings = run.find_run()
    if settings.replaces if settings else first.run_json.exists():
        what = f"{run.path} is the name of a version of {first.path}"
        raise UsageError(f"{what}; give --out {first.path} --reuse {first.path}")
