"""A shard's rows as one object, `staging/<shard>.parquet`: the checkpoint that a resumed run starts from."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.rundir import whole

SUMMARY_KEY = b"maskbatch"
NAME = re.compile(r"(\d{8,})\.parquet")


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard's rows lie."""
    return folder / f"{shard:08d}.parquet"


def write_shard(folder: Path, shard: int, table: pa.Table, device: str, run_id: str) -> dict[str, int]:
    """Write a shard's scores rows, whole; returns its images by status, which its footer also holds."""
    counts = dict(Counter(table["status"].to_pylist()))
    summary = json.dumps({"statuses": counts, "device": device, "run_id": run_id}, sort_keys=True)
    with whole(shard_path(folder, shard)) as partial:
        pq.write_table(table.replace_schema_metadata({SUMMARY_KEY: summary}), partial)
    return counts


def read_summary(path: Path, run_id: str) -> tuple[dict[str, int], str] | None:
    """Images by status and the device that scored them; None for a footer that is not this run's."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        summary = json.loads(metadata[SUMMARY_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None
    return (summary["statuses"], summary["device"]) if summary.get("run_id") == run_id else None


def staged(folder: Path, run_id: str) -> dict[int, tuple[dict[str, int], str]]:
    """The shards that are done, with their summaries; one whose footer does not read is not done."""
    found = _shards(item.name for item in folder.iterdir()) if folder.is_dir() else []
    with ThreadPoolExecutor(8) as pool:
        summaries = pool.map(lambda shard: read_summary(shard_path(folder, shard), run_id), found)
        return {shard: s for shard, s in zip(found, summaries, strict=True) if s is not None}


def _shards(names: Iterable[str]) -> list[int]:
    return sorted(int(match[1]) for match in map(NAME.fullmatch, names) if match)
