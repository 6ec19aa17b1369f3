"""A shard's rows as one file, `staging/<shard>.parquet`; a resumed run goes on from these."""

import json
import re
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskbatch.progress import quiet_step, step
from maskbatch.stores.files import Location, list_names, num_threads, open_file, parse_json, write_whole

SUMMARY_KEY = b"maskbatch"
NAME = re.compile(r"(\d{8,})\.parquet")
AT_WORK = "at-work-"
AHEAD = 4096
"""Footers that are read ahead: what waits takes memory."""


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
    with write_whole(folder / f"{AT_WORK}{shard:08d}-{uuid.uuid4().hex}") as partial:
        partial.touch()


def list_signs(folder: Location) -> set[str]:
    """What shows that work goes on: the names of shards and signs so far."""
    return set(list_names(folder))


def is_slow_sign(name: str) -> bool:
    """Whether it is one of `write_sign`."""
    return name.startswith(AT_WORK)


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


@dataclass(slots=True)
class Staged:
    """What is done of a run."""

    shards: set[int] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    """Their images."""
    devices: Counter[str] = field(default_factory=Counter)
    """Shards by device/dtype."""


def count_staged(folder: Location, run_id: str) -> Staged:
    """The shards that are done: those whose footer reads."""
    shards = sorted(int(match[1]) for match in map(NAME.fullmatch, list_names(folder)) if match)
    staged = Staged()
    if not shards:
        return staged
    reading = step if len(shards) > AHEAD else quiet_step
    with ThreadPoolExecutor(num_threads(folder)) as pool, reading("resume", len(shards), "shards") as shown:
        for start in range(0, len(shards), AHEAD):
            batch = shards[start : start + AHEAD]
            summaries = pool.map(lambda shard: read_summary(shard_path(folder, shard), run_id), batch)
            for shard, summary in zip(batch, summaries, strict=True):
                shown.advance()
                if summary is not None:
                    staged.shards.add(shard)
                    staged.statuses.update(summary[0])
                    staged.devices[summary[1]] += 1
    return staged
