"""Where a report's figures come from: its runs, their checkpoint, their clocks and the time they cover."""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from maskbatch.clock import Clock, now, parse_bound
from maskbatch.config import ReportConfig, to_dict
from maskbatch.report.coverage import Period
from maskbatch.report.prevalence import explain_unidentifiable, explain_unknown_recall
from maskbatch.runs.committed import CommittedRun
from maskbatch.schema import SIZE_BANDS

Confusion = list[list[int]]
Boxed = list[list[list[int]]]
"""`[found, boxed]` faces by class and size band."""


def find_confusion(runs: Sequence[CommittedRun]) -> tuple[Confusion | None, str | None]:
    """The held-out matrix that corrects the rates of `runs`, or None and the reason why they cannot be."""
    if len({run.digest for run in runs}) > 1:
        return None, "as the runs were scored by different checkpoints"
    confusion = runs[0].card["confusion"]
    reason, boxed, meaning = explain_unidentifiable(np.array(confusion)), find_boxed(runs), runs[0].meaning
    if not reason and boxed is not None:
        reason = explain_unknown_recall(np.array(boxed), np.isin(meaning.classes, meaning.assessed))
    return (None, reason) if reason else (confusion, None)


def find_boxed(runs: Sequence[CommittedRun]) -> Boxed | None:
    """What the detector of `runs` found of boxed held-out faces, by class and size band; None without one.

    Zeros for classes that its card does not have.
    """
    detector = runs[0].detector
    if detector is None:
        return None
    nothing = [[0, 0] for _ in SIZE_BANDS]
    return [detector.card["recall"].get(name, nothing) for name in runs[0].meaning.classes]


def read_card(runs: Sequence[CommittedRun], name: str) -> Any:
    """A value of the checkpoint's card, None where the runs have different checkpoints."""
    return runs[0].card.get(name) if len({run.digest for run in runs}) == 1 else None


def describe_runs(runs: Sequence[CommittedRun], config: ReportConfig) -> dict[str, Any]:
    """What report.json says of the runs, their classes, and the settings of the report."""
    meaning = runs[0].meaning
    return {
        "made_at": now().isoformat(timespec="seconds"),
        "maskbatch": version("maskbatch"),
        "view": runs[0].score.view,
        **{name: list(getattr(meaning, name)) for name in ("classes", "compliant", "not_assessed")},
        "keep_column": runs[0].keep_column,
        "settings": to_dict(config),
        "runs": [_describe_run(run) for run in runs],
    }


def _describe_run(run: CommittedRun) -> dict[str, Any]:
    settings, success, plan = run.settings, run.success, to_dict(run.settings.plan)
    return {
        "path": str(run.run.path),
        **{name: plan[name] for name in ("archives", "timezone", "since", "until")},
        "cameras": plan["camera"],
        "limit": plan["limit"],
        "checkpoint": run.digest,
        "architecture": run.card["architecture"],
        **({"detector": _describe_detector(run)} if run.detector else {}),
        **({"decoder": run.score.decoder} if run.score.decoder != "cpu" else {}),
        "created_at": settings.created_at.isoformat(),
        "versions": settings.versions,
        "planned": success.planned,
        "statuses": success.statuses,
        "listing": run.listing.as_dict(),
        "num_files": len(success.files),
        "success_sha256": run.success_sha256,
    }


def _describe_detector(run: CommittedRun) -> dict[str, Any] | None:
    detector = run.detector
    if detector is None:
        return None
    card = {
        name: detector.card.get(name) for name in ("architecture", "input_px", "threshold", "min_face_px")
    }
    return {"digest": detector.digest, **card, "detect_px": run.score.detect_px}


def find_skipped_hours(runs: Sequence[CommittedRun]) -> Callable[[str | None, date], int | None]:
    """A function of (site, day): the local hour that a change of clocks skips, by the clock of any run."""
    zones = {run.settings.plan.timezone for run in runs}
    clocks = [Clock.parse(zone, now()) for zone in sorted(zones)]

    @cache
    def skipped(site: str | None, day: date) -> int | None:
        midnight = datetime.combine(day, datetime.min.time())
        for clock in clocks:
            for hour in range(24):
                local = midnight + timedelta(hours=hour)
                if clock.to_local(local.replace(tzinfo=clock.zone(site)).astimezone(), site) != local:
                    return hour
        return None

    return skipped


def find_period(runs: Sequence[CommittedRun]) -> Period:
    """The local times from --since of the first run to --until of the last, if all have one."""
    since = [parse_bound("--since", run.settings.plan.since) for run in runs]
    until = [parse_bound("--until", run.settings.plan.until) for run in runs]
    first, last = ([time for time in times if time] for times in (since, until))
    last_made = max(_local_start(run) for run in runs)  # nothing later is due
    return (
        min(first) if len(first) == len(runs) else None,
        min(max(last), last_made) if len(last) == len(runs) else None,
    )


def _local_start(run: CommittedRun) -> datetime:
    zone = Clock.parse(run.settings.plan.timezone, now()).zone(None)
    return run.settings.created_at.astimezone(zone).replace(tzinfo=None)
