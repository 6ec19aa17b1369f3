from collections import Counter

import pyarrow as pa
import pytest

from maskbatch.runs.staging import Staged, count_staged, read_staged, read_summary, shard_path, write_shard
from maskbatch.stores.files import Location, list_names
from tests.maskbatch.samples import write_rows


def table(*statuses: str) -> pa.Table:
    """Of each image one row, and one more of a face."""
    status, region = [*statuses, "ok"], [0] * len(statuses) + [1]
    return pa.table({"id": range(len(status)), "region": region, "status": status})


def test_a_shard_is_one_object_whose_footer_counts_its_statuses(root: Location) -> None:
    counts = write_shard(root / "staging", 7, table("ok", "missing", "ok"), "cpu/float32", "run")
    assert counts == {"ok": 2, "missing": 1}
    assert count_staged(root / "staging", "run") == Staged({7}, Counter(counts), Counter({"cpu/float32": 1}))
    assert read_staged(shard_path(root / "staging", 7)).equals(table("ok", "missing", "ok"))
    assert list_names(root / "staging") == ["00000007.parquet"]


def test_a_repeated_shard_overwrites_its_name(root: Location) -> None:
    write_shard(root, 0, table("ok"), "cpu", "run")
    write_shard(root, 0, table("ok", "corrupt"), "cuda", "run")
    assert count_staged(root, "run") == Staged({0}, Counter(ok=1, corrupt=1), Counter(cuda=1))


def test_only_a_shard_whose_footer_reads_is_done(root: Location) -> None:
    for shard in range(5):
        write_shard(root, shard, table("ok"), "cpu", "run")
    data = shard_path(root, 0).read_bytes()
    shard_path(root, 0).write_bytes(data[: len(data) // 2])
    shard_path(root, 1).write_bytes(b"")
    write_rows(shard_path(root, 2), table("ok"))  # somebody else's: no summary
    shard_path(root, 3).unlink()
    shard_path(root, 3).mkdir()
    assert count_staged(root, "run").shards == {4}
    assert read_summary(shard_path(root, 99), "run") is None
    for damaged in (0, 1):
        with pytest.raises(pa.ArrowInvalid):
            read_staged(shard_path(root, damaged))
    with pytest.raises(FileNotFoundError):
        read_staged(shard_path(root, 99))


def test_other_files_are_no_shards_and_a_missing_folder_is_empty(root: Location) -> None:
    write_shard(root, 123_456_789, table("ok"), "cpu", "run")
    for name in (".00000001.parquet.ab12", "notes.txt", "00000001.parquet.tmp", "1.parquet"):
        (root / name).write_bytes(b"x")
    assert count_staged(root, "run").shards == {123_456_789}
    assert count_staged(root / "nowhere", "run") == Staged()


def test_a_shard_that_another_run_left_is_not_taken_for_done(root: Location) -> None:
    write_shard(root, 0, table("ok"), "cpu", "another run")
    write_shard(root, 1, table("ok"), "cpu", "run")
    assert count_staged(root, "run").shards == {1}
