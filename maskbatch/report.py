"""Committed runs to their report: tables as Parquet, report.json, alerts.json and report.html.

Every figure is a pure function of what `survey` found; the page reads report.json alone. Several runs give
the report that one run over all their images gives.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.alerts import alerts
from maskbatch.clock import Clock
from maskbatch.committed import Committed, Meaning, open_together
from maskbatch.conditions import CONDITIONS
from maskbatch.config import Expect, ReportConfig, as_dict
from maskbatch.coverage import coverage
from maskbatch.drift import drift
from maskbatch.errors import ALERT, DONE, UsageError
from maskbatch.plan import now
from maskbatch.prevalence import unidentifiable
from maskbatch.review import thumbnails
from maskbatch.rundir import Location, RunDir, whole, write_json
from maskbatch.schema import UNKNOWN_DATE
from maskbatch.stores import NO_OPTIONS, StorageOptions
from maskbatch.survey import CANDIDATE_COLUMNS, Survey, survey
from maskbatch.tables import GROUPINGS, Tables, row_schema

SHOWN = 100
"""Gaps and stretches in report.json, the longest; all of them are in their Parquet files."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A made report: the values of report.json, and what its tables are grouped by."""

    values: dict[str, Any]
    meaning: Meaning
    keys: dict[str, tuple[str, ...]]

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {name: self.values[name] for name in self.keys}

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
    together = open_together(runs)
    surveyed = survey(together)
    report = _report(together, surveyed, config)
    pictures = None
    if config.thumbnails:
        pictures = thumbnails(surveyed.candidates.slice(0, SHOWN_CANDIDATES).to_pylist(), together, options)
    _write(report, surveyed, out, pictures)
    return report


def _report(runs: Sequence[Committed], surveyed: Survey, config: ReportConfig) -> Report:
    meaning, cells, keep_column = runs[0].meaning, surveyed.cells, runs[0].keep_column
    confusion, reason = _confusion(runs)
    if config.alert_corrected and confusion is None:
        raise UsageError(f"--corrected: these rates cannot be corrected, {reason}; give --alert-below alone")
    tables = Tables(cells, meaning, confusion, config.exclude)
    groupings = GROUPINGS | ({f"by_{keep_column}": ("kept",)} if keep_column else {})
    shown = {"kept": keep_column or "kept"}
    rows = {
        name: [{shown.get(key, key): value for key, value in row.items()} for row in tables.by(keys)]
        for name, keys in groupings.items()
    }
    candidates = surveyed.candidates.slice(0, SHOWN_CANDIDATES)
    expect = Expect.parse(config.expect) if config.expect else None
    values: dict[str, Any] = {
        "made_at": now().isoformat(timespec="seconds"),
        "maskbatch": version("maskbatch"),
        "classes": list(meaning.classes),
        "compliant": list(meaning.compliant),
        "not_assessed": list(meaning.not_assessed),
        "keep_column": keep_column,
        "runs": [_identity(one) for one in runs],
        "period": _period(surveyed),
        "settings": as_dict(config),
        **rows,
        "everything": Tables(cells, meaning, confusion).by(()) if config.exclude else rows["overall"],
        "corrected": {
            "identifiable": confusion is not None,
            "reason": reason,
            "confusion": confusion,
            "shares": tables.shares(),
        },
        "coverage": coverage(cells, expect, _skipped(runs[0])),
        "quality": {
            "conditions": list(CONDITIONS),
            "by_camera": _quality(cells),
            "stretches": surveyed.stretches,
        },
        "drift": drift(cells, meaning.classes, runs[0].card.get("reference", {})),
        "review": {
            "num_review": rows["overall"][0]["num_review"],
            "threshold": runs[0].card.get("review_threshold"),
            "candidates": candidates.select(CANDIDATE_COLUMNS).to_pylist(),
        },
    }
    keys = {name: tuple(shown.get(key, key) for key in keys) for name, keys in groupings.items()}
    values["alerts"] = alerts(values, keys, config)
    return Report(values=values, meaning=meaning, keys=keys)


def _confusion(runs: Sequence[Committed]) -> tuple[list[list[int]] | None, str | None]:
    """The held-out matrix that corrects the rates of `runs`, or None and the reason why none does."""
    if len({one.digest for one in runs}) > 1:
        return None, "as the runs were scored by different checkpoints"
    confusion = runs[0].card["confusion"]
    reason = unidentifiable(np.array(confusion))
    return (None, reason) if reason else (confusion, None)


def _identity(one: Committed) -> dict[str, Any]:
    settings, success = one.settings, one.success
    return {
        "path": str(one.run.path),
        "archives": settings["plan"]["archives"],
        "timezone": settings["plan"]["timezone"],
        "checkpoint": one.digest,
        "architecture": one.card["architecture"],
        "created_at": settings["created_at"],
        "versions": settings["versions"],
        "planned": success["planned"],
        "statuses": success["statuses"],
        "listing": settings["listing"],
        "num_files": len(success["files"]),
        "success_sha256": hashlib.sha256(one.run.success.read_bytes()).hexdigest(),
    }


def _period(surveyed: Survey) -> dict[str, Any]:
    cells = surveyed.cells.select(["date", "count"]).to_pandas()
    unknown = cells["date"] == UNKNOWN_DATE
    return {
        "first": surveyed.first,
        "last": surveyed.last,
        "days": int(cells["date"][~unknown].nunique()),
        "unknown_time": int(cells["count"][unknown].sum()),
    }


def _quality(cells: pa.Table) -> list[dict[str, Any]]:
    """Images by camera and condition."""
    frame = cells.select(["site", "camera", "status", "condition", "count"]).to_pandas()
    frame = frame[frame["status"] == "ok"]
    for name in CONDITIONS:
        frame[name] = frame["count"].where(frame["condition"] == name, 0)
    sums = frame.groupby(["site", "camera"], dropna=False)[["count", *CONDITIONS]].sum().reset_index()
    sums = sums.rename(columns={"count": "scored"})
    return [{**row, **_names(row)} for row in sums.to_dict("records")]


def _names(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] if isinstance(row[key], str) else None for key in ("site", "camera")}


def _skipped(one: Committed) -> Callable[[str | None, date], int | None]:
    """The hour that a change of clocks leaves out at a site on a day."""
    clock = Clock.parse(one.settings["plan"]["timezone"], now())

    @cache
    def skipped(site: str | None, day: date) -> int | None:
        midnight = datetime.combine(day, datetime.min.time())
        for hour in range(24):
            local = midnight + timedelta(hours=hour)
            if clock.to_local(local.replace(tzinfo=clock.zone(site)).astimezone(), site) != local:
                return hour
        return None

    return skipped


def _write(report: Report, surveyed: Survey, out: Location, pictures: dict[int, bytes] | None) -> None:
    from maskbatch.page import render  # matplotlib: a second that an error need not wait for

    values = report.values
    flat = {
        "coverage": values["coverage"]["by_camera"],
        "gaps": values["coverage"]["gaps"],
        "quality": values["quality"]["by_camera"],
        "stretches": values["quality"]["stretches"],
        "drift": values["drift"]["tests"],
    }
    files = {"cells": surveyed.cells, "review": surveyed.candidates}
    files |= {name: pa.Table.from_pylist(rows, pa.schema(FLAT[name])) for name, rows in flat.items()}
    files |= {
        name: pa.Table.from_pylist(rows, row_schema(report.keys[name], report.meaning))
        for name, rows in report.tables.items()
    }
    for name, table in files.items():
        with whole(out / f"{name}.parquet") as partial:
            pq.write_table(table, partial)
    shown = _shown(values)
    write_json(out / "report.json", shown)
    write_json(out / "alerts.json", {name: shown[name] for name in ("made_at", "settings", "alerts")})
    with whole(out / "report.html") as partial:
        partial.write_text(render(shown, pictures))


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """The values as report.json has them: times in ISO 8601, of the lists that may be long the longest."""
    coverage, quality = values["coverage"], values["quality"]
    gaps = sorted(coverage["gaps"], key=lambda row: -row["seconds"])
    runs = sorted(quality["stretches"], key=lambda row: -row["snapshots"])
    shown = {
        **values,
        "coverage": {**coverage, "num_gaps": len(gaps), "gaps": gaps[:SHOWN]},
        "quality": {**quality, "num_stretches": len(runs), "stretches": runs[:SHOWN]},
    }
    plain: dict[str, Any] = json.loads(json.dumps(shown, default=_iso))
    return plain


def _iso(value: datetime) -> str:
    return value.isoformat()
