"""Committed runs to their report: tables as Parquet, report.json, alerts.json and report.html.

Several runs give the report that one run over all their images gives.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.clock import Clock, now, parse_bound
from maskbatch.config import Expect, ReportConfig, to_dict
from maskbatch.errors import ALERT, DONE, RunFailedError, UsageError
from maskbatch.progress import say
from maskbatch.report.alerts import find_alerts
from maskbatch.report.coverage import measure_coverage
from maskbatch.report.drift import measure_drift
from maskbatch.report.prevalence import explain_unidentifiable
from maskbatch.report.survey import Survey, survey_runs
from maskbatch.report.tables import GROUPINGS, Tables
from maskbatch.review import corrections
from maskbatch.review.pictures import make_thumbnails
from maskbatch.review.queue import CANDIDATE_COLUMNS, UNCERTAIN
from maskbatch.review.rate import estimate_rates
from maskbatch.runs.committed import CommittedRun, open_together
from maskbatch.runs.directory import RunDir
from maskbatch.schema import CONDITIONS, UNKNOWN_DATE
from maskbatch.stores.files import Location, locate_folder, write_json, write_whole
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

SHOWN = 100
"""Gaps, stretches and drift tests in report.json; all of them are in their Parquet files."""


MAPPED_CAMERAS = 60
"""Cameras whose single days are in report.json, and on its maps; all are in by_camera_day.parquet."""


UNLIKE_PSI = 0.25
"""A population stability index above it is commonly read as another population."""


SHOWN_CANDIDATES = 24
"""Of the review candidates, the least certain; 1,000 are in review.parquet."""


FLAT = {
    "coverage": [
        ("site", pa.string()), ("camera", pa.string()), ("cadence_s", pa.float64()), ("source", pa.string()),
        ("hours", pa.list_(pa.int64())), ("expected", pa.int64()), ("snapshots", pa.int64()),
        ("coverage", pa.float64()), ("num_gaps", pa.int64()), ("longest_gap_s", pa.float64()),
    ],
    "gaps": [
        ("site", pa.string()), ("camera", pa.string()), ("from", pa.timestamp("us")),
        ("to", pa.timestamp("us")), ("seconds", pa.int64()), ("missing", pa.int64()),
    ],
    "quality": [
        ("site", pa.string()), ("camera", pa.string()), ("scored", pa.int64()),
        *[(name, pa.int64()) for name in CONDITIONS],
    ],
    "stretches": [
        ("site", pa.string()), ("camera", pa.string()), ("condition", pa.string()),
        ("from", pa.timestamp("us")), ("to", pa.timestamp("us")), ("snapshots", pa.int64()),
    ],
    "drift": [
        ("site", pa.string()), ("camera", pa.string()), ("measure", pa.string()), ("nights", pa.int64()),
        ("history", pa.int64()), ("recent", pa.float64()), ("before", pa.float64()), ("p", pa.float64()),
        ("q", pa.float64()), ("alert", pa.bool_()),
    ],
}  # fmt: skip
"""Tables beside those of GROUPINGS, and their columns."""


Confusion = list[list[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A made report."""

    values: dict[str, Any]
    """What report.json says."""
    tables: dict[str, pa.Table]
    """What its Parquet files hold, by name."""
    keys: dict[str, tuple[str, ...]]
    """What those of rates are grouped by."""

    @property
    def overall(self) -> dict[str, Any]:
        row: dict[str, Any] = self.values["overall"][0]
        return row

    @property
    def exit_code(self) -> int:
        return ALERT if self.values["alerts"] else DONE


def make_report(
    runs: Sequence[RunDir],
    out: Location,
    config: ReportConfig = ReportConfig(),  # noqa: B008 (frozen)
    options: StorageOptions = NO_OPTIONS,
) -> Report:
    """Report over committed runs together, written to the folder `out`. Raises UsageError."""
    together = open_together(runs, own_days=config.own_days)
    confusion, reason = _confusion(together)
    if config.alert_corrected and confusion is None:
        raise UsageError(f"--corrected: these rates cannot be corrected, {reason}; give --alert-below alone")
    groupings = _groupings(together[0].keep_column)
    if config.alert_by and f"by_{config.alert_by}" not in groupings:
        names = ", ".join(name.removeprefix("by_") for name in groupings)
        raise UsageError(f"--by {config.alert_by}: one of {names} expected")
    words = _last_words(together, config, options)
    surveyed = survey_runs(together)
    report = _report(together, surveyed, config, confusion, reason, words)
    pictures = None
    if config.thumbnails:
        pictures = make_thumbnails(_candidates(surveyed).to_pylist(), together, options)
    try:
        _write(report, out, pictures)
    except RunFailedError as error:
        elsewhere = "`maskbatch report RUN... --out DIR` puts the report elsewhere"
        raise RunFailedError(f"{error}; {elsewhere}") from error
    return report


def _last_words(runs: Sequence[CommittedRun], config: ReportConfig, options: StorageOptions) -> pd.DataFrame:
    """What people said last of the images of `runs`, in the runs' folders and in that of --corrections."""
    if config.corrections is None:
        return corrections.find_last_words(pa.concat_tables(map(corrections.read_of_run, runs)))
    if len(runs) > 1:
        raise UsageError("--corrections belongs to one run: report that run alone, or leave it out")
    found = corrections.read_judgements(locate_folder(config.corrections, options))
    if not len(found):
        say(f"--corrections {config.corrections}: nothing is there yet")
    return corrections.find_last_words(pa.concat_tables([corrections.read_of_run(runs[0]), found]))


def _groupings(keep_column: str | None) -> dict[str, tuple[str, ...]]:
    return GROUPINGS | ({f"by_{keep_column}": ("kept",)} if keep_column else {})


def _report(
    runs: Sequence[CommittedRun],
    surveyed: Survey,
    config: ReportConfig,
    confusion: Confusion | None,
    reason: str | None,
    words: pd.DataFrame,
) -> Report:
    """All figures: pure functions of what the survey found, and of people's last words."""
    meaning, cells, keep_column = runs[0].meaning, surveyed.cells, runs[0].keep_column
    kept = {"kept": keep_column or "kept"}
    keys = {name: tuple(kept.get(key, key) for key in own) for name, own in _groupings(keep_column).items()}
    rates = Tables(cells, meaning, confusion, config.exclude)
    tables = {
        name: rates.by(own).rename_columns(kept if "kept" in own else {})
        for name, own in _groupings(keep_column).items()
    }
    mapped = _mapped(tables["by_camera"])
    seen = {
        "coverage": measure_coverage(cells, _expect(config), _skipped(runs), _asked(runs), mapped),
        "quality": _quality(cells, surveyed),
        "drift": measure_drift(cells, meaning.classes, _common(runs, "reference") or {}),
    }
    tables |= _flat(seen) | {"cells": cells, "review": surveyed.chosen.candidates}
    tables["corrections"] = pa.Table.from_pandas(words, corrections.SCHEMA, preserve_index=False)
    if len(runs) == 1:
        tables["queue"] = surveyed.chosen.queue
    shown = {name: tables[name].to_pylist() for name in keys if name != "by_camera_day"}
    shown["by_camera_day"] = _of_cameras(tables["by_camera_day"], mapped).to_pylist()
    all_of_it = Tables(cells, meaning, confusion) if config.exclude else rates
    values: dict[str, Any] = {
        **_identity(runs, config),
        "period": _period(surveyed),
        **shown,
        "everything": all_of_it.by(()).to_pylist(),
        "corrected": {
            "identifiable": confusion is not None,
            "reason": reason,
            "confusion": confusion,
            "shares": rates.shares(),
            "unlike_cameras": _unlike(seen["drift"]),
        },
        "judged": estimate_rates(words, tables.get("queue"), shown["overall"][0], meaning, config.exclude),
        **seen,
        "review": {
            "num_review": shown["overall"][0]["num_review"],
            "threshold": _common(runs, "review_threshold"),
            "candidates": _candidates(surveyed).select(CANDIDATE_COLUMNS).to_pylist(),
        },
    }
    values["alerts"] = find_alerts(tables, keys, seen["drift"], config)
    return Report(values=_shortened(values), tables=tables, keys=keys)


def _expect(config: ReportConfig) -> Expect | None:
    return Expect.parse(config.expect) if config.expect else None


def _mapped(by_camera: pa.Table) -> set[tuple[str | None, str | None]]:
    """The cameras (site, camera) that maps have room for: those with the most assessed images."""
    rows = by_camera.sort_by([("assessed", "descending"), ("site", "ascending"), ("camera", "ascending")])
    rows = rows.slice(0, MAPPED_CAMERAS)
    return set(zip(rows["site"].to_pylist(), rows["camera"].to_pylist(), strict=True))


def _of_cameras(rows: pa.Table, cameras: Collection[tuple[str | None, str | None]]) -> pa.Table:
    names = zip(rows["site"].to_pylist(), rows["camera"].to_pylist(), strict=True)
    return rows.filter(pa.array([name in cameras for name in names], pa.bool_()))


def _common(runs: Sequence[CommittedRun], name: str) -> Any:
    """What the card of the one checkpoint of `runs` says; None where there are several."""
    return runs[0].card.get(name) if len({one.digest for one in runs}) == 1 else None


def _unlike(drifts: dict[str, Any]) -> int:
    """Cameras whose pictures are unlike those that the checkpoint was tested on."""
    return len({(row["site"], row["camera"]) for row in drifts["psi"] if row["psi"] > UNLIKE_PSI})


def _confusion(runs: Sequence[CommittedRun]) -> tuple[Confusion | None, str | None]:
    """The held-out matrix that corrects the rates of `runs`, or None and the reason why none does."""
    if len({one.digest for one in runs}) > 1:
        return None, "as the runs were scored by different checkpoints"
    confusion = runs[0].card["confusion"]
    reason = explain_unidentifiable(np.array(confusion))
    return (None, reason) if reason else (confusion, None)


def _identity(runs: Sequence[CommittedRun], config: ReportConfig) -> dict[str, Any]:
    """What was reported, by which settings."""
    meaning = runs[0].meaning
    return {
        "made_at": now().isoformat(timespec="seconds"),
        "maskbatch": version("maskbatch"),
        "classes": list(meaning.classes),
        "compliant": list(meaning.compliant),
        "not_assessed": list(meaning.not_assessed),
        "keep_column": runs[0].keep_column,
        "settings": to_dict(config),
        "runs": [_of_run(one) for one in runs],
    }


def _of_run(one: CommittedRun) -> dict[str, Any]:
    settings, success, plan = one.settings, one.success, to_dict(one.settings.plan)
    return {
        "path": str(one.run.path),
        "archives": plan["archives"],
        "timezone": plan["timezone"],
        "since": plan["since"],
        "until": plan["until"],
        "cameras": plan["camera"],
        "limit": plan["limit"],
        "checkpoint": one.digest,
        "architecture": one.card["architecture"],
        "created_at": settings.created_at.isoformat(),
        "versions": settings.versions,
        "planned": success.planned,
        "statuses": success.statuses,
        "listing": one.listing.as_dict(),
        "num_files": len(success.files),
        "success_sha256": one.success_sha256,
    }


def _candidates(surveyed: Survey) -> pa.Table:
    """The least certain images to show; none of the random ones, which people judge without their labels."""
    num_uncertain = surveyed.chosen.queue["stratum"].to_pylist().count(UNCERTAIN)
    return surveyed.chosen.candidates.slice(0, min(SHOWN_CANDIDATES, num_uncertain))


def _period(surveyed: Survey) -> dict[str, Any]:
    cells = surveyed.cells.select(["date", "count"]).to_pandas()
    unknown = cells["date"] == UNKNOWN_DATE
    return {
        "first": surveyed.first,
        "last": surveyed.last,
        "days": int(cells["date"][~unknown].nunique()),
        "unknown_time": int(cells["count"][unknown].sum()),
    }


def _quality(cells: pa.Table, surveyed: Survey) -> dict[str, Any]:
    """Images by condition: in all, by camera, and the stretches of them."""
    frame = cells.select(["site", "camera", "status", "condition", "count"]).to_pandas()
    frame = frame[frame["status"] == "ok"]
    for name in CONDITIONS:
        frame[name] = frame["count"].where(frame["condition"] == name, 0)
    sums = frame.groupby(["site", "camera"], dropna=False)[["count", *CONDITIONS]].sum().reset_index()
    by_camera = pa.Table.from_pandas(sums.rename(columns={"count": "scored"}), preserve_index=False)
    return {
        "conditions": list(CONDITIONS),
        "totals": {name: int(sums[name].sum()) for name in CONDITIONS},
        "by_camera": by_camera.to_pylist(),
        "stretches": surveyed.stretches,
    }


def _skipped(runs: Sequence[CommittedRun]) -> Callable[[str | None, date], int | None]:
    """The hour that a change of clocks leaves out at a site on a day, by the clock of any run."""
    zones = {one.settings.plan.timezone for one in runs}
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


def _asked(runs: Sequence[CommittedRun]) -> tuple[datetime | None, datetime | None]:
    """The local times from --since of the first run to --until of the last, if all have one."""
    since = [parse_bound("--since", one.settings.plan.since) for one in runs]
    until = [parse_bound("--until", one.settings.plan.until) for one in runs]
    first, last = ([time for time in times if time] for times in (since, until))
    made = max(_local(one, one.settings.created_at) for one in runs)  # of what comes later nothing is due
    return (
        min(first) if len(first) == len(runs) else None,
        min(max(last), made) if len(last) == len(runs) else None,
    )


def _local(one: CommittedRun, time: datetime) -> datetime:
    zone = Clock.parse(one.settings.plan.timezone, now()).zone(None)
    return time.astimezone(zone).replace(tzinfo=None)


def _flat(seen: dict[str, Any]) -> dict[str, pa.Table]:
    """What stands in report.json as lists, whole, as tables."""
    rows = {
        "coverage": seen["coverage"]["by_camera"],
        "gaps": seen["coverage"]["gaps"],
        "quality": seen["quality"]["by_camera"],
        "stretches": seen["quality"]["stretches"],
        "drift": seen["drift"]["tests"],
    }
    return {name: pa.Table.from_pylist(rows[name], pa.schema(FLAT[name])) for name in FLAT}


def _shortened(values: dict[str, Any]) -> dict[str, Any]:
    """The values as report.json has them: times in ISO 8601, of the lists that may be long the first."""
    orders: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
        ("coverage", "gaps"): lambda gap: -gap["seconds"],
        ("quality", "stretches"): lambda stretch: -stretch["snapshots"],
        ("drift", "tests"): lambda test: (not test["alert"], test["p"]),
    }
    for (part, name), order in orders.items():
        rows = values[part][name]
        values[part] |= {f"num_{name}": len(rows), name: sorted(rows, key=order)[:SHOWN]}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=datetime.isoformat))
    return plain


def _write(report: Report, out: Location, pictures: dict[int, bytes] | None) -> None:
    from maskbatch.report.page import render

    for name, table in report.tables.items():
        with write_whole(out / f"{name}.parquet") as partial:
            pq.write_table(table, partial)
    write_json(out / "report.json", report.values)
    chosen = {name: report.values[name] for name in ("made_at", "settings", "alerts")}
    write_json(out / "alerts.json", chosen)
    with write_whole(out / "report.html") as partial:
        partial.write_text(render(report.values, pictures), encoding="utf-8")
