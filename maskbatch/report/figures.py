"""Every figure of a report, from the survey of its runs: the tables, and the values of report.json."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from maskbatch.config import Expect, ReportConfig
from maskbatch.report.alerts import find_alerts, find_unreadable
from maskbatch.report.cells import FACE, PICTURE, Camera, select_kind
from maskbatch.report.clocks import find_wrong_clocks, set_times_unknown
from maskbatch.report.coverage import measure_coverage
from maskbatch.report.drift import measure_drift
from maskbatch.report.provenance import (
    Confusion,
    describe_runs,
    find_boxed,
    find_period,
    find_skipped_hours,
    read_card,
)
from maskbatch.report.survey import Survey
from maskbatch.report.tables import GROUPINGS, Tables
from maskbatch.review import corrections
from maskbatch.review.queue import UNCERTAIN, list_shown
from maskbatch.review.rate import estimate_rates
from maskbatch.runs.committed import CommittedRun
from maskbatch.schema import CONDITIONS, FACE_CONDITIONS, UNKNOWN_DATE

MAX_LISTED = 100
"""Gaps, stretches and drift tests in report.json; their Parquet files have all."""
MAPPED_CAMERAS = 60
"""Cameras on the page's maps, with single days in report.json; by_camera_day.parquet has all."""
UNLIKE_PSI = 0.25
"""A camera above this population stability index sees other pictures than the checkpoint was tested on."""
SHOWN_CANDIDATES = 24
"""The least certain of the review candidates; review.parquet has 1,000."""
CAMERA = [("site", pa.string()), ("camera", pa.string())]
LIST_TABLES = {
    "coverage": ("coverage", "by_camera", [
        *CAMERA, ("cadence_s", pa.float64()), ("source", pa.string()), ("hours", pa.list_(pa.int64())),
        ("expected", pa.int64()), ("snapshots", pa.int64()), ("coverage", pa.float64()),
        ("num_gaps", pa.int64()), ("longest_gap_s", pa.float64()),
    ]),
    "gaps": ("coverage", "gaps", [
        *CAMERA, ("from", pa.timestamp("us")), ("to", pa.timestamp("us")), ("seconds", pa.int64()),
        ("missing", pa.int64()),
    ]),
    "quality": ("quality", "by_camera", [
        *CAMERA, ("scored", pa.int64()), *[(name, pa.int64()) for name in CONDITIONS],
    ]),
    "stretches": ("quality", "stretches", [
        *CAMERA, ("condition", pa.string()), ("from", pa.timestamp("us")), ("to", pa.timestamp("us")),
        ("snapshots", pa.int64()),
    ]),
    "clocks": ("clocks", "cameras", [
        *CAMERA, ("images", pa.int64()),
        *[(name, pa.string()) for name in ("first", "last", "archive_first", "archive_last")],
        ("dates", pa.list_(pa.string())),
    ]),
    "drift": ("drift", "tests", [
        *CAMERA, ("measure", pa.string()), ("nights", pa.int64()), ("history", pa.int64()),
        ("recent", pa.float64()), ("before", pa.float64()), ("p", pa.float64()), ("q", pa.float64()),
        ("alert", pa.bool_()),
    ]),
}  # fmt: skip
"""The lists of report.json that are Parquet tables too: the section, the list, and its columns."""


def list_conditions(view: str) -> list[str]:
    """Those that pictures or faces of a run may have."""
    return [name for name in CONDITIONS if view == "scene" or name not in FACE_CONDITIONS]


def group_keys(keep_column: str | None) -> dict[str, tuple[str, ...]]:
    """What each table of rates is grouped by, by its name; the last is that of the kept column."""
    return GROUPINGS | ({f"by_{keep_column}": (keep_column,)} if keep_column else {})


def select_candidates(survey: Survey) -> pa.Table:
    """The least certain images to show. Random ones are left out: people judge them without their labels."""
    num_uncertain = survey.selection.queue["stratum"].to_pylist().count(UNCERTAIN)
    return survey.selection.candidates.slice(0, min(SHOWN_CANDIDATES, num_uncertain))


def collect_figures(
    runs: Sequence[CommittedRun],
    survey: Survey,
    config: ReportConfig,
    judgements: pd.DataFrame,
    confusion: Confusion | None,
    reason: str | None,
) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """(values of report.json, tables by name) of `runs`, from their survey and people's latest judgements.

    `confusion`: counts, true by predicted, that correct the rates, or None for the `reason`.
    """
    meaning, keep_column, view = runs[0].meaning, runs[0].keep_column, runs[0].score.view
    period = find_period(runs)
    clocks = find_wrong_clocks(select_kind(survey.cells, PICTURE))
    cells = set_times_unknown(survey.cells, clocks)
    pictures = select_kind(cells, PICTURE)
    keys = group_keys(keep_column)
    boxed = find_boxed(runs)
    rates = Tables(cells, meaning, confusion, config.exclude, view, boxed)
    tables = {name: rates.by(own) for name, own in GROUPINGS.items()}
    if view == "scene":
        tables["by_size"] = rates.by_size()
    if keep_column:
        tables[f"by_{keep_column}"] = rates.by(("kept",)).rename_columns({"kept": keep_column})
    mapped = _mapped_cameras(tables["by_camera"])
    expect = Expect.parse(config.expect) if config.expect else None
    parts = {
        "coverage": measure_coverage(pictures, expect, find_skipped_hours(runs), period, mapped),
        "quality": _quality(cells, survey, list_conditions(view)),
        "clocks": {"cameras": clocks, "images": sum(row["images"] for row in clocks)},
        "drift": measure_drift(cells, meaning.classes, read_card(runs, "reference") or {}, view),
    }
    absent = CONDITIONS.keys() - list_conditions(view)
    for name, (part, key, columns) in LIST_TABLES.items():
        kinds = [column for column in columns if column[0] not in absent]
        tables[name] = pa.Table.from_pylist(parts[part][key], pa.schema(kinds))
    tables |= {"cells": cells, "review": survey.selection.candidates}
    tables["corrections"] = pa.Table.from_pandas(judgements, corrections.SCHEMA, preserve_index=False)
    if len(runs) == 1:
        tables["queue"] = survey.selection.queue
    rows = {
        name: tables[name].to_pylist()
        for name in (*keys, "by_size")
        if name in tables and name != "by_camera_day"
    }
    in_map = [camera in mapped for camera in _cameras_of(tables["by_camera_day"])]
    rows["by_camera_day"] = tables["by_camera_day"].filter(pa.array(in_map, pa.bool_())).to_pylist()
    everything = Tables(cells, meaning, confusion, (), view, boxed) if config.exclude else rates
    overall = rows["overall"][0]
    unlike = {(row["site"], row["camera"]) for row in parts["drift"]["psi"] if row["psi"] > UNLIKE_PSI}
    values: dict[str, Any] = {
        **describe_runs(runs, config),
        "period": _period(pictures, survey, parts["clocks"]["images"]),
        **rows,
        "everything": everything.by(()).to_pylist(),
        "corrected": {
            "identifiable": confusion is not None,
            "reason": reason,
            "confusion": confusion,
            **({"boxed": boxed} if boxed else {}),
            "shares": rates.shares(),
            "unlike_cameras": len(unlike),
        },
        "judged": estimate_rates(judgements, tables.get("queue"), overall, meaning, config.exclude),
        **parts,
        "review": {
            "num_review": overall["num_review"],
            "threshold": read_card(runs, "review_threshold"),
            "candidates": select_candidates(survey).select(["rank", "run", *list_shown(view)]).to_pylist(),
        },
    }
    listings = [run["listing"] for run in values["runs"]]
    values["alerts"] = [
        *find_unreadable(listings),
        *find_alerts(tables, keys, parts["drift"], config, clocks),
    ]
    return _shorten(values), tables


def _mapped_cameras(by_camera: pa.Table) -> set[Camera]:
    """The cameras with the most assessed images, as many as a map has room for."""
    rows = by_camera.sort_by([("assessed", "descending"), ("site", "ascending"), ("camera", "ascending")])
    return set(_cameras_of(rows.slice(0, MAPPED_CAMERAS)))


def _cameras_of(rows: pa.Table) -> Iterator[Camera]:
    return zip(rows["site"].to_pylist(), rows["camera"].to_pylist(), strict=True)


def _period(pictures: pa.Table, survey: Survey, num_wrong: int) -> dict[str, Any]:
    """The time that the archive spans; `num_wrong` images of wrong clocks have no time in `pictures`."""
    frame = pictures.select(["date", "count"]).to_pandas()
    unknown = frame["date"] == UNKNOWN_DATE
    dates, num_unknown = frame["date"][~unknown].unique(), int(frame["count"][unknown].sum())
    times = [survey.times[day] for day in dates]
    return {
        "first": min((first for first, _ in times), default=None),
        "last": max((last for _, last in times), default=None),
        "days": len(dates),
        "unknown_time": num_unknown - num_wrong,
        "wrong_clock": num_wrong,
    }


def _quality(cells: pa.Table, survey: Survey, conditions: Sequence[str]) -> dict[str, Any]:
    """Images, or faces, by condition, over all and by camera, and stretches of them."""
    frame = cells.select(["site", "camera", "status", "condition", "region_kind", "count"]).to_pandas()
    frame = frame[frame["status"] == "ok"]
    for name in conditions:
        kind = FACE if name in FACE_CONDITIONS else PICTURE
        counts = (frame["condition"] == name) & (frame["region_kind"] == kind)
        frame[name] = frame["count"].where(counts, 0)
    frame["scored"] = frame["count"].where(frame["region_kind"] == PICTURE, 0)
    sums = frame.groupby(["site", "camera"], dropna=False)[["scored", *conditions]].sum().reset_index()
    return {
        "conditions": list(conditions),
        "totals": {name: int(sums[name].sum()) for name in conditions},
        "by_camera": pa.Table.from_pandas(sums, preserve_index=False).to_pylist(),
        "stretches": survey.stretches,
    }


def _shorten(values: dict[str, Any]) -> dict[str, Any]:
    """The values as JSON has them: times in ISO 8601, and the first MAX_LISTED of long lists."""
    orders: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
        ("coverage", "gaps"): lambda gap: -gap["seconds"],
        ("clocks", "cameras"): lambda clock: -clock["images"],
        ("quality", "stretches"): lambda stretch: -stretch["snapshots"],
        ("drift", "tests"): lambda test: (not test["alert"], test["p"]),
    }
    for (part, name), order in orders.items():
        rows = values[part][name]
        values[part] |= {f"num_{name}": len(rows), name: sorted(rows, key=order)[:MAX_LISTED]}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=datetime.isoformat))
    return plain
