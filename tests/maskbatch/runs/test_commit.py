import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from maskbatch import schema
from maskbatch.errors import RunFailedError, RunLockedError, UsageError
from maskbatch.plan.table import read_plan
from maskbatch.runs import commit
from maskbatch.runs.commit import Effort
from maskbatch.runs.committed import open_committed, read_files
from maskbatch.runs.lease import Lease
from maskbatch.runs.staging import count_staged, read_staged, shard_path, write_shard
from maskbatch.stores import files as files_module
from maskbatch.stores.files import Check, Location, find_names, list_names, no_check, remove_tree
from tests.maskbatch.samples import CLASSES, Run, edit_json, read_scores, write_rows

NUM_IMAGES = 102
STATUSES = {"ok": 98, "missing": 1, "unsupported": 1, "truncated": 2}


def scores(made: Run) -> pa.Table:
    return ds.dataset(made.run.scores, partitioning="hive").to_table().sort_by("id")


def change(made: Run, shard: int, **columns: Any) -> None:
    """Rewrite a staged shard with some of its columns replaced."""
    table = read_staged(shard_path(made.run.staging, shard))
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    write_rows(shard_path(made.run.staging, shard), table)


def test_every_planned_image_is_committed_exactly_once(committed: Run) -> None:
    table = scores(committed)
    assert table["id"].to_pylist() == list(range(NUM_IMAGES))
    assert table["uri"].to_pylist() == read_plan(committed.run.plan, 0, NUM_IMAGES)["uri"].to_pylist()
    assert Counter(table["status"].to_pylist()) == STATUSES
    success = committed.run.read_success()
    assert (success.planned, success.statuses) == (NUM_IMAGES, STATUSES)
    assert table.schema.names == [*schema.scores(CLASSES).names, "date"]


def test_rows_are_partitioned_by_local_day_and_unknown(committed: Run) -> None:
    for row in scores(committed).to_pylist():
        local = row["captured_local"]
        assert row["date"] == ("unknown" if local is None else f"{local:%Y-%m-%d}")
    midnight = [
        row
        for row in scores(committed).to_pylist()
        if row["captured_local"] and not row["captured_local"].hour
    ]
    assert all(f"{row['captured_at']:%Y-%m-%d}" < row["date"] for row in midnight)
    assert len(midnight) == 33
    assert sorted(path.name for path in committed.run.scores.iterdir()) == [
        "date=2026-10-01", "date=2026-10-02", "date=2026-10-03", "date=unknown",
    ]  # fmt: skip


def test_pandas_duckdb_and_pyarrow_read_the_same_scores(committed: Run) -> None:
    folder = committed.run.scores
    frame = pd.read_parquet(folder)
    assert len(frame) == NUM_IMAGES
    by_pandas = frame.astype({"date": str}).groupby("date").size().to_dict()
    query = (
        f"select date, count(*) from read_parquet('{folder}/*/*.parquet', hive_partitioning=true, "
        "hive_types={'date': VARCHAR}) group by date"
    )
    by_duckdb = dict(duckdb.sql(query).fetchall())
    by_pyarrow = Counter(ds.dataset(folder, partitioning="hive").to_table(["date"])["date"].to_pylist())
    assert by_pandas == by_duckdb == by_pyarrow
    assert set(by_duckdb) == {"2026-10-01", "2026-10-02", "2026-10-03", "unknown"}


def test_success_lists_every_file_with_its_rows_and_digest(committed: Run) -> None:
    listed = {file.name: file for file in committed.run.read_success().files}
    there = [path for path in committed.run.path.rglob("*") if path.is_file()]
    names = {path.relative_to(committed.run.path).as_posix() for path in there}
    assert set(listed) == {n for n in names if n == "run.json" or n.startswith(("plan/", "scores/"))}
    for name, file in listed.items():
        path = committed.run.path / name
        data = path.read_bytes()
        assert (file.num_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        if path.suffix == ".parquet":
            assert file.rows == pq.read_metadata(path).num_rows


def test_a_repeated_commit_writes_the_same_files(staged_at: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "RANGE_ROWS", 64)  # two ranges
    first = staged_at.commit()
    staged_at.run.success.unlink()
    (staged_at.run.scores / "date=2026-10-01" / "part-000000000007.parquet").write_bytes(b"of another commit")
    assert staged_at.commit().files == first.files
    assert {Path(file.name).name for file in first.files if file.name.startswith("scores/")} == {
        "part-000000000000.parquet", "part-000000000064.parquet",
    }  # fmt: skip
    assert read_scores(staged_at.run)["id"].to_pylist() == list(range(NUM_IMAGES))


def test_the_bytes_of_a_commit_do_not_tell_how_its_shards_were_staged(staged: Run) -> None:
    first = staged.commit()
    staged.run.success.unlink()
    for place, path in enumerate(sorted(staged.run.staging.iterdir())):  # as if each was scored again
        rows = read_staged(path)
        order = np.random.default_rng(place).permutation(len(rows))
        pq.write_table(rows.take(order), path, row_group_size=5 + place, compression="zstd")
    assert staged.commit().files == first.files


def test_a_commit_writes_nothing_once_another_driver_holds_the_lease(staged_at: Run) -> None:
    effort = Effort(began=0.0)
    with Lease(staged_at.run) as lease:
        edit_json(staged_at.run.lease, owner="another")
        with pytest.raises(RunLockedError, match="took the run over while this one slept"):
            commit.commit_run(staged_at.work, effort, 1, lease)
    assert not find_names(staged_at.run.scores) and not staged_at.run.success.exists()


def test_rows_that_another_version_staged_meanwhile_are_not_committed(staged_at: Run) -> None:
    path = shard_path(staged_at.run.staging, 2)
    write_shard(staged_at.run.staging, 2, read_staged(path), "cpu/float32", "of older rules")
    with pytest.raises(
        RunFailedError, match=r"staged some of these rows meanwhile; run the same command again"
    ):
        staged_at.commit()
    assert 2 not in count_staged(staged_at.run.staging, staged_at.work.run_id).shards  # it is scored again


@pytest.mark.parametrize(
    "said", ["Expected all lists to be of size=4 but index 1 had size=0", "Something new"]
)
def test_a_staged_shard_that_this_pyarrow_cannot_read_stays(
    said: str, staged_at: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise pa.ArrowInvalid(said)

    monkeypatch.setattr(pq, "read_table", refuse)  # as pyarrow below 26 did of fixed-size lists
    with pytest.raises(RunFailedError, match=r"does not read .*, then run the same command again") as failed:
        staged_at.commit()
    assert ("install pyarrow 26 or later" in str(failed.value)) == said.startswith("Expected")
    assert len(list_names(staged_at.run.staging)) == staged_at.work.num_shards


def test_a_run_in_a_store_commits_the_files_of_a_local_one(committed: Run, staged_at: Run) -> None:
    assert staged_at.commit().files == committed.run.read_success().files
    assert read_scores(staged_at.run).equals(read_scores(committed.run))
    assert list_names(staged_at.run.path) == ["_SUCCESS", "plan", "run.json", "scores", "staging"]


def test_a_commit_whose_answer_was_lost_is_ones_own(staged_at: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write = files_module.write_json

    def write_twice(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        write(*arguments, **options)

    monkeypatch.setattr(commit, "write_json", write_twice)
    assert staged_at.commit() == staged_at.run.read_success()


def test_another_drivers_commit_at_the_same_moment_stands(
    staged_at: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(staged_at.commit(), exit_code=3)
    staged_at.run.success.unlink()
    write = files_module.write_json

    def too_late(path: Location, values: dict[str, Any], *, exclusive: bool, check: Check) -> None:
        write(path, other.to_json())
        write(path, values, exclusive=exclusive)

    monkeypatch.setattr(commit, "write_json", too_late)
    with pytest.raises(RunLockedError, match="another driver committed it"):
        staged_at.commit()
    assert staged_at.run.read_success() == other


def test_rows_staged_in_another_order_are_committed_by_id(staged: Run) -> None:
    path = shard_path(staged.run.staging, 1)
    pq.write_table(pq.read_table(path).take(list(range(31, -1, -1))), path)
    staged.commit()
    for path in staged.run.scores.rglob("*.parquet"):
        ids = pq.read_table(path, columns=["id"], partitioning=None)["id"].to_pylist()
        assert ids == sorted(ids)


def test_a_driver_that_slept_through_its_lease_does_not_touch_what_another_committed(staged: Run) -> None:
    committed = staged.commit()
    files = {path: path.stat().st_mtime_ns for path in staged.run.scores.rglob("*.parquet")}
    remove_tree(staged.run.staging)
    assert staged.commit(max_error_rate=1) == committed
    assert {path: path.stat().st_mtime_ns for path in staged.run.scores.rglob("*.parquet")} == files
    with pytest.raises(UsageError, match="never thrown away"):
        staged.run.clear(no_check)


def test_a_staged_shard_whose_pages_are_damaged_is_scored_again(staged_at: Run) -> None:
    path = shard_path(staged_at.run.staging, 0)
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(RunFailedError, match="does not read"):
        staged_at.commit()
    assert not path.exists()
    assert not staged_at.run.success.exists()


def test_a_file_that_has_other_rows_than_were_committed_is_named(staged: Run) -> None:
    staged.commit()
    path = next(staged.run.scores.rglob("*.parquet"))
    rows = pq.ParquetFile(path).read()
    pq.write_table(rows.slice(1), path)
    with pytest.raises(UsageError, match=r"rows, [\d,]+ were committed"):
        one = open_committed(staged.run)
        list(read_files([(one, file) for file in one.score_files()], ["id"]))


def test_a_run_below_a_folder_named_like_a_partition_commits(staged_session: Run, tmp_path: Path) -> None:
    made = staged_session.copy(tmp_path / "date=1999-01-01" / "site=x" / "run")
    made.commit()
    assert "1999-01-01" not in scores(made)["date"].to_pylist()


@pytest.mark.parametrize(("allowed", "code"), [(0.05, 0), (4 / NUM_IMAGES, 0), (0.039, 3), (0.0, 3)])
def test_more_failures_than_allowed_give_exit_code_3(staged: Run, allowed: float, code: int) -> None:
    assert staged.commit(allowed).exit_code == code


def missing_shard(made: Run) -> None:
    shard_path(made.run.staging, 1).unlink()


def unreadable_shard(made: Run) -> None:
    shard_path(made.run.staging, 1).write_bytes(b"PAR1 cut off")


def duplicated_id(made: Run) -> None:
    change(made, 0, id=[0, 0, *range(2, 32)])


def missing_row(made: Run) -> None:
    path = shard_path(made.run.staging, 3)
    write_rows(path, read_staged(path).slice(1))


def foreign_id(made: Run) -> None:
    change(made, 3, id=[*range(96, 101), 500])


def another_shards_rows(made: Run) -> None:
    write_rows(shard_path(made.run.staging, 1), read_staged(shard_path(made.run.staging, 0)))


def foreign_uri(made: Run) -> None:
    uris = read_staged(shard_path(made.run.staging, 2))["uri"].to_pylist()
    change(made, 2, uri=[uris[1], uris[0], *uris[2:]])


def unknown_status(made: Run) -> None:
    change(made, 1, status=["fine", *["ok"] * 31])


def no_whole_image(made: Run) -> None:
    change(made, 0, region=[1, *[0] * 31])


@pytest.mark.parametrize(
    "spoil",
    [
        missing_shard, unreadable_shard, duplicated_id, missing_row, foreign_id, another_shards_rows, foreign_uri,
        unknown_status, no_whole_image,
    ],
)  # fmt: skip
def test_nothing_is_committed_when_the_rows_are_not_the_planned_ones(staged_at: Run, spoil: Any) -> None:
    spoil(staged_at)
    with pytest.raises(RunFailedError) as failed:
        staged_at.commit()
    assert str(staged_at.run.path) in str(failed.value)
    assert not staged_at.run.success.exists()
    assert len(list_names(staged_at.run.staging)) >= 3  # what is staged stays
