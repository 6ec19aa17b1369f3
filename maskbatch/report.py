"""Cells to the report: who was listed, scored and failed, each class's share, compliance with its interval.

Writes report/cells.parquet, one Parquet file for each grouping, and report.json. Every figure is a
function of the cells; an HTML page would read report.json alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch import cells as cells_module
from maskbatch import schema
from maskbatch.errors import UsageError
from maskbatch.intervals import FEW_CLUSTERS, design_effects, wilson
from maskbatch.rundir import Location, RunDir, whole, write_json

GROUPINGS: dict[str, tuple[str, ...]] = {
    "overall": (),
    "by_site": ("site",),
    "by_camera": ("site", "camera"),
    "by_day": ("date",),
    "by_hour": ("hour",),
    "by_camera_day": ("site", "camera", "date"),
}
CAMERA_DAY = ("site", "camera", "date")
KEYS = cells_module.KEYS
KEY_TYPES = {key: cells_module.SCHEMA.field(key).type for key in KEYS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What the labels mean, from the checkpoint's card."""

    classes: tuple[str, ...]
    compliant: tuple[str, ...]
    not_assessed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A made report: plain values, one list of rows for each grouping."""

    runs: list[dict[str, Any]]
    meaning: Meaning
    keys: dict[str, tuple[str, ...]]
    """Columns that each table is grouped by."""
    tables: dict[str, list[dict[str, Any]]]

    @property
    def overall(self) -> dict[str, Any]:
        return self.tables["overall"][0]


def make_report(runs: Sequence[RunDir], out: Location) -> Report:
    """Report over committed runs together, written to the folder `out`. Raises UsageError."""
    opened = [_open(run) for run in runs]
    meanings = {meaning for _, meaning, _ in opened}
    if len(meanings) > 1:
        names = " and ".join("/".join(meaning.classes) for meaning in meanings)
        raise UsageError(f"these runs do not add up: their classes differ ({names}); report them apart")
    kept_columns = {identity["keep_column"] for identity, _, _ in opened}
    if len(kept_columns) > 1:
        names = " and ".join(sorted(name or "none" for name in kept_columns))
        message = f"these runs do not add up: their --keep-column differs ({names}); report them apart"
        raise UsageError(message)
    if len(runs) > 1:
        _refuse_overlap(runs, [success for _, _, success in opened])
    keep_column = kept_columns.pop()
    merged = cells_module.merge(
        cells_module.cells_of_run(run.path, success, keep_column)
        for run, (_, _, success) in zip(runs, opened, strict=True)
    )
    meaning = opened[0][1]
    groupings = GROUPINGS | ({f"by_{keep_column}": ("kept",)} if keep_column else {})
    shown = {"kept": keep_column or "kept"}
    report = Report(
        runs=[identity for identity, _, _ in opened],
        meaning=meaning,
        keys={name: tuple(shown.get(key, key) for key in keys) for name, keys in groupings.items()},
        tables={
            name: [
                {shown.get(key, key): value for key, value in row.items()}
                for row in group_table(merged, keys, meaning)
            ]
            for name, keys in groupings.items()
        },
    )
    _write(report, merged, out)
    return report


def _open(run: RunDir) -> tuple[dict[str, Any], Meaning, dict[str, Any]]:
    settings = run.read_run() if run.run_json.exists() else None
    success = run.read_success()
    if settings is None:
        raise UsageError(
            f"{run.path}: no run is there; make one with `maskbatch score ARCHIVE --out {run.path}`"
        )
    if success is None:
        raise UsageError(
            f"{run.path}: this run is not finished; finish it with the `maskbatch score` that began it"
        )
    card = settings["checkpoint"]["card"]
    meaning = Meaning(**{name: tuple(card[name]) for name in ("classes", "compliant", "not_assessed")})
    identity = {
        "path": str(run.path),
        "archives": settings["plan"]["archives"],
        "keep_column": settings["plan"].get("keep_column"),
        "checkpoint": settings["checkpoint"]["digest"],
        "created_at": settings["created_at"],
        "listing": settings["listing"],
        "versions": settings["versions"],
        "planned": success["planned"],
        "statuses": success["statuses"],
    }
    return identity, meaning, success


def _refuse_overlap(runs: Sequence[RunDir], successes: Sequence[dict[str, Any]]) -> None:
    """Raises UsageError where two runs hold the same uri: adding them would count it twice."""
    seen = np.empty(0, np.uint64)
    for run, success in zip(runs, successes, strict=True):
        files = cells_module.score_files(success)
        columns = [cells_module.read_scores(run.path, item, ["uri"])["uri"].to_pandas() for item in files]
        hashes = pd.util.hash_array(pd.concat(columns).to_numpy(object)) if columns else seen[:0]
        shared = len(np.intersect1d(seen, hashes))
        if shared:
            raise UsageError(
                f"{run.path}: {shared:,} of its images are in another run too; report them apart"
            )
        seen = np.concatenate([seen, hashes])


def group_table(cells: pa.Table, keys: tuple[str, ...], meaning: Meaning) -> list[dict[str, Any]]:
    """One row for each group of `keys`, in their order: counts, shares, compliance and its 95 % interval."""
    frame = _counted(cells, meaning)
    one_day = keys == CAMERA_DAY or len(frame.drop_duplicates(list(CAMERA_DAY))) <= 1
    clusters = ["_all", *CAMERA_DAY, *(["hour"] if one_day else [])]
    groups = frame.groupby(["_all", *keys], dropna=False)
    sums = groups[[name for name in frame if name not in ("_all", *KEYS)]].sum().reset_index()
    frame["_group"] = groups.ngroup()
    by_cluster = (
        frame.groupby(["_group", *clusters], dropna=False)[["compliant", "assessed"]].sum().reset_index()
    )
    by_cluster = by_cluster[by_cluster["assessed"] > 0]
    effects = design_effects(
        by_cluster["compliant"].to_numpy(np.float64),
        by_cluster["assessed"].to_numpy(np.float64),
        by_cluster["_group"].to_numpy(np.int64),
        len(sums),
    )
    low, high = wilson(sums["compliant"].to_numpy(np.float64), sums["assessed"].to_numpy(np.float64), effects)
    for name in meaning.classes:
        sums[f"share_{name}"] = sums[f"num_{name}"] / sums["scored"]
    sums["compliance"] = sums["compliant"] / sums["assessed"]
    sums["compliance_low"], sums["compliance_high"] = low, high
    sums["design_effect"], sums["num_clusters"] = effects.effect_G, effects.num_clusters_G
    sums["few_clusters"] = effects.num_clusters_G < FEW_CLUSTERS
    sums["mean_confidence"] = sums["confidence_sum"] / sums["scored"]
    names = _table_schema(keys, meaning).names
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in sums[names].to_dict("records")
    ]


def _counted(cells: pa.Table, meaning: Meaning) -> pd.DataFrame:
    """Cells as a frame: their keys, and what each cell adds to every count of the report."""
    frame = cells.select([*KEYS, "count", "confidence_sum"]).to_pandas()
    frame["hour"] = frame["hour"].astype("Int64")  # whole also where a time is unknown
    count, ok = frame.pop("count"), frame["status"] == "ok"
    frame["_all"] = 0
    frame["listed"], frame["scored"] = count, count.where(ok, 0)
    for name in schema.STATUSES:
        if name != "ok":
            frame[f"failed_{name}"] = count.where(frame["status"] == name, 0)
    for name in meaning.classes:
        frame[f"num_{name}"] = count.where(frame["label"] == name, 0)
    frame["assessed"] = count.where(ok & ~frame["label"].isin(meaning.not_assessed), 0)
    frame["compliant"] = count.where(ok & frame["label"].isin(meaning.compliant), 0)
    frame["num_review"] = count.where(frame["needs_review"], 0)
    return frame


def _write(report: Report, merged: pa.Table, out: Location) -> None:
    tables = {"cells": merged}
    tables |= {
        name: pa.Table.from_pylist(rows, _table_schema(report.keys[name], report.meaning))
        for name, rows in report.tables.items()
    }
    for name, table in tables.items():
        with whole(out / f"{name}.parquet") as partial:
            pq.write_table(table, partial)
    values = {"runs": report.runs, "classes": report.meaning.classes, "compliant": report.meaning.compliant}
    write_json(out / "report.json", {**values, "not_assessed": report.meaning.not_assessed, **report.tables})


def _table_schema(keys: tuple[str, ...], meaning: Meaning) -> pa.Schema:
    whole_number, real = pa.int64(), pa.float64()
    return pa.schema(
        [
            *[(key, KEY_TYPES.get(key, pa.string())) for key in keys],
            ("listed", whole_number),
            ("scored", whole_number),
            *[(f"failed_{name}", whole_number) for name in schema.STATUSES if name != "ok"],
            ("assessed", whole_number),
            *[(f"num_{name}", whole_number) for name in meaning.classes],
            *[(f"share_{name}", real) for name in meaning.classes],
            ("compliant", whole_number),
            ("compliance", real),
            ("compliance_low", real),
            ("compliance_high", real),
            ("design_effect", real),
            ("num_clusters", whole_number),
            ("few_clusters", pa.bool_()),
            ("mean_confidence", real),
            ("num_review", whole_number),
        ]
    )
