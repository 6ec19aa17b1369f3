import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from samples import CLASSES, Run, stage_run
from test_cells import SCHEMA, tables

from maskbatch import schema
from maskbatch.cells import cells_of_rows
from maskbatch.checkpoint import Checkpoint
from maskbatch.errors import UsageError
from maskbatch.report import GROUPINGS, Meaning, group_table, make_report
from maskbatch.rundir import Location, RunDir, names, write_json

MEANING = Meaning(classes=CLASSES, compliant=("with_mask",), not_assessed=("no_face",))
COUNTS = [
    "listed", "scored", "assessed", "compliant", "num_review", *[f"num_{name}" for name in CLASSES],
    *[f"failed_{name}" for name in schema.STATUSES if name != "ok"],
]  # fmt: skip


def one_day(labels: list[str | None], status: str = "ok") -> pa.Table:
    rows = [
        {"site": "n", "camera": "1", "captured_local": datetime(2026, 10, 3, i % 24), "status": status,
         "label": label, "needs_review": i % 2 == 1, "region": 0, "confidence": 0.5 if label else None}
        for i, label in enumerate(labels)
    ]  # fmt: skip
    return cells_of_rows(pa.Table.from_pylist(rows, SCHEMA), "2026-10-03")


@settings(max_examples=15)
@given(tables.filter(lambda rows: 0 in rows["region"].to_pylist()))
def test_the_groups_of_every_table_sum_to_the_overall_row(rows: pa.Table) -> None:
    cells = cells_of_rows(rows, "2026-10-03")
    (overall,) = group_table(cells, (), MEANING)
    assert overall["listed"] == overall["scored"] + sum(overall[c] for c in COUNTS if c.startswith("failed_"))
    for keys in GROUPINGS.values():
        groups = group_table(cells, keys, MEANING)
        assert len({tuple(group[key] for key in keys) for group in groups}) == len(groups)
        for name in COUNTS:
            assert sum(group[name] for group in groups) == overall[name]


def test_the_figures_of_a_group_follow_from_its_counts() -> None:
    labels = ["with_mask"] * 6 + ["without_mask"] * 2 + ["incorrect_mask", "no_face"]
    (row,) = group_table(one_day([*labels]), (), MEANING)
    assert (row["listed"], row["scored"], row["assessed"], row["compliant"]) == (10, 10, 9, 6)
    assert row["compliance"] == 6 / 9
    assert [row[f"share_{name}"] for name in CLASSES] == [0.6, 0.2, 0.1, 0.1]
    assert row["compliance_low"] < 6 / 9 < row["compliance_high"]
    assert (row["mean_confidence"], row["num_review"]) == (0.5, 5)


@pytest.mark.parametrize("name", GROUPINGS)
def test_nothing_scored_gives_none_instead_of_figures(name: str) -> None:
    (row,) = group_table(one_day([None], "missing"), GROUPINGS[name], MEANING)
    assert (row["listed"], row["scored"], row["failed_missing"]) == (1, 0, 1)
    shares = [f"share_{label}" for label in CLASSES]
    for figure in ("compliance", "compliance_low", "compliance_high", "mean_confidence", *shares):
        assert row[figure] is None


@pytest.mark.parametrize("name", GROUPINGS)
def test_nothing_assessed_gives_shares_and_no_compliance(name: str) -> None:
    (row,) = group_table(one_day(["no_face"]), GROUPINGS[name], MEANING)
    assert (row["scored"], row["assessed"], row["share_no_face"]) == (1, 0, 1)
    assert row["compliance"] is row["compliance_low"] is row["compliance_high"] is None


def test_the_report_counts_the_committed_rows(committed: Run, tmp_path: Path) -> None:
    overall = make_report([committed.run], tmp_path).overall
    rows = ds.dataset(committed.run.scores, partitioning="hive").to_table().to_pylist()
    assert overall["listed"] == len(rows)
    assert overall["scored"] == sum(row["status"] == "ok" for row in rows)
    assert overall["compliant"] == sum(row["label"] == "with_mask" for row in rows)
    assert overall["assessed"] == sum(row["label"] not in (None, "no_face") for row in rows)
    assert overall["num_review"] == sum(row["needs_review"] for row in rows)


def test_the_json_equals_the_parquet_tables(committed: Run, tmp_path: Path) -> None:
    report = make_report([committed.run], tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    for name in GROUPINGS:
        assert pq.read_table(tmp_path / f"{name}.parquet").to_pylist() == values[name] == report.tables[name]
    assert values["classes"] == list(CLASSES)
    assert len(values["by_camera"]) > 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.json", "cells.parquet", *(f"{name}.parquet" for name in GROUPINGS),
    }  # fmt: skip


def test_a_run_in_a_store_gives_the_report_of_a_local_one(
    committed: Run, root: Location, tmp_path: Path
) -> None:
    local = make_report([committed.run], tmp_path / "report")
    made = committed.copy(root / "run").run
    report = make_report([made], made.report)
    assert (report.tables, report.meaning) == (local.tables, local.meaning)
    assert report.runs[0]["path"] == str(made.path)
    assert names(made.report) == names(tmp_path / "report")
    for name in ("cells", *GROUPINGS):
        path = made.report / f"{name}.parquet"
        assert path.read_bytes() == (tmp_path / "report" / path.name).read_bytes()


def test_several_runs_add_up_unless_they_share_images(
    month: Path, checkpoint: Checkpoint, committed: Run, tmp_path: Path
) -> None:
    made = [stage_run(tmp_path / name, month, checkpoint, camera=(name,)) for name in ("gate-1", "dock")]
    for run in made:
        run.commit()
    parts = [make_report([run.run], tmp_path / "part").overall for run in made]
    both = make_report([run.run for run in made], tmp_path / "both")
    for name in COUNTS:
        assert both.overall[name] == sum(part[name] for part in parts)
    assert both.overall["listed"] == 66
    with pytest.raises(UsageError, match="102 of its images are in another run too"):
        make_report([committed.run, committed.copy(tmp_path / "copy").run], tmp_path / "twice")


def test_only_a_committed_run_is_reported(staged_at: Run, root: Location) -> None:
    with pytest.raises(UsageError, match="not finished"):
        make_report([staged_at.run], root / "report")
    with pytest.raises(UsageError, match="no run is there"):
        make_report([RunDir(root / "nowhere")], root / "report")
    assert names(root / "report") == []


def test_runs_of_different_classes_do_not_add_up(committed: Run, tmp_path: Path) -> None:
    other = committed.copy(tmp_path / "other").run
    settings: dict[str, Any] = other.read_run() or {}
    settings["checkpoint"]["card"]["compliant"] = ["with_mask", "incorrect_mask"]
    write_json(other.run_json, settings)
    with pytest.raises(UsageError, match="do not add up"):
        make_report([committed.run, other], tmp_path / "report")


def test_a_folder_that_is_no_run_is_called_so_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match="no run is there; make one"):
        make_report([RunDir.at(str(tmp_path))], tmp_path / "report")
