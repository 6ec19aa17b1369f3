"""The plan's Parquet files. Workers read the rows of their shard by row group."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch import schema
from maskbatch.errors import RunFailedError
from maskbatch.plan.columns import Row
from maskbatch.progress import Step
from maskbatch.stores.files import Check, Location, explain, no_check, open_file, store_errors, write_whole

GROUP_ROWS = 16_384
"""Rows of a row group, which a worker reads at a time in a few milliseconds."""
FILE_ROWS = 64 * GROUP_ROWS
REMEDY = "restore it, or begin again with --fresh"


def part_path(folder: Location, first: int) -> Location:
    """The plan's file that begins with id `first`, a multiple of FILE_ROWS."""
    return folder / f"part-{first:012d}.parquet"


def write_plan(folder: Location, rows: Iterator[Row], step: Step, check: Check = no_check) -> None:
    """Write `rows` to `folder` as they come, in files of FILE_ROWS, named by first id."""
    batches = iter(lambda: list(islice(rows, GROUP_ROWS)), [])
    write_groups(folder, (pa.Table.from_pylist(batch, schema.PLAN) for batch in batches), step, check)


def write_groups(folder: Location, groups: Iterator[pa.Table], step: Step, check: Check = no_check) -> None:
    """As `write_plan`, from tables of GROUP_ROWS rows, the last one of fewer or as many."""
    first = 0
    for group in groups:
        with (
            write_whole(part_path(folder, first), check=check) as partial,
            pq.ParquetWriter(partial, schema.PLAN, compression="zstd") as writer,
        ):
            for part in chain([group], islice(groups, FILE_ROWS // GROUP_ROWS - 1)):
                writer.write_table(part, row_group_size=GROUP_ROWS)
                first += part.num_rows
                step.advance(part.num_rows)


def read_plan(folder: Location, start: int, stop: int) -> pa.Table:
    """The plan rows with start <= id < stop."""
    parts = []
    while start < stop:
        first = start // FILE_ROWS * FILE_ROWS
        group = (start - first) // GROUP_ROWS
        path = part_path(folder, first)
        try:
            table = _read_group(path, _version(path), group)
        except (pa.ArrowException, ValueError, LookupError, *store_errors()) as error:
            raise RunFailedError(f"{path} does not read ({explain(error)}); restore it") from error
        offset = start - first - group * GROUP_ROWS
        if offset >= table.num_rows:
            raise RunFailedError(f"{path}: the plan ends at id {start}, {stop - 1} expected; restore it")
        part = table.slice(offset, min(stop - start, table.num_rows - offset))
        parts.append(part)
        start += part.num_rows
    return pa.concat_tables(parts) if parts else schema.PLAN.empty_table()


@lru_cache(maxsize=2)
def _read_group(path: Location, version: str, group: int) -> pa.Table:
    """One row group; `version` keeps the cache from serving a deleted plan."""
    with open_file(path) as file:
        table = pq.ParquetFile(file, pre_buffer=True).read_row_group(group)
    if names := sorted({*schema.PLAN.names} - {*table.column_names}):
        raise ValueError(f"it lacks the columns {', '.join(names)} of a plan")
    return table.select(schema.PLAN.names).cast(schema.PLAN)


def check_plan(folder: Location, num_images: int) -> None:
    """Raises RunFailedError unless the plan's files have `num_images` rows and the columns of a plan."""
    for first in range(0, num_images, FILE_ROWS):
        path, expected = part_path(folder, first), min(FILE_ROWS, num_images - first)
        try:
            with open_file(path) as file:
                parquet = pq.ParquetFile(file)
                found, names = parquet.metadata.num_rows, parquet.schema_arrow.names
        except (pa.ArrowException, ValueError, *store_errors()) as error:
            raise RunFailedError(f"{path} does not read ({explain(error)}); {REMEDY}") from error
        if found != expected:
            raise RunFailedError(f"{path} has {found:,} rows, {expected:,} were planned; {REMEDY}")
        if not {*names} >= {*schema.PLAN.names}:
            raise RunFailedError(f"{path} lacks columns of a plan; {REMEDY}")


def _version(path: Location) -> str:
    return str(path.stat().st_mtime_ns) if isinstance(path, Path) else str(path.fs.ukey(path.path))
