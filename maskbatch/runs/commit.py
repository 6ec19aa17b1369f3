"""Prove that every planned image is there exactly once, write scores/, then `_SUCCESS`.

Workers may score a shard more than once; this one exact commit makes every image count once. File names
come from fixed ranges of shards, and their bytes from the staged rows alone: a commit that is cut off and
repeated writes the same files. `Lease.check` stands before each step that replaces or removes one.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskbatch import schema
from maskbatch.clock import now
from maskbatch.errors import DONE, TOO_MANY_FAILED_IMAGES, RunFailedError, RunLockedError
from maskbatch.plan.table import FILE_ROWS, GROUP_ROWS, part_path, read_plan
from maskbatch.progress import step
from maskbatch.runs.carry import Carrier
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease
from maskbatch.runs.reading import advise_reading, is_damaged
from maskbatch.runs.records import CommittedFile, Success
from maskbatch.runs.regions import find_wrong_regions
from maskbatch.runs.staging import is_of_run, read_staged, shard_path
from maskbatch.runs.work import Work
from maskbatch.stores.files import explain, num_threads, remove_files, store_errors, write_json, write_whole

RANGE_ROWS = 262_144
"""Rows committed at a time, about 150 MB."""
AHEAD_SHARDS = 256
"""Staged shards read at a time."""
SCENE_ROWS = 8
"""A picture and its faces, where there are many."""


@dataclass(kw_only=True, slots=True)
class Effort:
    """What it took to score a run, all calls together as far as staging tells."""

    began: float
    """When this call began, of the monotonic clock."""
    devices: Counter[str] = field(default_factory=Counter)
    """Shards by device/dtype."""
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds by phase of this call."""


def commit_run(
    work: Work, effort: Effort, max_error_rate: float, lease: Lease, carrier: Carrier | None = None
) -> Success:
    """Commit a run whose every shard is staged; `carrier` has the rows of earlier runs, if there are any.

    Raises RunFailedError, and commits nothing, when an image is missing, repeated or not the planned one, and
    RunLockedError when another driver took the run over.
    """
    run = work.run
    if committed := run.read_success():  # by another driver, while this one slept through its lease
        return committed
    statuses: Counter[str] = Counter()
    scores = []
    with step("commit", work.num_planned) as shown:
        for ids, table in chain(_read_ranges(run, work, lease), _read_carried(run, work, carrier)):
            statuses.update(_prove(run, ids, table))
            scores += _write_range(run, ids.start, table, lease)
            del table  # before the next one is read
            shown.advance(len(ids))
    files = [_describe(run.run_json.name, run.run_json.read_bytes(), None)]
    files += [_finish_plan(run, first, lease) for first in range(0, work.num_planned, FILE_ROWS)] + scores
    if statuses.total() != work.num_planned:
        _fail(run, f"{statuses.total():,} rows for {work.num_planned:,} planned images")
    listed = {file.name.removeprefix(f"{run.scores.name}/") for file in scores}
    remove_files(run.scores, lease.check, listed)  # of a commit with other rows that was cut off
    failed = work.num_planned - statuses["ok"]
    for earlier in carrier.runs if carrier else ():
        effort.devices.update(earlier.success.devices)
    settings = run.read_run()
    success = Success(
        planned=work.num_planned,
        carried=work.num_carried,
        statuses={name: statuses[name] for name in schema.STATUSES if statuses[name]},
        max_error_rate=max_error_rate,
        committed_at=now(),
        exit_code=TOO_MANY_FAILED_IMAGES if failed > max_error_rate * work.num_planned else DONE,
        devices=dict(effort.devices),
        timings_s={**effort.timings_s, "whole": time.monotonic() - effort.began},
        unreadable=settings.listing.unreadable if settings and settings.listing else 0,
        files=tuple(files),
    )
    try:
        write_json(run.success, success.to_json(), exclusive=True, check=lease.check)
    except (FileExistsError, RunLockedError):
        if run.read_success() != success:  # else ours: a store may lose its answer, and be asked again
            lease.check()
    return success


def _finish_plan(run: RunDir, first: int, lease: Lease) -> CommittedFile:
    """Describe one of the plan's files, after removing presigned URLs from it: all images are read now."""
    path = part_path(run.plan, first)
    data = path.read_bytes()
    plan = pq.ParquetFile(pa.BufferReader(data))
    column = schema.PLAN.get_field_index("fetch")
    groups = (plan.metadata.row_group(k).column(column) for k in range(plan.num_row_groups))
    if any(group.statistics.null_count < group.num_values for group in groups):
        table = plan.read()
        cleaned = table.set_column(column, "fetch", pa.nulls(len(table), pa.string()))
        with write_whole(path, durable=True, check=lease.check) as partial:
            pq.write_table(cleaned, partial, compression="zstd", row_group_size=GROUP_ROWS)
            data = partial.read_bytes()
    return _describe(f"{run.plan.name}/{path.name}", data, plan.metadata.num_rows)


def _read_ranges(run: RunDir, work: Work, lease: Lease) -> Iterator[tuple[range, pa.Table]]:
    """The staged rows in fixed ranges of shards, sorted by (id, region), with the ids each must hold."""
    shards_each = max(1, _range_images(work) // work.shard_size)
    with ThreadPoolExecutor(num_threads(run.staging)) as pool:
        for first in range(0, work.num_shards, shards_each):
            shards = range(first, min(first + shards_each, work.num_shards))
            batches = (shards[at : at + AHEAD_SHARDS] for at in range(0, len(shards), AHEAD_SHARDS))
            ids = range(work.ids(shards.start).start, work.ids(shards.stop - 1).stop)
            yield ids, _sort(_join([_read_shards(batch, work, lease, pool) for batch in batches]))


def _read_shards(shards: range, work: Work, lease: Lease, pool: ThreadPoolExecutor) -> pa.Table:
    """The rows of staged shards in one piece: a table of each takes 70 KB beside its rows."""
    run = work.run
    try:
        tables = list(pool.map(read_staged, (shard_path(run.staging, shard) for shard in shards)))
    except (pa.ArrowInvalid, *store_errors()) as error:
        lease.check()  # or else another driver committed, and removed them
        remedy = _drop_damaged(shards, run, lease)
        what = f"a staged shard does not read ({explain(error)})"
        raise RunFailedError(f"{run.staging}: {what}; {remedy}") from error
    if not all(is_of_run(table, work.run_id) for table in tables):
        what = "workers of another call, or of another maskbatch, staged some of these rows meanwhile"
        raise RunFailedError(f"{run.staging}: {what}; run the same command again")
    return _join(tables).combine_chunks()


def _sort(table: pa.Table) -> pa.Table:
    """By id and region; most often it is so, and a copy takes 150 MB."""
    place = table["id"].to_numpy() * 2**15 + table["region"].to_numpy()
    if (place[1:] > place[:-1]).all():
        return table
    return table.sort_by([("id", "ascending"), ("region", "ascending")])


def _join(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables in the types of the first: an older maskbatch may have staged some of them."""
    target = tables[0].schema.remove_metadata()
    return pa.concat_tables([part.cast(target) for part in tables])


def _range_images(work: Work) -> int:
    return RANGE_ROWS // (SCENE_ROWS if work.config.view == "scene" else 1)


def _read_carried(run: RunDir, work: Work, carrier: Carrier | None) -> Iterator[tuple[range, pa.Table]]:
    """The rows carried over, in ranges of ids."""
    if carrier is None:
        return
    each = _range_images(work)
    for start in range(work.num_images, work.num_planned, each):
        ids = range(start, min(start + each, work.num_planned))
        planned = read_plan(run.plan, ids.start, ids.stop)
        yield ids, carrier.read_rows(planned, work.clock, work.keep_column)


def _drop_damaged(shards: range, run: RunDir, lease: Lease) -> str:
    """Remove staged shards whose bytes are damaged, which the next call scores again; returns what to do.

    What this pyarrow cannot read stays.
    """
    remedy = "run the same command again"
    for path in (shard_path(run.staging, shard) for shard in shards):
        try:
            read_staged(path)
        except pa.ArrowInvalid as error:
            if is_damaged(path.read_bytes()):
                lease.check()
                path.unlink(missing_ok=True)
            else:
                advice = advise_reading(error, f"its bytes are sound for pyarrow {pa.__version__}: remove it")
                remedy = f"{advice} ({path.name}), then {remedy}"
        except store_errors():  # it is missing, or its store is away: it may come back
            continue
    return remedy


def _prove(run: RunDir, ids: range, table: pa.Table) -> Counter[str]:
    """Images by status. Raises RunFailedError unless each id has one whole-image row, of its planned uri."""
    whole_images = table.filter(pc.equal(table["region"], 0))
    found = whole_images["id"].to_numpy()
    expected = np.arange(ids.start, ids.stop)
    if not np.array_equal(found, expected):
        missing, foreign = len(np.setdiff1d(expected, found)), len(np.setdiff1d(found, expected))
        what = f"{len(found)} rows, {missing} ids missing, {foreign} foreign"
        _fail(run, f"ids {ids.start}..{ids.stop - 1}: {what}")
    wrong_ids = table["id"].filter(pa.array(find_wrong_regions(table)))
    if len(wrong_ids):
        _fail(run, f"id {wrong_ids[0]}: its regions are not those that its row counts")
    if not whole_images["uri"].equals(read_plan(run.plan, ids.start, ids.stop)["uri"]):
        _fail(run, f"ids {ids.start}..{ids.stop - 1}: a row's uri is not the planned one")
    statuses = Counter(
        {row["values"]: row["counts"] for row in whole_images["status"].value_counts().to_pylist()}
    )
    unknown = set(statuses) - set(schema.STATUSES)
    if unknown:
        _fail(run, f"unknown status {sorted(unknown)[0]!r}")
    return statuses


def _fail(run: RunDir, what: str) -> None:
    raise RunFailedError(f"{run.path} cannot be committed: {what}; --fresh starts the run again")


def _write_range(run: RunDir, first: int, table: pa.Table, lease: Lease) -> list[CommittedFile]:
    """One file for each local day of the range: `scores/date=D/part-<first id of the range>.parquet`.

    In one chunk, as pages end where chunks do: how the shards were written does not show.
    """
    days = schema.local_days(table)
    files = []
    for day in sorted(days.unique().to_pylist()):
        name = f"date={day}/part-{first:012d}.parquet"
        rows = table.filter(pc.equal(days, day)).combine_chunks()
        with write_whole(run.scores / name, durable=True, check=lease.check) as partial:
            pq.write_table(rows, partial, compression="zstd", row_group_size=GROUP_ROWS)
            files.append(_describe(f"{run.scores.name}/{name}", partial.read_bytes(), rows.num_rows))
    return files


def _describe(name: str, data: bytes, rows: int | None) -> CommittedFile:
    return CommittedFile(name, rows, len(data), hashlib.sha256(data).hexdigest())
