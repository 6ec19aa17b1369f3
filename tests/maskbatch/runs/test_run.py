"""A run opened from Python, in a folder and in a store."""

from pathlib import Path

import pyarrow as pa
import pytest

from maskbatch.errors import UsageError
from maskbatch.report.make import make_report
from maskbatch.runs.run import open_run
from tests.maskbatch.samples import Run, read_scores


def test_its_rows_are_those_of_the_listed_files_with_their_local_day(staged_at: Run) -> None:
    staged_at.commit()
    expected = read_scores(staged_at.run)
    (staged_at.run.scores / "date=2026-10-01" / "more.parquet").write_bytes(b"of nobody")
    scores = open_run(str(staged_at.run.path)).scores()
    assert scores.schema.field("date").type == pa.string()
    table = scores.to_table().sort_by("id")
    assert table.drop_columns("date").equals(expected)
    assert set(table["date"].to_pylist()) == {"2026-10-01", "2026-10-02", "2026-10-03", "unknown"}


def test_a_run_below_a_folder_named_like_a_partition_has_its_own_days(committed: Run, tmp_path: Path) -> None:
    copy = committed.copy(tmp_path / "date=1999-01-01" / "site=x" / "run")
    scores = open_run(str(copy.run.path)).scores()
    assert "1999-01-01" not in scores.to_table()["date"].to_pylist() and "x" not in scores.schema.names


def test_its_report_and_tables_are_there_once_they_are_made(staged_at: Run) -> None:
    staged_at.commit()
    run = open_run(str(staged_at.run.path))
    assert (run.path, run.status.state) == (str(staged_at.run.path), "committed")
    for ask in (lambda: run.report, lambda: run.table("by_camera")):
        with pytest.raises(UsageError, match=r"make (one|it) with `maskbatch report"):
            ask()
    report = make_report([staged_at.run], staged_at.run.report)
    assert run.report == report.values
    assert run.table("by_camera").equals(report.tables["by_camera"])
    with pytest.raises(UsageError, match=r"no table 'by_moon' is there; one of by_camera, .* expected"):
        run.table("by_moon")


def test_a_run_that_is_not_there_or_not_committed_is_refused(staged: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run is there"):
        open_run(str(tmp_path / "nowhere"))
    run = open_run(str(staged.run.path))
    assert run.status.planned == 102
    with pytest.raises(UsageError, match="not finished"):
        run.scores()
