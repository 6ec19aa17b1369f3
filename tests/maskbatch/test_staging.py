from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.staging import read_summary, shard_path, staged, write_shard


def table(*statuses: str) -> pa.Table:
    return pa.table({"id": range(len(statuses)), "status": list(statuses)})


def test_a_shard_is_one_object_whose_footer_counts_its_statuses(tmp_path: Path) -> None:
    counts = write_shard(tmp_path / "staging", 7, table("ok", "missing", "ok"), "cpu/float32", "run")
    assert counts == {"ok": 2, "missing": 1}
    assert staged(tmp_path / "staging", "run") == {7: (counts, "cpu/float32")}
    assert pq.read_table(shard_path(tmp_path / "staging", 7)).equals(table("ok", "missing", "ok"))
    assert [path.name for path in (tmp_path / "staging").iterdir()] == ["00000007.parquet"]


def test_a_repeated_shard_overwrites_its_name(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, table("ok"), "cpu", "run")
    write_shard(tmp_path, 0, table("ok", "corrupt"), "cuda", "run")
    assert staged(tmp_path, "run") == {0: ({"ok": 1, "corrupt": 1}, "cuda")}


def test_only_a_shard_whose_footer_reads_is_done(tmp_path: Path) -> None:
    for shard in range(5):
        write_shard(tmp_path, shard, table("ok"), "cpu", "run")
    data = shard_path(tmp_path, 0).read_bytes()
    shard_path(tmp_path, 0).write_bytes(data[: len(data) // 2])
    shard_path(tmp_path, 1).write_bytes(b"")
    pq.write_table(table("ok"), shard_path(tmp_path, 2))  # somebody else's: no summary
    shard_path(tmp_path, 3).unlink()
    shard_path(tmp_path, 3).mkdir()
    assert list(staged(tmp_path, "run")) == [4]
    assert read_summary(shard_path(tmp_path, 99), "run") is None


def test_other_files_are_no_shards_and_a_missing_folder_is_empty(tmp_path: Path) -> None:
    write_shard(tmp_path, 123_456_789, table("ok"), "cpu", "run")
    for name in (".00000001.parquet.ab12", "notes.txt", "00000001.parquet.tmp", "1.parquet"):
        (tmp_path / name).write_bytes(b"x")
    assert list(staged(tmp_path, "run")) == [123_456_789]
    assert staged(tmp_path / "nowhere", "run") == {}


def test_a_shard_that_another_run_left_is_not_taken_for_done(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, table("ok"), "cpu", "another run")
    write_shard(tmp_path, 1, table("ok"), "cpu", "run")
    assert list(staged(tmp_path, "run")) == [1]
