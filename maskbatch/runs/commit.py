"""Prove that every planned image is there exactly once, write scores/, then `_SUCCESS`.

At-least-once work and this one exact commit make every image exactly once. File names come from
fixed ranges of shards, so a commit that was cut off and repeated writes the same names.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskbatch import schema
from maskbatch.clock import now
from maskbatch.errors import DONE, TOO_MANY_FAILED_IMAGES, RunFailedError
from maskbatch.plan.table import FILE_ROWS, GROUP_ROWS, part_path, read_plan
from maskbatch.progress import Step
from maskbatch.runs.carry import Carrier
from maskbatch.runs.directory import FORMAT_VERSION, RunDir
from maskbatch.runs.staging import read_staged, shard_path
from maskbatch.runs.work import Work
from maskbatch.stores.files import explain, num_threads, remove_tree, store_errors, write_json, write_whole

RANGE_ROWS = 262_144
"""Rows committed at a time, about 150 MB."""


def commit_run(
    run: RunDir,
    work: Work,
    devices: dict[str, int],
    timings: dict[str, float],
    began: float,
    max_error_rate: float,
    step: Step,
    carrier: Carrier | None = None,
) -> dict[str, Any]:
    """Commit a run whose every shard is staged; returns what `_SUCCESS` says.

    `timings` are seconds by phase; `whole` is added, counted from `began` of the monotonic clock.
    `carrier` has the rows that are carried over from earlier runs, where there are any.

    Raises RunFailedError when an image is missing, repeated or not the planned one: nothing is
    committed then, and nothing lost.
    """
    committed = run.read_success()
    if committed is not None:  # by another driver, while this one slept through its lease
        return committed
    remove_tree(run.scores)  # of a commit that was cut off
    statuses: Counter[str] = Counter()
    scores = []
    for ids, table in chain(_ranges(run, work), _carried(run, work, carrier)):
        statuses.update(_prove(run, ids, table))
        scores += _write_range(run, ids.start, table)
        step.advance(len(ids))
    files = [_describe(run.run_json.name, run.run_json.read_bytes(), None)]
    files += [_plan_file(run, first) for first in range(0, work.num_planned, FILE_ROWS)] + scores
    if sum(statuses.values()) != work.num_planned:
        _fail(run, f"{sum(statuses.values()):,} rows for {work.num_planned:,} planned images")
    failed = work.num_planned - statuses["ok"]
    success = {
        "format_version": FORMAT_VERSION,
        "planned": work.num_planned,
        "carried": work.num_carried,
        "statuses": {name: statuses[name] for name in schema.STATUSES if statuses[name]},
        "max_error_rate": max_error_rate,
        "committed_at": now().isoformat(),
        "exit_code": TOO_MANY_FAILED_IMAGES if failed > max_error_rate * work.num_planned else DONE,
        "devices": devices,
        "timings_s": {**timings, "whole": time.monotonic() - began},
        "files": files,
    }
    try:
        write_json(run.success, success, exclusive=True)
    except FileExistsError:
        if run.read_success() != success:  # else ours: a store may lose its answer, and be asked again
            _fail(run, "another driver committed it at the same moment; look at it with `maskbatch report`")
    return success


def _plan_file(run: RunDir, first: int) -> dict[str, Any]:
    """The description of one of the plan's files, from which presigned URLs are dropped: all is read now."""
    path = part_path(run.plan, first)
    data = path.read_bytes()
    plan = pq.ParquetFile(pa.BufferReader(data))
    column = schema.PLAN.get_field_index("fetch")
    groups = (plan.metadata.row_group(k).column(column) for k in range(plan.num_row_groups))
    if any(group.statistics.null_count < group.num_values for group in groups):
        table = plan.read()
        cleaned = table.set_column(column, "fetch", pa.nulls(len(table), pa.string()))
        with write_whole(path, durable=True) as partial:
            pq.write_table(cleaned, partial, compression="zstd", row_group_size=GROUP_ROWS)
            data = partial.read_bytes()
    return _describe(f"{run.plan.name}/{path.name}", data, plan.metadata.num_rows)


def _ranges(run: RunDir, work: Work) -> Iterator[tuple[range, pa.Table]]:
    """The staged rows in fixed ranges of shards, each sorted by (id, region), with the ids it must hold."""
    shards_each = max(1, RANGE_ROWS // work.shard_size)
    target = None
    with ThreadPoolExecutor(num_threads(run.staging)) as pool:
        for first in range(0, work.num_shards, shards_each):
            shards = range(first, min(first + shards_each, work.num_shards))
            try:
                tables = list(pool.map(read_staged, (shard_path(run.staging, shard) for shard in shards)))
            except (pa.ArrowInvalid, *store_errors()) as error:
                _drop_unreadable(shards, run)
                what = f"a staged shard does not read ({explain(error)})"
                raise RunFailedError(f"{run.staging}: {what}; run the same command again") from error
            target = target or tables[0].schema.remove_metadata()
            table = pa.concat_tables([part.cast(target) for part in tables])
            yield (
                range(work.ids(shards.start).start, work.ids(shards.stop - 1).stop),
                table.sort_by([("id", "ascending"), ("region", "ascending")]),
            )


def _carried(run: RunDir, work: Work, carrier: Carrier | None) -> Iterator[tuple[range, pa.Table]]:
    """The rows carried over, in ranges of ids, with the ids it must hold."""
    if carrier is None:
        return
    for start in range(work.num_images, work.num_planned, RANGE_ROWS):
        ids = range(start, min(start + RANGE_ROWS, work.num_planned))
        planned = read_plan(run.plan, ids.start, ids.stop)
        yield ids, carrier.rows(planned, work.clock, work.keep_column)


def _drop_unreadable(shards: range, run: RunDir) -> None:
    """Remove the staged shards whose bytes are damaged, so that the next call scores them again."""
    for shard in shards:
        path = shard_path(run.staging, shard)
        try:
            read_staged(path)
        except pa.ArrowInvalid:
            path.unlink(missing_ok=True)
        except store_errors():
            if isinstance(path, Path):  # a disk's error stays, a store's may pass
                path.unlink(missing_ok=True)


def _prove(run: RunDir, ids: range, table: pa.Table) -> Counter[str]:
    """Images by status, once it is sure that each id has exactly one whole-image row, of its planned uri."""
    whole_images = table.filter(pc.equal(table["region"], 0))
    found = whole_images["id"].to_numpy()
    expected = np.arange(ids.start, ids.stop)
    if not np.array_equal(found, expected):
        missing, foreign = len(np.setdiff1d(expected, found)), len(np.setdiff1d(found, expected))
        what = f"{len(found)} rows, {missing} ids missing, {foreign} foreign"
        _fail(run, f"ids {ids.start}..{ids.stop - 1}: {what}")
    if whole_images["uri"].to_pylist() != read_plan(run.plan, ids.start, ids.stop)["uri"].to_pylist():
        _fail(run, f"ids {ids.start}..{ids.stop - 1}: a row's uri is not the planned one")
    statuses = Counter(whole_images["status"].to_pylist())
    unknown = set(statuses) - set(schema.STATUSES)
    if unknown:
        _fail(run, f"unknown status {sorted(unknown)[0]!r}")
    return statuses


def _fail(run: RunDir, what: str) -> None:
    raise RunFailedError(f"{run.path} cannot be committed: {what}; --fresh starts the run again")


def _write_range(run: RunDir, first: int, table: pa.Table) -> list[dict[str, Any]]:
    """One file for each local day of the range: `scores/date=D/part-<first id of the range>.parquet`."""
    days = schema.local_days(table)
    files = []
    for day in sorted(days.unique().to_pylist()):
        name = f"date={day}/part-{first:012d}.parquet"
        rows = table.filter(pc.equal(days, day))
        with write_whole(run.scores / name, durable=True) as partial:
            pq.write_table(rows, partial, compression="zstd", row_group_size=GROUP_ROWS)
            files.append(_describe(f"{run.scores.name}/{name}", partial.read_bytes(), rows.num_rows))
    return files


def _describe(name: str, data: bytes, rows: int | None) -> dict[str, Any]:
    return {"name": name, "rows": rows, "num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
