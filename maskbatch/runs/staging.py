"""A shard's rows as one file, `staging/<shard>.parquet`; a resumed run goes on from these."""

import json
import re
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskbatch.stores.files import Location, list_names, num_threads, open_file, parse_json, write_whole

SUMMARY_KEY = b"maskbatch"
NAME = re.compile(r"(\d{8,})\.parquet")


def shard_path(folder: Location, shard: int) -> Location:
    """Where a shard's rows lie."""
    return folder / f"{shard:08d}.parquet"


def write_shard(folder: Location, shard: int, table: pa.Table, device: str, run_id: str) -> dict[str, int]:
    """Write a shard's scores rows, whole; returns its images by status, which the footer holds too."""
    whole_images = table.filter(pc.equal(table["region"], 0))
    counts = dict(Counter(whole_images["status"].to_pylist()))
    summary = json.dumps({"statuses": counts, "device": device, "run_id": run_id}, sort_keys=True)
    with write_whole(shard_path(folder, shard)) as partial:
        summed = table.replace_schema_metadata({SUMMARY_KEY: summary})
        pq.write_table(summed, partial, write_page_checksum=True)
    return counts


def write_sign(folder: Location, shard: int) -> None:
    """Show the driver that work on a shard goes on which takes unusually long: a new name in staging."""
    with write_whole(folder / f"at-work-{shard:08d}-{uuid.uuid4().hex}") as partial:
        partial.touch()


def list_signs(folder: Location) -> set[str]:
    """The names of the signs so far."""
    return {name for name in list_names(folder) if name.startswith("at-work-")}


def read_staged(path: Location) -> pa.Table:
    """A shard's rows. Raises pa.ArrowInvalid for damaged bytes, and what reading them raises."""
    data = path.read_bytes()
    try:
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:  # Arrow's, of bytes that are there
        raise pa.ArrowInvalid(str(error)) from error


def is_of_run(table: pa.Table, run_id: str) -> bool:
    """Whether a staged table was scored for this run."""
    return _read_metadata(table.schema, run_id) is not None


def read_summary(path: Location, run_id: str) -> tuple[dict[str, int], str] | None:
    """Images by status and the device that scored them; None for a footer that is not this run's."""
    try:
        with open_file(path) as file:
            return _read_metadata(pq.read_schema(file), run_id)
    except (OSError, pa.ArrowInvalid):
        return None


def _read_metadata(schema: pa.Schema, run_id: str) -> tuple[dict[str, int], str] | None:
    try:
        summary = parse_json((schema.metadata or {})[SUMMARY_KEY])
        statuses = {name: int(num) for name, num in summary["statuses"].items()}
        return (statuses, str(summary["device"])) if summary["run_id"] == run_id else None
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def list_staged(folder: Location, run_id: str) -> dict[int, tuple[dict[str, int], str]]:
    """The shards that are done, with their summaries; done are those whose footer reads."""
    found = sorted(int(match[1]) for match in map(NAME.fullmatch, list_names(folder)) if match)
    with ThreadPoolExecutor(num_threads(folder)) as pool:
        summaries = pool.map(lambda shard: read_summary(shard_path(folder, shard), run_id), found)
        return {shard: s for shard, s in zip(found, summaries, strict=True) if s is not None}
